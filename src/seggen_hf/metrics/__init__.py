"""Streaming segmentation metrics: `update` image by image, `merge` over processes, `compute` when asked."""

from .boundary_iou import BoundaryIoU
from .mean_iou import MeanIoU
from .panoptic_quality import PanopticQuality

__all__ = ["BoundaryIoU", "MeanIoU", "PanopticQuality"]
