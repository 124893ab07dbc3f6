"""A map on the page: label ids, or segments; what a click does to it, and how it is painted and told of."""

import html
from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy import ndimage

from seggen_hf.pipelines import ColormapCodec

from ..metrics import PanopticQuality
from ..pictures.segments import paint_segments
from ..segments import label_map, measure_segments


@dataclass(frozen=True, eq=False)
class Drawing:
    """
    Args:
        ids: `(H, W)` integers: label ids, or of a panoptic map segment ids with 0 for void.
        codec: of the labels.
        categories: the label of each segment id; None for label ids.
    """

    ids: np.ndarray
    codec: ColormapCodec
    categories: dict[int, int] | None = None

    @property
    def labels(self) -> np.ndarray:
        """`(H, W)` label ids, `ignore_index` for void."""
        segments = self.segments
        return self.ids if segments is None else label_map(self.ids, segments, self.codec.ignore_index)

    @property
    def segments(self) -> list[dict] | None:
        """segments_info of a panoptic map, measured; None for label ids."""
        if self.categories is None:
            return None
        things = self.codec.things
        found = [{"id": i, "category_id": label, "isthing": label in things} for i, label in self.categories.items()]
        return measure_segments(self.ids, found)

    def region(self, row: int, column: int) -> np.ndarray:
        """Bool `(H, W)`: the connected region of one id around a pixel. Pixels that touch by a side are connected, as
        in `ColormapCodec.decode`."""
        regions, _ = cast(tuple[np.ndarray, int], ndimage.label(self.ids == self.ids[row, column]))
        return regions == regions[row, column]

    def disc(self, row: int, column: int, radius: float) -> np.ndarray:
        """Bool `(H, W)`: a disc around a pixel; `radius` in pixels of the map, 0 for the one pixel."""
        rows, columns = np.ogrid[: self.ids.shape[0], : self.ids.shape[1]]
        return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2

    def repaint(self, where: np.ndarray, label: int) -> "Drawing":
        """This drawing with `label` at `where`, bool `(H, W)`; itself if nothing changes.

        Of segments, a thing becomes a new instance, and stuff is added to the segment of its class.
        """
        if self.categories is None:
            painted = np.where(where, label, self.ids).astype(self.ids.dtype)
            return self if (painted == self.ids).all() else Drawing(painted, self.codec)
        inside = set(np.unique(self.ids[where]).tolist())
        if label == self.codec.ignore_index:
            new = 0
        elif label in self.codec.things:
            (same,) = inside if len(inside) == 1 else (0,)
            if self.categories.get(same) == label and ((self.ids == same) == where).all():
                return self  # the whole instance, which is of that label already
            new = max(self.categories, default=0) + 1
        else:
            new = next((i for i, other in self.categories.items() if other == label), 0)
            new = new or max(self.categories, default=0) + 1
        painted = np.where(where, new, self.ids).astype(np.int32)
        if (painted == self.ids).all():
            return self
        categories = self.categories | ({new: label} if new else {})
        present = set(np.unique(painted).tolist())
        return Drawing(painted, self.codec, {i: label for i, label in categories.items() if i in present})

    def paint(self) -> np.ndarray:
        """uint8 `(H, W, 3)`: labels in their colors, instances in shades of them with outlines."""
        segments = self.segments
        if segments is None:
            return self.codec.encode(self.ids)
        return paint_segments(self.ids, segments, self.codec)

    def legend(self) -> str:
        """HTML: color, name and share of each label, the largest first, and of things how many there are. Names are
        escaped."""
        labels = self.labels
        ids, counts = np.unique(labels, return_counts=True)
        lines = []
        for label, count in sorted(zip(ids.tolist(), counts.tolist(), strict=True), key=lambda pair: -pair[1]):
            color = "#{:02x}{:02x}{:02x}".format(*self.codec.encode(np.array([[label]]))[0, 0])
            name = html.escape(self.codec.id2label.get(label, "void"))
            if self.categories is not None and label in self.codec.things:
                name = f"{list(self.categories.values()).count(label)} × {name}"
            swatch = f'<span class="seggen-swatch" style="background:{color}"></span>'
            share = count / labels.size
            percentage = f"{share:.0%}" if share >= 0.01 else "&lt;1%"
            lines.append(f"<li>{swatch}{name} <small>{percentage}</small></li>")
        return f'<ul class="seggen-legend">{"".join(lines)}</ul>'

    def agreement(self, answer: "Drawing") -> str:
        """A sentence on how far a segmenter's answer agrees: instances found where there are things, else pixels."""
        codec = self.codec
        if self.categories is not None and any(label in codec.things for label in self.categories.values()):
            categories = [{"id": i, "name": n, "isthing": i in codec.things} for i, n in codec.id2label.items()]
            quality = PanopticQuality(categories)
            quality.update((answer.ids, answer.segments), (self.ids, self.segments))
            scores = quality.compute()
            counts = [scores["per_category"][label] for label in codec.things]
            found, missed, false = (sum(count[name] for count in counts) for name in ("tp", "fn", "fp"))
            pq = f"PQ of things {100 * scores['things']['pq']:.0f}"
            return f"It finds {found} of {found + missed} instances, and {false} that are not in the map ({pq})."
        labels = self.labels
        known = labels != codec.ignore_index
        if not known.any():
            return ""
        return f"It agrees with the map on {(answer.labels == labels)[known].mean():.0%} of the pixels."
