"""The segmenter as a task of the training loop: which record comes next, how it is augmented, and its loss."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from seggen_hf.pipelines import ColormapCodec

from ..config import SegmenterConfig, save_config
from ..data.copy_paste import paste_labels, paste_segments
from ..data.hardness import hardness_weights
from ..data.mixture import DecodedRecords, RecordMixture
from ..data.pixel_mixing import RealPartners
from ..data.schema import check_columns, labels_of, read_image, read_map, read_panoptic
from ..data.sources.streamed import StreamedRecords
from ..data.transforms import color_jitter, flip_pair, large_scale_jitter, style_augment
from ..labels import LabelSet, differing_labels
from ..pictures.grid import lay_out
from ..pictures.segments import paint_segments
from ..pictures.spacing import spread
from ..segmenter.build import build_segmenter
from ..segmenter.eomt import fixed_side, mask_probabilities
from ..segmenter.evaluation import evaluate_segmenter
from ..segmenter.inference import normalize, predict_panoptic, predict_semantic, without_windows
from ..segmenter.layers import adapt_layers, enable_checkpointing
from ..segmenter.loss import (
    LossSettings,
    PointTargets,
    SegmentationTargets,
    draw_points,
    panoptic_targets,
    segmentation_loss,
    semantic_targets,
)
from ..storage.content_digests import records_digest
from ..storage.digests import digest_of
from ..storage.files import save_image, write_folder
from ..tasks import TASKS
from .segmenter_weights import freeze_unused, parameter_groups, seed_drop_path
from .teacher import Teacher


class SegmenterTask:
    """Segmentation with queries (Mask2Former, EoMT) on real records, synthetic records, or a mixture.

    Args:
        model, processor: from `build_segmenter`.
        records: labelled records (`StreamedRecords` too), `image` and `segmentation_map`, or `panoptic_map` and
            `segments_info` for other tasks; None trains on synthetic ones alone.
        synthetic_records: the same columns and labels.
        validation_records: scored at each validation, whole images; none of the test splits.
        task: `semantic`: a mask is a label; `panoptic`: a segment; `instance`: a segment of a thing.
    """

    def __init__(
        self,
        model,
        processor,
        config: SegmenterConfig,
        labels: LabelSet,
        records,
        synthetic_records=None,
        validation_records=None,
        task: str = "semantic",
    ):
        for name, found in (("records", records), ("synthetic records", synthetic_records)):
            check_columns(name, found, task)
        if synthetic_records is not None and len(synthetic_records):
            if differences := differing_labels(labels_of(synthetic_records), labels):
                raise ValueError(
                    f"--synthetic_dataset {config.synthetic_dataset} has other labels than the real records: "
                    f"{differences}; synthesize from the same data set."
                )
        self.trainable, self.processor, self.config, self.labels = model, processor, config, labels
        self.task, self.fill = task, labels.ignore_index if task == "semantic" else 0
        self.real, self.synthetic = (
            DecodedRecords(found if found is not None else [], labels.ignore_index, panoptic=task != "semantic")
            for found in (records, synthetic_records)
        )
        self.validation_records = validation_records
        windows = [getattr(part.records, "windows", list)() for part in (self.real, self.synthetic)]
        weights = None
        if config.hard_records > 0 and len(self.synthetic):
            weights = hardness_weights(self.synthetic.records, config.hard_records)
        self.mixture = RecordMixture(len(self.real), len(self.synthetic), config, *windows, synthetic_weights=weights)
        self.partners = None
        if config.pixel_mixing > 0 and len(self.synthetic):
            self.partners = RealPartners(self.real, self.synthetic.records, config.pixel_mixing)
        self.teacher = Teacher.from_config(config, labels, processor, task) if len(self.synthetic) else None
        self.num_records, self.epoch_order = self.mixture.num_records, self.mixture.epoch_order
        self.loss_settings = LossSettings.of(model.config)
        adapt_layers(model)
        self.drop_paths = seed_drop_path(model)
        freeze_unused(model)

    @classmethod
    def from_config(
        cls,
        config: SegmenterConfig,
        records,
        labels: LabelSet | None = None,
        synthetic_records=None,
        validation_records=None,
        task: str = "semantic",
        tiles: int = 1,
    ) -> "SegmenterTask":
        """Build the segmenter that `config.model` names; its inference resizes images as the settings say, and sees
        whole ones through windows where `records` are images cut into `tiles`."""
        labels = labels or labels_of(records)
        model, processor = build_segmenter(
            config.model,
            labels,
            revision=config.model_revision,
            backbone_model=config.backbone_model,
            short_side=config.inference_size or min(config.crop_height, config.crop_width),
            seed=config.seed,
            num_queries=config.num_queries,
            tiles=tiles,
            crop_size=(config.crop_height, config.crop_width),
            task=task,
        )
        if config.gradient_checkpointing:
            enable_checkpointing(model)
        return cls(model, processor, config, labels, records, synthetic_records, validation_records, task)

    def facts(self) -> dict:
        """Digests of labels and records."""
        labels = {"id2label": self.labels.id2label, "ignore_index": self.labels.ignore_index}
        facts = {
            "labels": digest_of(labels),
            "records": _describe_records(self.real.records),
            "synthetic_records": _describe_records(self.synthetic.records),
        }
        facts |= {} if self.teacher is None else {"teacher": self.teacher.digest()}
        return facts if self.task == "semantic" else facts | {"task": self.task}

    def parameter_groups(self) -> list[dict]:
        return parameter_groups(self.trainable, self.config)

    def sample(self, index: int, rng: np.random.Generator, step: int) -> dict:
        """One augmented crop: `pixel_values` (3, h, w) float32, `targets` and `seed`."""
        config = self.config
        is_synthetic, index = self.mixture.pick(index, rng, step)
        record = (self.synthetic if is_synthetic else self.real)[index]
        if is_synthetic and self.partners:
            record = self.partners.mix(index, record, rng, 1 - step / config.max_train_steps)
        image, target_map, segments = self._view(record, rng)
        if config.copy_paste > 0 and not is_synthetic:
            image, target_map, segments = self._paste(image, target_map, segments, rng)
        if config.color_jitter > 0:
            image = color_jitter(image, config.color_jitter, rng)
        if config.style_augmentation:
            image = style_augment(image, rng)
        return {
            "pixel_values": normalize(image, self.processor),
            "targets": self._targets(torch.from_numpy(target_map.astype(np.int64)), segments),
            "seed": int(rng.integers(2**62)),
            "is_synthetic": is_synthetic,
            "step": step,
        }

    def _view(self, record: tuple, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[dict] | None]:
        """A decoded record scaled, cropped and mirrored by draws from `rng`."""
        config, (image, target_map, segments) = self.config, record
        crop_size = (config.crop_height, config.crop_width)
        image, target_map = large_scale_jitter(
            image, target_map, config.min_scale, config.max_scale, crop_size, rng, self.fill, config.scale_reference
        )
        if config.random_flip:
            image, target_map = flip_pair(image, target_map, rng)
        return image, target_map, segments

    def _paste(self, image, target_map, segments, rng: np.random.Generator):
        """The view, in its share of the samples with things of another real record upon it."""
        if rng.random() >= self.config.copy_paste:
            return image, target_map, segments
        other, other_map, others = self._view(self.real[int(rng.integers(len(self.real)))], rng)
        if others is None:  # semantic
            return *paste_labels(image, target_map, other, other_map, self.labels, rng), None
        return paste_segments(image, target_map, segments, other, other_map, others, rng)

    def _targets(self, target_map: torch.Tensor, segments: list[dict] | None) -> SegmentationTargets:
        if self.task == "semantic":
            return semantic_targets(target_map, self.labels.ignore_index)
        return panoptic_targets(target_map, segments, things_only=self.task == "instance")

    def collate(self, samples: list[dict]) -> dict:
        """Everything that a step needs and that follows from the samples alone: where there are worker processes, they
        make it, and the device gets one copy of each tensor."""
        seeds = [sample["seed"] for sample in samples]
        points = draw_points([sample["targets"] for sample in samples], seeds, self.loss_settings)
        draws = [np.random.default_rng([seed, 1]).random(len(self.drop_paths)) for seed in seeds]
        masking = self._masking(samples[0]["step"], seeds) if fixed_side(self.trainable.config) else {}
        return masking | {
            "pixel_values": torch.stack([sample["pixel_values"] for sample in samples]),
            "targets": vars(points),
            "drop_path_draws": torch.from_numpy(np.stack(draws, axis=1)),  # (layers, B)
            "is_synthetic": torch.tensor([float(sample["is_synthetic"]) for sample in samples]),
        }

    def _masking(self, step: int, seeds: list[int]) -> dict[str, torch.Tensor]:
        """Of an EoMT: the probability of masked attention in each block, and by draws from the samples' seeds whose
        queries look everywhere (batch, blocks, queries)."""
        model = self.trainable.config
        shape = (model.num_blocks, model.num_queries)
        probabilities = np.array(mask_probabilities(step, self.config.max_train_steps, model.num_blocks))
        draws = np.stack([np.random.default_rng([seed, 2]).random(shape) for seed in seeds])
        return {
            "mask_probabilities": torch.from_numpy(probabilities).float(),
            "unmasked": torch.from_numpy(draws >= probabilities[:, None]),
        }

    def loss(self, module: nn.Module, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Collective: its normalizers are sums over all processes."""
        for layer, draws in zip(self.drop_paths, batch["drop_path_draws"], strict=True):
            layer.draws = draws
        masking = {}
        if "unmasked" in batch:
            masking = {"unmasked": batch["unmasked"]}
            self.trainable.attn_mask_probs.copy_(batch["mask_probabilities"])  # for evaluation, and in what is saved
        outputs = module(pixel_values=batch["pixel_values"], output_auxiliary_logits=True, **masking)
        is_synthetic, weight = batch["is_synthetic"], self.config.synthetic_dice
        weights = None if weight == 1 else torch.where(is_synthetic > 0, weight, 1.0)
        targets = PointTargets(**batch["targets"])
        if self.teacher is not None:
            targets.labels = self.teacher.soften(batch)
        loss, parts = segmentation_loss(outputs, targets, self.loss_settings, weights)
        return loss, parts | {"synthetic_share": is_synthetic.mean()}

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        """Write a picture of images, ground truth and predictions; score the validation records, if there are any."""
        folder.mkdir(parents=True, exist_ok=True)
        shown, processor = self.validation_records, self.processor
        if shown is None:  # what is trained on is cut already
            shown, processor = self.real.records or self.synthetic.records, without_windows(processor)
        shown = [shown[i] for i in range(min(4, len(shown)))]
        picture = prediction_grid(self.trainable, processor, shown, self.labels, self.task)
        save_image(picture, folder / f"step-{step:08d}.png")
        if self.validation_records is None:
            return {}
        scores = evaluate_segmenter(
            self.trainable,
            self.processor,
            self.validation_records,
            task=self.task,
            labels=self.labels,
            batch_size=self.config.train_batch_size,
        )
        shown = (TASKS[self.task].metric, *TASKS[self.task].more)
        return {name: scores[name] for name in shown if scores[name] is not None}

    def save(self, folder: Path) -> None:
        """Write model, processor, labels and run_config.json; each file is whole or absent."""

        def save(staging: Path) -> None:
            self.trainable.save_pretrained(staging)
            self.processor.save_pretrained(staging)
            self.labels.save(staging)
            save_config(self.config, staging)

        write_folder(folder, save, last="config.json")

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """The teacher, which is frozen; the loop moves the trainable module itself."""
        if self.teacher is not None:
            self.teacher.to(device, dtype)


def _describe_records(records) -> str:
    """Their number, and a digest of their ids and of 64 of them: to read a million takes longer than it is worth."""
    if len(records) == 0:
        return "none"
    if isinstance(records, StreamedRecords):
        return f"{len(records)} ({digest_of({'streamed': records.facts})})"
    names = [name for name in ("image_id", "seed") if name in records.column_names]
    shown = records.select(spread(len(records), 64))
    maps = [name for name in ("segmentation_map", "panoptic_map") if name in records.column_names]
    pictures = records_digest(shown, ("image", *maps))
    return f"{len(records)} ({digest_of({'ids': [records[name][:] for name in names], 'pictures': pictures})})"


def prediction_grid(model, processor, records, labels: LabelSet, task: str = "semantic") -> Image.Image:
    """One row per record: image, ground truth and prediction in the codec's colors (void where nobody labelled)."""
    codec = ColormapCodec(labels)
    images = [read_image(record["image"]) for record in records]
    if task == "semantic":
        truths = [codec.encode(read_map(record["segmentation_map"])) for record in records]
        predicted = [codec.encode(prediction) for prediction in predict_semantic(model, processor, images)]
    else:
        segments = [(read_panoptic(record["panoptic_map"]), record["segments_info"]) for record in records]
        truths = [paint_segments(*pair, codec) for pair in segments]
        found = predict_panoptic(model, processor, images, labels.things)
        predicted = [paint_segments(*pair, codec) for pair in found]
    return lay_out([_fit(row) for row in zip(images, truths, predicted, strict=True)], gap=4)


def _fit(row: tuple[np.ndarray, ...]) -> list[Image.Image]:
    """Image, and maps of its size, at a width that people can look at."""
    image, *maps = (Image.fromarray(picture) for picture in row)
    width = max(192, min(384, image.width))
    size = (width, round(width * image.height / image.width))
    return [
        image.resize(size, Image.Resampling.BICUBIC),
        *(picture.resize(size, Image.Resampling.NEAREST) for picture in maps),
    ]
