import json

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value
from PIL import Image
from transformers import AutoModelForUniversalSegmentation

from seggen_hf.config import SegmenterConfig
from seggen_hf.data.mixture import DecodedRecords, RecordMixture
from seggen_hf.data.schema import attach_labels, labels_of, read_image, read_map
from seggen_hf.labels import LabelSet
from seggen_hf.segmenter.build import build_segmenter
from seggen_hf.segmenter.inference import normalize
from seggen_hf.segmenter.sizes import named_config
from seggen_hf.trainers.loop import train
from seggen_hf.trainers.segmenter import SegmenterTask
from seggen_hf.trainers.segmenter_weights import SampleDropPath


def config(**changes):
    settings = {"model": "unit", "crop_height": 64, "crop_width": 64, "train_batch_size": 2, "max_train_steps": 100}
    return SegmenterConfig(**settings | changes)


def shares(mixture, step, draws=4000):
    """Share of synthetic samples in epochs at `step`, and the indices seen in both data sets."""
    rng = np.random.default_rng(0)
    picks = [mixture.pick(i % mixture.num_records, rng, step) for i in range(draws)]
    return np.mean([s for s, _ in picks]), [{i for s, i in picks if s == synthetic} for synthetic in (False, True)]


@pytest.mark.parametrize(
    ("mode", "until", "num_records", "before", "after"),
    [
        ("replace", 0.5, 10, 0.6, 0.0),
        ("replace", 1.0, 10, 0.6, 0.6),
        ("pretrain", 0.5, 10, 1.0, 0.0),
        ("joint", 0.5, 40, 0.75, 0.0),
        ("joint", 1.0, 40, 0.75, 0.75),
        ("only", 1.0, 30, 1.0, 1.0),
        ("only", 0.5, 30, 1.0, 0.0),
    ],
)
def test_real_and_synthetic_records_mix_in_their_proportions(mode, until, num_records, before, after):
    settings = config(synthetic_mode=mode, synthetic_until=until, synthetic_dataset="x", p_aug=0.6)
    mixture = RecordMixture(10, 30, settings)
    assert mixture.num_records == num_records
    for step, expected in ((0, before), (49, before), (50, after), (99, after)):
        share, (real, synthetic) = shares(mixture, step)
        assert share == pytest.approx(expected, abs=0.03)
        assert real == (set(range(10)) if expected < 1 else set())
        assert synthetic == (set(range(30)) if expected > 0 else set())


def test_without_synthetic_records_every_epoch_is_all_real_ones():
    share, (real, _) = shares(RecordMixture(10, 0, config()), 0, draws=10)
    assert share == 0 and real == set(range(10))


@pytest.mark.parametrize(
    ("real", "synthetic", "changes", "message"),
    [
        (0, 0, {}, "no records"),
        (5, 0, {"synthetic_dataset": "x"}, "--synthetic_dataset x has no records"),
        (0, 5, {"synthetic_dataset": "x"}, "needs real records"),
    ],
)
def test_impossible_mixtures_are_refused(real, synthetic, changes, message):
    with pytest.raises(ValueError, match=message):
        RecordMixture(real, synthetic, config(**changes))


def test_decoded_records_are_kept_while_they_fit(scene_records):
    one = 64 * 64 * 4
    decoded = DecodedRecords(scene_records, cache_bytes=3 * one)
    for index in range(5):
        image, segmentation_map, segments = decoded[index]
        assert segments is None
        np.testing.assert_array_equal(image, read_image(scene_records[index]["image"]))
        np.testing.assert_array_equal(segmentation_map, read_map(scene_records[index]["segmentation_map"]))
    assert sorted(decoded.cache) == [0, 1, 2] and segmentation_map.dtype == np.uint8


@pytest.fixture(scope="module")
def task(scene_records):
    return SegmenterTask.from_config(config(min_scale=0.5, max_scale=0.9, style_augmentation=True), scene_records)


def test_a_sample_follows_from_its_generator_alone(task):
    a, b, c = (task.sample(3, np.random.default_rng([0, p]), 0) for p in (1, 1, 2))
    assert torch.equal(a["pixel_values"], b["pixel_values"]) and a["seed"] == b["seed"]
    assert not torch.equal(a["pixel_values"], c["pixel_values"]) and a["seed"] != c["seed"]


def test_padding_of_small_scales_is_void(task):
    sample = task.sample(0, np.random.default_rng(0), 0)
    assert sample["pixel_values"].shape == (3, 64, 64) and sample["targets"].valid_mask.shape == (64, 64)
    valid = sample["targets"].valid_mask
    assert not valid[-1].any() and valid[0, 0] and 0.2 < valid.float().mean() < 0.85


@pytest.mark.parametrize("name", ["panoptic", "instance"])
def test_segments_are_augmented_with_their_image(scene_records, name):
    """Every pixel of a target mask has the label of its segment; padding is void; stuff is no instance."""
    labels = labels_of(scene_records)
    settings = config(min_scale=0.5, max_scale=0.9, color_jitter=0.0, num_queries=7)
    task = SegmenterTask.from_config(settings, scene_records, task=name)
    assert task.trainable.config.num_queries == 7 and task.facts()["task"] == name
    semantic = SegmenterTask.from_config(config(min_scale=0.5, max_scale=0.9, color_jitter=0.0), scene_records)
    for index in range(4):
        sample = task.sample(index, np.random.default_rng(index), 0)
        plain = semantic.sample(index, np.random.default_rng(index), 0)
        assert torch.equal(sample["pixel_values"], plain["pixel_values"])
        targets, expected = sample["targets"], plain["targets"]
        assert torch.equal(targets.valid_mask, expected.valid_mask)  # scenes have neither void nor crowds
        assert targets.mask_labels.sum(0).max() == 1 and targets.mask_labels.flatten(1).any(1).all()
        for label in range(labels.num_labels):
            mine = targets.mask_labels[targets.class_labels == label].any(0)
            theirs = expected.mask_labels[expected.class_labels == label].any(0)
            assert torch.equal(mine, theirs) or (name == "instance" and label not in labels.things)
        if name == "instance":
            assert set(targets.class_labels.tolist()) <= set(labels.things)
    with pytest.raises(ValueError, match="the records have no panoptic_map"):
        SegmenterTask.from_config(settings, scene_records.remove_columns("panoptic_map"), labels, task=name)


@pytest.mark.parametrize("name", ["semantic", "panoptic", "instance"])
def test_things_of_other_records_are_pasted(scene_records, name):
    """Into some samples more things than a record has, all of them with targets; without the setting nothing moves."""
    plain = SegmenterTask.from_config(config(color_jitter=0.0), scene_records, task=name)
    pasting = SegmenterTask.from_config(config(color_jitter=0.0, copy_paste=0.5), scene_records, task=name)
    more = []
    for index in range(8):
        before, after = (task.sample(index, np.random.default_rng(index), 0) for task in (plain, pasting))
        is_changed = not torch.equal(before["pixel_values"], after["pixel_values"])
        assert is_changed or torch.equal(before["targets"].mask_labels, after["targets"].mask_labels)
        assert after["targets"].mask_labels.sum(0).max() == 1 and after["targets"].mask_labels.flatten(1).any(1).all()
        more.append(len(after["targets"].class_labels) - len(before["targets"].class_labels))
    assert 0 in more and max(more) > 0


def made_of(records, kind="imgsyn"):
    """Records that a synthesis might have made: the same maps with the images' negatives."""
    rows = [
        row | {"image": Image.fromarray(255 - read_image(row["image"])), "kind": kind, "seed": i}
        for i, row in enumerate(records)
    ]
    columns = {name: [row[name] for row in rows] for name in ("segmentation_map", "kind", "seed")}
    columns |= {"image": [row["image"] for row in rows], "source_id": records["image_id"][:]}
    columns |= {"image_id": [f"{name}-made" for name in records["image_id"][:]]}
    features = Features(
        records.features | {"kind": Value("string"), "seed": Value("int64"), "source_id": Value("string")}
    )
    return attach_labels(
        Dataset.from_dict(columns, features=Features({n: features[n] for n in columns})), labels_of(records)
    )


def test_drawn_images_turn_into_the_real_ones_of_their_maps(scene_records):
    """At the last step they are nearly the real image; before, something between; other kinds stay as they are."""
    few = scene_records.select(range(3))
    settings = {
        "color_jitter": 0.0,
        "random_flip": False,
        "min_scale": 1.0,
        "max_scale": 1.0,
        "synthetic_dataset": "x",
    }
    settings = config(**settings, synthetic_mode="only", pixel_mixing=1.0)
    task = SegmenterTask.from_config(settings, few, synthetic_records=made_of(few))

    def seen(step, index=1):
        return task.sample(index, np.random.default_rng(0), step)["pixel_values"]

    real, drawn = (
        torch.stack([normalize(picture, task.processor)])
        for picture in (read_image(few[1]["image"]), 255 - read_image(few[1]["image"]))
    )
    torch.testing.assert_close(seen(99)[None], real, atol=0.05, rtol=0)  # of a hundredth
    first, later = (float((seen(step) - real[0]).abs().mean()) for step in (0, 90))
    assert 0 < later < first < float((drawn - real).abs().mean())
    with pytest.raises(ValueError, match="needs ImgSyn's samples"):
        SegmenterTask.from_config(settings, few, synthetic_records=made_of(few, "masksyn"))


def test_dice_of_synthetic_samples_is_left_out(scene_records):
    few = scene_records.select(range(2))
    parts = {}
    for factor in (1.0, 0.0):
        settings = config(synthetic_dataset="x", synthetic_mode="only", synthetic_dice=factor)
        task = SegmenterTask.from_config(settings, few, synthetic_records=made_of(few))
        batch = task.collate([task.sample(i, np.random.default_rng(i), 0) for i in range(2)])
        parts[factor] = task.loss(task.trainable, batch)[1]
    assert parts[0.0]["loss_dice"] == 0 < parts[1.0]["loss_dice"] and parts[0.0]["synthetic_share"] == 1
    assert parts[0.0]["loss_mask"] == parts[1.0]["loss_mask"]


def test_every_parameter_gets_a_gradient(task):
    batch = task.collate([task.sample(i, np.random.default_rng(i), 0) for i in range(2)])
    task.trainable.train()
    loss, parts = task.loss(task.trainable, batch)
    assert loss.item() == pytest.approx(sum(v.item() for k, v in parts.items() if k.startswith("loss")), rel=1e-5)
    loss.backward()
    assert [name for name, p in task.trainable.named_parameters() if p.requires_grad and p.grad is None] == []
    task.trainable.zero_grad(set_to_none=True)


def test_parameter_groups_are_those_of_mask2former(task):
    groups = task.parameter_groups()
    names = {id(p): name for name, p in task.trainable.named_parameters()}
    of = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert (
        len(of) == sum(len(g["params"]) for g in groups) == sum(p.requires_grad for p in task.trainable.parameters())
    )
    encoder = "model.pixel_level_module.encoder."
    bias_table = next(name for name in of if "relative_position_bias_table" in name)
    norm = next(name for name in of if name.startswith(encoder) and "layernorm_before.weight" in name)
    linear = next(name for name in of if name.startswith(encoder) and "attention" in name and name.endswith("weight"))
    assert of[bias_table] == of[norm] == pytest.approx((1e-5, 0.0))
    assert of[linear] == pytest.approx((1e-5, 0.05))
    assert of["model.transformer_module.queries_features.weight"] == (1e-4, 0.0)
    assert of["model.transformer_module.decoder.layernorm.weight"] == (1e-4, 0.0)
    assert of["class_predictor.weight"] == (1e-4, 0.05)


def test_stochastic_depth_follows_from_the_samples_seed(scene_records, tmp_path):
    settings = named_config("unit")
    settings.backbone_config.drop_path_rate = 0.5
    settings.save_pretrained(tmp_path)
    model, processor = build_segmenter(tmp_path, labels_of(scene_records))
    names = set(model.state_dict())
    task = SegmenterTask(model, processor, config(), labels_of(scene_records), scene_records)
    assert len(task.drop_paths) == 3 and set(model.state_dict()) == names
    model.train()
    batch = task.collate([task.sample(i, np.random.default_rng(i), 0) for i in range(4)])
    first = task.loss(model, batch)[0].item()
    assert task.loss(model, batch)[0].item() == first
    other = task.collate([task.sample(i, np.random.default_rng(i), 0) | {"seed": i} for i in range(4)])
    assert task.loss(model, batch | {"drop_path_draws": other["drop_path_draws"]})[0].item() != first
    layer = SampleDropPath(0.5).train()
    layer.draws = torch.tensor([0.4, 0.6])
    assert layer(torch.ones(2, 3, 1)).flatten(1)[:, 0].tolist() == [0.0, 2.0]
    assert layer.eval()(torch.ones(2, 3, 1)).sum() == 6


@pytest.mark.slow
def test_a_short_training_lowers_the_loss_and_saves_a_segmenter(scene_records, tmp_path):
    settings = config(
        output_dir=str(tmp_path),
        max_train_steps=12,
        learning_rate=2e-3,
        max_grad_norm=1.0,
        backbone_lr_multiplier=1.0,
        min_scale=1.0,
        max_scale=1.0,
        color_jitter=0.0,
        logging_steps=4,
        synthetic_dataset="here",
        synthetic_mode="joint",
    )
    few = scene_records.select(range(2))
    task = SegmenterTask.from_config(settings, few, synthetic_records=few, validation_records=few)
    run = train(task, settings)
    losses = [line["loss"] for line in run.history if "loss" in line]
    assert losses[-1] < 0.95 * losses[0]
    assert 0 < [line["synthetic_share"] for line in run.history if "loss" in line][0] < 1
    assert 0 <= run.history[-1]["validation/mIoU"] <= 1
    assert Image.open(tmp_path / "validation" / "step-00000012.png").size == (3 * 192 + 8, 2 * 192 + 4)

    found = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "labels.json", "run_config.json"} <= found
    assert json.loads((tmp_path / "run_config.json").read_text())["p_aug"] == 0.6
    saved = AutoModelForUniversalSegmentation.from_pretrained(tmp_path)
    assert all(torch.equal(v, task.trainable.state_dict()[k]) for k, v in saved.state_dict().items())


def test_facts_tell_records_apart(scene_records):
    def facts(records, synthetic=None):
        changes = {"synthetic_dataset": "x"} if synthetic else {}
        return SegmenterTask.from_config(config(**changes), records, synthetic_records=synthetic).facts()

    one = facts(scene_records.select([0, 1]))
    assert one == facts(scene_records.select([0, 1])) and one["synthetic_records"] == "none"
    other = facts(scene_records.select([0, 2]), scene_records.select([3]))
    assert {name for name in one if one[name] != other[name]} == {"records", "synthetic_records"}


def test_synthetic_records_of_other_labels_are_refused(scene_records):
    others = attach_labels(scene_records, LabelSet.from_id2label({0: "a", 1: "b"}))
    with pytest.raises(ValueError, match="--synthetic_dataset"):
        SegmenterTask.from_config(config(synthetic_dataset="x"), scene_records, synthetic_records=others)


def test_gradient_checkpointing_changes_no_gradient(scene_records):
    gradients = []
    for checkpointing in (False, True):
        task = SegmenterTask.from_config(config(gradient_checkpointing=checkpointing), scene_records)
        task.trainable.train()
        task.loss(task.trainable, task.collate([task.sample(0, np.random.default_rng(0), 0)]))[0].backward()
        gradients.append(next(p.grad for n, p in task.trainable.named_parameters() if "patch_embeddings" in n))
    torch.testing.assert_close(*gradients)
