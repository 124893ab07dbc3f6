"""A trained segmenter that says how sure the map of a synthetic image is: soft labels instead of hard ones."""

import torch
from torch import nn

from seggen_hf.labels import LabelSet

from ..config import SegmenterConfig
from ..networks.modules import move
from ..segmenter.build import load_segmenter
from ..segmenter.loss import sample_logits
from ..storage.content_digests import weights_digest


class Teacher:
    """Softens the labels of synthetic samples: `share` of each pixel's label is what the teacher sees there.

    A drawn image does not always show what its map says; SENSE and SRA-Seg let a teacher have its say instead of the
    map alone. The teacher sees the augmented crop, as the segmenter does. Semantic maps only: a thing has no
    counterpart among the teacher's queries.

    Args:
        model: a trained segmenter with the labels of the records; is frozen.
        processor: must normalize images as the student's `student_processor` does.
        share: of the label that is the teacher's, in (0, 1].
    """

    def __init__(self, model: nn.Module, processor, student_processor, share: float):
        for name in ("image_mean", "image_std"):
            own, wanted = list(getattr(processor, name)), list(getattr(student_processor, name))
            if own != wanted:
                raise ValueError(
                    f"--teacher normalizes images otherwise than --model: {name} {own} and {wanted}; train it anew."
                )
        self.model, self.share = model.eval().requires_grad_(False), share
        self.dtype = torch.float32

    @classmethod
    def from_config(cls, config: SegmenterConfig, labels: LabelSet, processor, task: str) -> "Teacher | None":
        """The one that `config` names, if it softens labels.

        Raises: `ValueError` without a teacher, for another task than semantic, and for other labels.
        """
        if config.soft_labels == 0:
            return None
        if task != "semantic":
            raise ValueError(f"--soft_labels {config.soft_labels} is for task semantic, and this one is {task}.")
        if not config.teacher:
            raise ValueError(
                f"--soft_labels {config.soft_labels} needs --teacher: a segmenter trained on real records."
            )
        return cls(*load_segmenter(config.teacher, labels), processor, config.soft_labels)

    def digest(self) -> str:
        return weights_digest({"teacher": self.model})

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Weights stay in float32; `dtype` is that of its computations, as of the student's."""
        move(self.model, device)
        self.dtype = dtype

    @torch.no_grad()
    def soften(self, batch: dict) -> torch.Tensor:
        """The `labels` of a batch's targets, float32 `(batch, num_masks, points)`: soft where a sample is synthetic.

        Args:
            batch: of `SegmenterTask.collate`.
        """
        targets = batch["targets"]
        labels = targets["labels"].float()
        chosen = batch["is_synthetic"].nonzero()[:, 0]
        if len(chosen) == 0:
            return labels
        with torch.autocast(chosen.device.type, self.dtype, enabled=self.dtype != torch.float32):
            output = self.model(pixel_values=batch["pixel_values"][chosen])
        weights = output.class_queries_logits.float().softmax(-1)[..., :-1]
        scores = torch.einsum("bqc,bqhw->bchw", weights, output.masks_queries_logits.float().sigmoid())
        scores = scores / scores.sum(1, keepdim=True).clamp(min=1e-6)
        seen = sample_logits(scores, targets["centers"][chosen])  # (chosen, labels, points)
        wanted = targets["class_labels"][chosen][..., None].expand(-1, -1, seen.shape[2])
        softened = (1 - self.share) * labels[chosen] + self.share * seen.gather(1, wanted)
        return labels.index_copy(0, chosen, softened)
