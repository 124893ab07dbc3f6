"""The three tasks, and the scores that are shown of each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One task.

    Args:
        metric, metric_name: key of the score that verdicts and tables are about, and what people call it.
        more: keys of the further scores that tables show.
        hub_metric_type: the metric's type in a model card's results.
    """

    name: str
    metric: str
    metric_name: str
    more: tuple[str, ...]
    hub_metric_type: str


_PANOPTIC = ("SQ", "RQ", "PQ_things", "PQ_stuff", "AP", "AP50", "mIoU")
_INSTANCE = ("AP50", "AP75", "AP_small", "AP_medium", "AP_large", "boundary_AP")
TASKS = {
    task.name: task
    for task in (
        Task("semantic", "mIoU", "mIoU", ("pixel_accuracy",), "mean_iou"),
        Task("panoptic", "PQ", "PQ", _PANOPTIC, "pq"),
        Task("instance", "AP", "mask AP", _INSTANCE, "mask_ap"),
    )
}
