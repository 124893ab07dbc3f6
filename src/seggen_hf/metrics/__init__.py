"""Streaming segmentation metrics: `update` image by image, `merge` over processes, `compute` when asked."""

from .boundary_iou import BoundaryIoU
from .mask_ap import MaskAP, instances_of
from .mean_iou import MeanIoU
from .panoptic_quality import PanopticQuality

__all__ = ["BoundaryIoU", "MaskAP", "MeanIoU", "PanopticQuality", "instances_of"]
