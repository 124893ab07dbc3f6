"""Soft labels: a trained segmenter has its say on what synthetic pixels show."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from seggen_hf.config import SegmenterConfig
from seggen_hf.data.schema import labels_of
from seggen_hf.segmenter.build import build_segmenter
from seggen_hf.trainers.loop import train
from seggen_hf.trainers.segmenter import SegmenterTask
from seggen_hf.trainers.teacher import Teacher


def config(folder, **settings):
    sizes = {"crop_height": 32, "crop_width": 32, "train_batch_size": 2, "max_train_steps": 2, "lr_warmup_steps": 0}
    return SegmenterConfig(output_dir=str(folder), model="unit", **sizes, **settings)


@pytest.fixture(scope="module")
def few(scene_records):
    return scene_records.select(range(3))


@pytest.fixture(scope="module")
def teacher(few, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    return train(SegmenterTask.from_config(config(folder), few), config(folder)).folder


def taught(folder, few, teacher, share, mode="replace", **more):
    settings = config(
        folder, synthetic_dataset="x", synthetic_mode=mode, soft_labels=share, teacher=str(teacher), **more
    )
    return SegmenterTask.from_config(settings, few, synthetic_records=few)


def batch_of(task, seeds=range(4)):
    return task.collate([task.sample(seed % 3, np.random.default_rng(seed), 0) for seed in seeds])


def test_labels_of_synthetic_samples_become_what_the_teacher_sees(tmp_path, few, teacher):
    task = taught(tmp_path, few, teacher, 0.25)
    batch = batch_of(task)
    is_synthetic = batch["is_synthetic"] > 0
    assert 0 < is_synthetic.sum() < len(is_synthetic)
    before, after = batch["targets"]["labels"].float(), task.teacher.soften(batch)
    assert torch.equal(before[~is_synthetic], after[~is_synthetic])
    assert 0 <= after.min() and after.max() <= 1 and not torch.equal(before[is_synthetic], after[is_synthetic])
    assert (after - before).abs().max() <= 0.25 + 1e-6
    # All of the label the teacher's: over all labels of the set they sum to 1, whatever the map says.
    every = batch | {"targets": dict(batch["targets"])}
    count, points = labels_of(few).num_labels, before.shape[2]
    every["targets"]["class_labels"] = torch.arange(count).expand(len(before), -1)
    every["targets"]["labels"] = torch.zeros(len(before), count, points)
    task.teacher.share = 1.0
    sums = task.teacher.soften(every)[is_synthetic].sum(1)
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_a_teacher_that_is_sure_of_the_map_changes_nothing(tmp_path, few, teacher):
    task = taught(tmp_path, few, teacher, 1.0, mode="only")
    batch = batch_of(task)
    hard = batch["targets"]["labels"].float()

    def certain(pixel_values):
        """One query a label, at each pixel of the crop as the map has it."""
        maps = torch.stack([truth_of(task, seed) for seed in range(4)])
        count = labels_of(few).num_labels
        maps = maps.clamp(max=count - 1)  # no point lies in void
        planes = torch.nn.functional.one_hot(maps, count).permute(0, 3, 1, 2).float()
        classes = torch.eye(planes.shape[1], planes.shape[1] + 1) * 50
        output = {"class_queries_logits": classes.expand(len(maps), -1, -1), "masks_queries_logits": planes * 60 - 30}
        return type("Output", (), output)

    task.teacher.model = certain
    soft, masks = task.teacher.soften(batch), batch["targets"]["num_masks"]
    for image, count in enumerate(masks):
        torch.testing.assert_close(soft[image, :count], hard[image, :count], atol=1e-5, rtol=0)


def truth_of(task, seed):
    """The label of each pixel of the crop that `batch_of` draws by this seed."""
    record = task._view(task.synthetic[_picked(task, seed)], _rng_after_pick(seed))
    return torch.from_numpy(record[1].astype(np.int64))


def _picked(task, seed):
    return task.mixture.pick(seed % 3, np.random.default_rng(seed), 0)[1]


def _rng_after_pick(seed):
    rng = np.random.default_rng(seed)
    rng.random(3)
    return rng


def test_a_taught_training_runs_and_its_model_holds_no_teacher(tmp_path, few, teacher):
    task = taught(tmp_path, few, teacher, 0.5, mode="only")
    hard = taught(tmp_path, few, teacher, 0.0, mode="only")
    assert task.facts() == hard.facts() | {"teacher": task.teacher.digest()}
    batch = batch_of(task)
    (soft, parts), (_, other) = task.loss(task.trainable, batch), hard.loss(hard.trainable, batch)
    assert parts["loss_mask"] != other["loss_mask"] and parts["loss_cross_entropy"].isfinite()
    soft.backward()
    assert all(parameter.grad is None for parameter in task.teacher.model.parameters())
    before = task.teacher.digest()
    folder = train(task, task.config).folder
    assert task.teacher.digest() == before
    saved = load_file(folder / "model.safetensors")
    assert saved.keys() == load_file(teacher / "model.safetensors").keys()


def test_what_cannot_teach_is_refused(tmp_path, few, teacher):
    with pytest.raises(ValueError, match="needs --teacher"):
        SegmenterTask.from_config(config(tmp_path, synthetic_dataset="x", soft_labels=0.5), few, synthetic_records=few)
    labels = labels_of(few)
    fewer = dataclasses.replace(labels, categories=labels.categories[:2], source_ids=labels.source_ids[:2])
    settings = config(tmp_path, soft_labels=0.5, teacher=str(teacher))
    model, processor = build_segmenter("unit", labels)
    with pytest.raises(ValueError, match="other labels"):
        Teacher.from_config(settings, fewer, processor, "semantic")
    with pytest.raises(ValueError, match="for task semantic"):
        Teacher.from_config(settings, labels, processor, "panoptic")
    processor.image_mean = [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="image_mean"):
        Teacher.from_config(settings, labels, processor, "semantic")
