"""Whether a generated map says what its caption names, and what real maps say: labels, sizes, places, shapes."""

import functools
import re

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from ..config import SynthesisConfig
from ..data.captions import MIN_SHARE, simple_name
from ..data.schema import read_map, read_panoptic
from ..labels import LabelSet
from ..pictures.spacing import spread
from ..segments import measure_shapes

MAPS_READ = 2000  # of the real ones, at even spacing: more would tell hardly more, and take minutes
AREA_SLACK = 2.0  # a label may be half as large as in any real map that shows it, or twice
PLACE_SLACK = 0.1  # of the height
SIDE = 32  # of the maps that are compared pixel by pixel
RARE_SHAPES = 0.025  # of the real things on either side, which say nothing: errors of annotators
MIN_SEGMENT = 8  # pixels; a smaller one has no shape
MIN_THINGS = 20  # whole real ones of a label, at least: fewer do not say how its things look


def is_wanted(config: SynthesisConfig) -> bool:
    """Whether any setting asks for these scores: they need a look at all real maps."""
    return config.min_caption_agreement > 0 or config.min_plausibility > 0 or config.max_map_agreement < 1


class RealMaps:
    """What real maps say, to hold generated ones against.

    Args:
        records: with `segmentation_map`; of more than MAPS_READ those at even spacing are read.
        has_segments: read `panoptic_map` and `segments_info` too.
    """

    def __init__(self, records: Dataset, labels: LabelSet, has_segments: bool = False):
        self.labels = labels
        maps = records.select_columns(
            ["segmentation_map", *(["panoptic_map", "segments_info"] if has_segments else [])]
        )
        shapes: dict[int, list[tuple[float, float]]] = {}
        areas: dict[int, list[float]] = {}
        places: dict[int, list[float]] = {}
        self.touching: set[tuple[int, int]] = set()
        small = []
        for index in tqdm(spread(len(maps), MAPS_READ), "Real maps", unit="map", delay=2):
            row = maps[int(index)]
            segmentation_map = read_map(row["segmentation_map"])
            if has_segments:
                for label, shape in thing_shapes(read_panoptic(row["panoptic_map"]), row["segments_info"]):
                    shapes.setdefault(label, []).append(shape)
            for label, (area, place) in measure_labels(segmentation_map, labels.num_labels).items():
                areas.setdefault(label, []).append(area)
                places.setdefault(label, []).append(place)
            self.touching |= touching_labels(segmentation_map, labels.num_labels)
            small.append(shrink_map(segmentation_map))
        self.areas = {label: (min(found) / AREA_SLACK, max(found) * AREA_SLACK) for label, found in areas.items()}
        self.places = {label: (min(found) - PLACE_SLACK, max(found) + PLACE_SLACK) for label, found in places.items()}
        self.shapes = {label: _shape_limits(found) for label, found in shapes.items() if len(found) >= MIN_THINGS}
        self.small = np.stack(small)

    def scores(
        self, segmentation_map: np.ndarray, caption: str, segments: tuple[np.ndarray, list[dict]] | None = None
    ) -> dict[str, float]:
        """`caption_agreement`, `plausibility` and `map_agreement` of a generated map, in [0, 1].

        Agreement with the caption is the share of the labels it names that are drawn, 1 if it names none. Plausible is
        the share of what can be said of the map that real maps say too: of each label that its area and its height in
        the image are not far from those of any real map, of each two that touch that they do so in a real map, of each
        whole thing that its area and its compactness are not far from those of real ones of its label, if there are
        enough. The agreement with maps is the largest share of equal pixels with any of them: 1 is a copy.

        Args:
            segmentation_map: (H, W) label ids.
            segments: the panoptic map (H, W) and its segments, where there are things.
        """
        drawn = measure_labels(segmentation_map, self.labels.num_labels)
        said = []
        for label, (area, place) in drawn.items():
            known = label in self.areas
            said.append(known and _within(area, self.areas[label]))
            said.append(known and _within(place, self.places[label]))
        said += [pair in self.touching for pair in touching_labels(segmentation_map, self.labels.num_labels)]
        for label, shape in thing_shapes(*segments) if segments else ():
            said += [_within(*pair) for pair in zip(shape, self.shapes.get(label, ()), strict=False)]
        named = named_labels(caption, self.labels)
        equal = (self.small == shrink_map(segmentation_map)).mean(1)
        return {
            "caption_agreement": len(named & drawn.keys()) / len(named) if named else 1.0,
            "plausibility": float(np.mean(said)) if said else 0.0,
            "map_agreement": float(equal.max()),
        }


def _shape_limits(shapes: list[tuple[float, float]]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Lowest and highest area and compactness of things. Generators learn windows of the maps, where areas differ."""
    low = np.quantile(shapes, RARE_SHAPES, axis=0, method="lower")
    high = np.quantile(shapes, 1 - RARE_SHAPES, axis=0, method="higher")
    return (low[0] / AREA_SLACK, high[0] * AREA_SLACK), (low[1], high[1])


def drop_implausible(scores: dict[str, float], config: SynthesisConfig) -> str | None:
    """Reason to drop a generated map with `RealMaps.scores`, or None."""
    if scores["caption_agreement"] < config.min_caption_agreement:
        return "not_as_named"
    if scores["plausibility"] < config.min_plausibility:
        return "implausible"
    if scores["map_agreement"] > config.max_map_agreement:
        return "copied_map"
    return None


def thing_shapes(panoptic_map: np.ndarray, segments: list[dict]) -> list[tuple[int, tuple[float, float]]]:
    """Label and `(share of the pixels, compactness)` of each thing that is whole and large enough to have a shape."""
    things = {s["id"]: s["category_id"] for s in segments if s["isthing"] and not s.get("iscrowd", False)}
    return [
        (things[segment], (area / panoptic_map.size, compactness))
        for segment, (area, compactness) in measure_shapes(panoptic_map, segments).items()
        if segment in things and area >= MIN_SEGMENT
    ]


def measure_labels(segmentation_map: np.ndarray, num_labels: int) -> dict[int, tuple[float, float]]:
    """Of each label with MIN_SHARE of the pixels or more: the share, and the mean height, 0 at the top, 1 below."""
    rows = np.arange(segmentation_map.shape[0]).repeat(segmentation_map.shape[1])
    counts = np.bincount(segmentation_map.ravel(), minlength=num_labels)[:num_labels]
    heights = np.bincount(segmentation_map.ravel(), rows, minlength=num_labels)[:num_labels]
    shares = counts / segmentation_map.size
    return {
        int(label): (float(shares[label]), float((heights[label] / counts[label] + 0.5) / segmentation_map.shape[0]))
        for label in np.flatnonzero((counts > 0) & (shares >= MIN_SHARE))
    }


def touching_labels(segmentation_map: np.ndarray, num_labels: int) -> set[tuple[int, int]]:
    """Pairs of labels, the lower id first, with pixels side by side or one upon the other; void touches nothing."""
    ids, pairs = segmentation_map.astype(np.int64), set()
    for one, other in ((ids[:, :-1], ids[:, 1:]), (ids[:-1], ids[1:])):
        border = (one != other) & (one < num_labels) & (other < num_labels)
        low, high = np.minimum(one, other)[border], np.maximum(one, other)[border]
        pairs |= {divmod(int(code), num_labels) for code in np.unique(low * num_labels + high)}
    return pairs


def shrink_map(segmentation_map: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Label ids int32 `(side * side,)`, of the pixels at even spacing."""
    grid = [(np.arange(side) * length + length // 2) // side for length in segmentation_map.shape]
    return segmentation_map[np.ix_(*grid)].ravel().astype(np.int32)


def named_labels(caption: str, labels: LabelSet) -> set[int]:
    """Labels whose name stands in the caption as a word of its own, in the singular or a regular plural."""
    return {label for label, pattern in _patterns(tuple(labels.id2label.items())) if pattern.search(caption.lower())}


@functools.lru_cache(maxsize=8)
def _patterns(names: tuple[tuple[int, str], ...]) -> list[tuple[int, re.Pattern]]:
    return [(label, re.compile(rf"\b{re.escape(simple_name(name))}(s|es)?\b")) for label, name in names]


def _within(value: float, limits: tuple[float, float]) -> bool:
    return bool(limits[0] <= value <= limits[1])
