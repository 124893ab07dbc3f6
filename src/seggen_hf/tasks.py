"""The tasks that a segmenter can be trained for, and the scores by which each is judged and published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One task.

    `metric` is the key of its headline score, which the verdict is about; `metric_name` is what sentences and headings
    call it. `more` are keys of further scores that tables show; `hub_metric_type` is the headline's name on the Hub.
    """

    name: str
    metric: str
    metric_name: str
    more: tuple[str, ...]
    hub_metric_type: str

    @property
    def class_metric_name(self) -> str:
        """What a heading calls the headline score of one class: mIoU is a mean of IoUs, PQ and AP keep their names."""
        return "IoU" if self.metric == "mIoU" else self.metric_name[0].upper() + self.metric_name[1:]

    @property
    def more_titles(self) -> dict[str, str]:
        """`{key: heading}` of the further scores."""
        return {key: key.replace("_", " ") for key in self.more}


TASKS = {
    task.name: task
    for task in (
        Task("semantic", "mIoU", "mIoU", ("pixel_accuracy",), "mean_iou"),
        Task("panoptic", "PQ", "PQ", ("SQ", "RQ", "PQ_things", "PQ_stuff", "AP", "AP50", "mIoU"), "pq"),
        Task(
            "instance",
            "AP",
            "mask AP",
            ("AP50", "AP75", "AP_small", "AP_medium", "AP_large", "boundary_AP"),
            "mask_ap",
        ),
    )
}


def task_of(rows: Sequence[Mapping]) -> Task:
    """The task of rows of results.json, which all have the same one; semantic where they name none."""
    return TASKS[rows[0].get("task", "semantic") if rows else "semantic"]
