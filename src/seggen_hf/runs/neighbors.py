"""Are synthetic samples copies? The real picture and the real map that lie nearest to each."""

from dataclasses import dataclass

import numpy as np
from datasets import Dataset, Image

from seggen_hf.pipelines import ColormapCodec

from ..data.likeness import NEAR, nearest, thumbnails
from ..data.schema import read_image, read_map
from ..pictures.report import PictureFolder
from ..pictures.segments import paint_record
from ..pictures.spacing import spread
from ..synthesis.plausibility import shrink_map
from .dropped import TITLES

MOST = 2000  # samples of a kind that are looked at
MOST_REAL = 5000  # real records that they are compared with, at even spacing: more would take minutes
MAP_SIDE = 32  # maps are compared at this size
SAME_MAP = 0.98  # share of equal pixels of a map that is as good as a copy
NUM_SHOWN = 3


@dataclass(frozen=True)
class Neighbors:
    """How far the samples of a kind lie from what the generators were trained on.

    Attributes:
        title: of the kind, and whether it is about images or maps; count: samples that were looked at.
        distance: median distance to the nearest real one; real_distance: the same between real ones. Of images a share
            of their contrast, of maps the share of pixels that differ.
        copies: samples that are as near as a copy.
        pairs: `(sample, real record, distance)` of the nearest, by their rows.
    """

    title: str
    count: int
    distance: float
    real_distance: float | None
    copies: int
    pairs: list[tuple[int, int, float]]


def find_neighbors(real: Dataset, made: Dataset) -> list[Neighbors]:
    """Of each kind: its images beside the real ones, and where maps are drawn, its maps beside the real ones.

    Args:
        real: the records that the generators were trained on; made: synthetic ones (`load_synthetic`).
    """
    found, kinds = [], made["kind"][:]
    chosen = spread(len(real), MOST_REAL)
    real = real.select(chosen)
    small_real = thumbnails(_undecoded(real))
    real_maps = _small_maps(real, range(len(real)))
    among_real = nearest(small_real, small_real, others_only=True)[1]
    for kind, title in TITLES.items():
        rows = [index for index, name in enumerate(kinds) if name == kind]
        rows = [rows[place] for place in spread(len(rows), MOST)] if rows else []
        if not rows:
            continue
        places, distances = nearest(small_real, thumbnails(_undecoded(made.select(rows))))
        places = np.take(chosen, places)
        found.append(_describe(f"{title}: images", rows, places, distances, among_real, NEAR))
        if kind == "masksyn":
            places, distances = _nearest_maps(real_maps, _small_maps(made, rows))
            between = _nearest_maps(real_maps, real_maps, others_only=True)[1]
            places = np.take(chosen, places)
            found.append(_describe(f"{title}: maps", rows, places, distances, between, 1 - SAME_MAP))
    return found


def show_neighbors(
    found: list[Neighbors], real: Dataset, made: Dataset, codec: ColormapCodec, pictures: PictureFolder
) -> list[dict]:
    """What the report says of them, with the nearest pairs as pictures."""
    shown = []
    for number, entry in enumerate(found):
        pairs = []
        for place, (sample, record, distance) in enumerate(entry.pairs):
            views = [_view(row, entry, codec, made.column_names) for row in (made[sample], real[record])]
            name = f"nearest-{number}-{place}"
            painted = [
                pictures.add(f"{name}-{part}", view, part) for part, view in zip(("made", "real"), views, strict=True)
            ]
            pairs.append({"distance": distance, "pictures": painted})
        shown.append({"entry": entry, "pairs": pairs})
    return shown


def _view(row: dict, entry: Neighbors, codec: ColormapCodec, columns: list[str]) -> np.ndarray:
    if entry.title.endswith("images"):
        return read_image(row["image"])
    # Both as the samples are: real records may have segments where those have none.
    return paint_record({name: row[name] for name in columns if name in row}, codec)


def _describe(title, rows, places, distances, among_real, limit) -> Neighbors:
    order = np.argsort(distances)[:NUM_SHOWN]
    pairs = [(rows[i], int(places[i]), float(distances[i])) for i in order if np.isfinite(distances[i])]
    known, between = distances[np.isfinite(distances)], among_real[np.isfinite(among_real)]
    return Neighbors(
        title=title,
        count=len(rows),
        distance=float(np.median(known)) if len(known) else float("nan"),
        real_distance=float(np.median(between)) if len(between) else None,
        copies=int((distances < limit).sum()),
        pairs=pairs,
    )


def _undecoded(rows: Dataset) -> Dataset:
    return rows.select_columns("image").cast_column("image", Image(decode=False))


def _small_maps(rows: Dataset, indices) -> np.ndarray:
    """Label ids int32 `(N, MAP_SIDE * MAP_SIDE)`, of the pixels at even spacing."""
    maps = rows.select_columns("segmentation_map")
    return np.stack([shrink_map(read_map(maps[index]["segmentation_map"]), MAP_SIDE) for index in indices])


def _nearest_maps(first: np.ndarray, second: np.ndarray, others_only: bool = False) -> tuple[np.ndarray, np.ndarray]:
    places, distances = np.zeros(len(second), np.int64), np.full(len(second), np.inf)
    for row, ids in enumerate(second):
        differ = (first != ids).mean(1)
        if others_only:
            differ[row] = np.inf
        places[row] = differ.argmin()
        distances[row] = differ[places[row]]
    return places, distances
