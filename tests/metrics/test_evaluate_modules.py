import numpy as np
import pytest

import seggen_hf.metrics
from seggen_hf import metric_modules

evaluate = pytest.importorskip("evaluate", reason="evaluate is in the extra `metrics`")
NAMES = ("boundary_iou", "mean_iou", "panoptic_quality")
CATEGORIES = [{"id": 1, "name": "cell", "isthing": True}, {"id": 2, "name": "sky", "isthing": False}]


@pytest.fixture
def load(tmp_path):
    return lambda name: evaluate.load(
        str(metric_modules.folder(name)), cache_dir=str(tmp_path / "cache"), experiment_id=tmp_path.name
    )


def some_maps(seed):
    rng = np.random.default_rng(seed)
    targets = [np.kron(rng.integers(0, 4, shape), np.ones((4, 4), int)) for shape in ((5, 6), (8, 3))]
    for target in targets:
        target[:3, :3] = 255
    return [np.where(t == 255, 0, np.roll(t, 1, axis=0)) for t in targets], targets


@pytest.mark.parametrize(("name", "plain"), [("mean_iou", "MeanIoU"), ("boundary_iou", "BoundaryIoU")])
def test_maps_of_several_sizes_score_as_in_the_package(load, name, plain):
    predictions, references = some_maps(0)
    expected = getattr(seggen_hf.metrics, plain)(4)
    for predicted, target in zip(predictions, references, strict=True):
        expected.update(predicted, target)
    module = load(name)
    found = module.compute(predictions=predictions, references=references, num_labels=4)
    assert found == expected.compute()
    for predicted, target in zip(predictions, references, strict=True):
        module.add(prediction=predicted, reference=target)
    assert module.compute(num_labels=4) == found


def test_panoptic_maps_score_as_in_the_package(load):
    def segments(category, crowd=False):
        return [{"id": 1, "category_id": category, "iscrowd": crowd}, {"id": 2, "category_id": 2, "iscrowd": False}]

    target = {"panoptic_map": np.array([[1, 1, 1, 2, 2, 0]]), "segments_info": segments(1)}
    good = {"panoptic_map": np.array([[1, 1, 2, 2, 2, 2]]), "segments_info": segments(1)}
    bad = {"panoptic_map": np.array([[1, 1, 1, 2, 2, 2]]), "segments_info": segments(2)}
    expected = seggen_hf.metrics.PanopticQuality(CATEGORIES)
    for predicted in (good, bad):
        expected.update(tuple(predicted.values()), tuple(target.values()))
    found = load("panoptic_quality").compute(
        predictions=[good, bad], references=[target, target], categories=CATEGORIES
    )
    assert found == expected.compute() and 0 < found["pq"] < 1


def test_each_module_has_a_folder_that_can_be_pushed():
    assert metric_modules.names() == list(NAMES)
    for name in NAMES:
        assert (metric_modules.folder(name) / f"{name}.py").is_file()
