"""What is wrong with images without masks, of which a run is to learn a domain's look."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from datasets import Image

from ..config import DataConfig
from .likeness import digest_image
from .schema import open_image
from .sources.checks import UNREADABLE
from .sources.unlabelled import broken_images, load_unlabelled


@dataclass
class UnlabelledReport:
    """Images without masks, counted.

    Attributes:
        name: as it was given; num_images, num_captions: how many there are, and of them with a caption.
        sizes: (height, width) -> images.
        broken: a line `FILE: reason` for each image that cannot be read.
        duplicates: ids of images whose files are equal byte for byte.
        shared: `{split: [(id there, id here)]}`, images of the labelled splits that are among them.
    """

    name: str
    num_images: int
    num_captions: int
    sizes: Counter
    broken: list[str]
    duplicates: list[list[str]]
    shared: dict[str, list[tuple[str, str]]]

    @property
    def problems(self) -> list[str]:
        return [f"unlabelled: {line}" for line in self.broken]

    @property
    def warnings(self) -> list[str]:
        found = [f"unlabelled: the same image: {', '.join(ids)}" for ids in self.duplicates]
        for split, pairs in self.shared.items():
            (there, here), count = pairs[0], len(pairs)
            found.append(
                f"unlabelled: {count} of them {'is' if count == 1 else 'are'} in {split} too, first {here} ({there}); "
                "where that is a test split, a run leaves them out"
            )
        return found

    def to_dict(self) -> dict:
        return {
            "name": self.name,
            "images": self.num_images,
            "captions": self.num_captions,
            "sizes": {f"{height}x{width}": count for (height, width), count in self.sizes.most_common()},
            "broken": self.broken,
            "duplicates": self.duplicates,
            "shared": {split: len(pairs) for split, pairs in self.shared.items()},
        }

    def to_lines(self) -> list[str]:
        sizes = ", ".join(f"{count} of {h} x {w}" for (h, w), count in self.sizes.most_common(3))
        more = f", {len(self.sizes) - 3} further sizes" if len(self.sizes) > 3 else ""
        counts = f"{self.num_images} images, {len(self.broken)} broken, {self.num_captions} with captions"
        return ["", f"unlabelled ({self.name}): {counts}", f"  height x width: {sizes or 'none'}{more}"]


def examine_unlabelled(data: DataConfig, digests: Mapping[str, Mapping[str, str]]) -> UnlabelledReport:
    """Read every image that `data.unlabelled` names.

    Args:
        digests: `{split: {image id: digest_image}}` of the labelled splits.
    Raises: `ValueError` for a name that is nothing known, and where there are no images.
    """
    rows = load_unlabelled(data, check=False).cast_column("image", Image(decode=False))

    def look(index: int) -> tuple[str, tuple[int, int] | None]:
        value = rows[index]["image"]
        try:
            with open_image(value) as image:
                return digest_image(value), (image.height, image.width)
        except UNREADABLE:
            return digest_image(value), None

    with ThreadPoolExecutor(max_workers=4) as pool:
        looks = list(pool.map(look, range(len(rows))))
    groups = defaultdict(list)
    for name, (found, _) in zip(rows["image_id"][:], looks, strict=True):
        if found:
            groups[found].append(name)
    shared = {
        split: [(there, groups[found][0]) for there, found in of_split.items() if found in groups]
        for split, of_split in digests.items()
    }
    return UnlabelledReport(
        name=str(data.unlabelled),
        num_images=len(rows),
        num_captions=sum(bool(caption) for caption in rows["caption"][:]),
        sizes=Counter(size for _, size in looks if size),
        broken=broken_images(rows),
        duplicates=[ids for ids in groups.values() if len(ids) > 1],
        shared={split: pairs for split, pairs in shared.items() if pairs},
    )
