"""Images between a real record and one that was drawn for its map: both show the same things at the same places."""

import numpy as np
from datasets import Dataset

from .mixture import DecodedRecords
from .sources.streamed import StreamedRecords
from .transforms import cover_crop, place_of


class RealPartners:
    """The real images of ImgSyn's maps, to be mixed with the drawn ones (MCPMix, arXiv:2511.03219).

    Args:
        real: decoded real records, whose `image_id` the synthetic ones have as `source_id`.
        synthetic: with `kind`, `source_id` and `seed`; those of other kinds than `imgsyn` have no partner.
        share: of the samples with a partner that are mixed, in [0, 1].
    Raises: `ValueError` for samples that are streamed, and if no synthetic record has a partner.
    """

    def __init__(self, real: DecodedRecords, synthetic: Dataset | StreamedRecords, share: float):
        if isinstance(synthetic, StreamedRecords):
            raise ValueError(
                "segmenter.pixel_mixing asks whose map a sample has; drop --streaming, which leaves it out."
            )
        missing = [name for name in ("kind", "source_id", "seed") if name not in synthetic.column_names]
        places = {} if missing or not len(real) else {name: i for i, name in enumerate(real.records["image_id"][:])}
        self.real, self.share = real, share
        self.partners: dict[int, tuple[int, int]] = {}  # index of a synthetic record -> that of its real one, and seed
        if places:
            columns = zip(*(synthetic[name][:] for name in ("kind", "source_id", "seed")), strict=True)
            self.partners = {
                index: (places[source], seed)
                for index, (kind, source, seed) in enumerate(columns)
                if kind == "imgsyn" and source in places
            }
        if not self.partners:
            raise ValueError(
                "segmenter.pixel_mixing needs ImgSyn's samples beside the real records whose maps they were drawn for."
            )

    def mix(self, index: int, record: tuple, rng: np.random.Generator, most: float) -> tuple:
        """The synthetic record, in its share of the samples with an image s * drawn + (1 - s) * real.

        s is uniform in [0, `most`]; the map stays. Without a partner nothing is drawn from `rng`.

        Args:
            record: image (uint8, `(height, width, 3)`), map, and what belongs to it, decoded.
            most: in [0, 1]; smaller as the training goes on, which so ends on real images.
        """
        if index not in self.partners or rng.random() >= self.share:
            return record
        partner, seed = self.partners[index]
        image, target_map, *rest = record
        real_image, real_map, *_ = self.real[partner]
        real_image, *_ = cover_crop(real_image, real_map, image.shape[:2], place=place_of(seed))
        strength = most * rng.random()
        mixed = strength * image.astype(np.float32) + (1 - strength) * real_image
        return (mixed.round().astype(np.uint8), target_map, *rest)
