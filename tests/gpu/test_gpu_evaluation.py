"""A segmenter is scored on the device as on the CPU."""

import copy

import numpy as np
import pytest
from trainings import SEGMENTERS
from unit_segmenters import unit_config

from seggen_hf.data.schema import labels_of, read_image
from seggen_hf.segmenter.build import build_segmenter
from seggen_hf.segmenter.evaluation import evaluate_segmenter
from seggen_hf.segmenter.inference import predict_panoptic, predict_semantic

pytestmark = pytest.mark.gpu


def numbers(scores: dict) -> dict[str, float]:
    return {name: value for name, value in scores.items() if isinstance(value, float)}


@pytest.fixture(scope="module")
def build_both(scene_records, tmp_path_factory):
    """A segmenter of a backbone, twice, and its processor."""

    def build(backbone: str):
        folder = tmp_path_factory.mktemp("model")
        unit_config(backbone).save_pretrained(folder)
        model, processor = build_segmenter(folder, labels_of(scene_records), short_side=64)
        return model, copy.deepcopy(model), processor

    return build


@pytest.mark.parametrize("name", SEGMENTERS)
def test_scores_are_the_cpus(name, build_both, scene_records, device):
    task, backbone = SEGMENTERS[name]
    on_cpu, on_device, processor = build_both(backbone)
    on_device.to(device)
    settings = {"task": task, "batch_size": 3, "thresholds": (0.0, 0.0)}  # an untrained one is sure of nothing
    expected, found = (
        numbers(evaluate_segmenter(m, processor, scene_records, **settings)) for m in (on_cpu, on_device)
    )
    assert expected.keys() == found.keys() and expected
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("backbone", ["swin", "resnet"])
def test_predictions_are_the_cpus(backbone, build_both, scene_records, device):
    on_cpu, on_device, processor = build_both(backbone)
    on_device.to(device)
    images, labels = [read_image(record["image"]) for record in scene_records], labels_of(scene_records)
    maps = [np.stack(predict_semantic(model, processor, images)) for model in (on_cpu, on_device)]
    assert (maps[0] == maps[1]).mean() >= 0.999 and len(np.unique(maps[0])) > 1
    segments = [
        predict_panoptic(model, processor, images, labels.things, 8, 0.0, 0.0) for model in (on_cpu, on_device)
    ]
    pairs = zip(*segments, strict=True)
    assert np.mean([(one[0] == other[0]).mean() for one, other in pairs]) >= 0.99  # numbers follow the order of scores
