"""Pipelines draw on the device what they draw on the CPU, wherever their parts wait."""

import numpy as np
import pytest
import torch

from seggen_hf import Mask2ImgPipeline, Text2MaskPipeline
from seggen_hf.config import SynthesisConfig
from seggen_hf.data.schema import read_map
from seggen_hf.synthesis.generators import decoding, place

pytestmark = pytest.mark.gpu

CAPTIONS = ["a street at night", "a field", "a house", "a street"]
SIZE = {"height": 32, "width": 32, "num_inference_steps": 3}


@pytest.fixture
def open_pipelines(generator_dirs):
    """Both pipelines on the CPU, float32, by name."""

    def fresh():
        classes = {"text2mask": Text2MaskPipeline, "mask2img": Mask2ImgPipeline}
        pairs = zip(classes.items(), generator_dirs, strict=True)
        pipelines = {name: kind.from_pretrained(folder, use_safetensors=True) for (name, kind), folder in pairs}
        for pipeline in pipelines.values():
            pipeline.set_progress_bar_config(disable=True)
        return pipelines

    return fresh


@pytest.fixture(scope="module")
def conditions(scene_records):
    """(4, 32, 32) label ids of people's maps."""
    return np.stack([read_map(scene_records[i]["segmentation_map"])[:32, :32] for i in range(len(CAPTIONS))])


def draw(pipelines, conditions, **settings) -> tuple[np.ndarray, np.ndarray]:
    """Maps (4, 32, 32) and images (4, 32, 32, 3) in grey levels, from noise of the CPU's generator."""
    config = SynthesisConfig(**settings)
    with decoding(pipelines.values(), config):
        generators = [[torch.Generator().manual_seed(seed) for seed in range(len(CAPTIONS))] for _ in range(2)]
        maps = pipelines["text2mask"](CAPTIONS, generator=generators[0], output_type="np", **SIZE).segmentation_maps
        images = pipelines["mask2img"](
            CAPTIONS, segmentation_map=list(conditions), generator=generators[1], output_type="np", **SIZE
        ).images
    return maps, np.rint(images * 255).astype(int)


def shares(one, other) -> tuple[float, float]:
    """Of pixels with the same label, and of pixels within a grey level."""
    return (one[0] == other[0]).mean(), (np.abs(one[1] - other[1]) <= 1).all(-1).mean()


@pytest.fixture(scope="module")
def on_cpu():
    return {}


def cpu_result(on_cpu, open_pipelines, conditions):
    if not on_cpu:
        on_cpu["drawn"] = draw(open_pipelines(), conditions)
    return on_cpu["drawn"]


@pytest.mark.parametrize(
    "settings", [{}, {"offload": "model"}, {"offload": "sequential"}, {"vae_slicing": True}], ids=str
)
def test_the_device_draws_what_the_cpu_draws(settings, open_pipelines, conditions, on_cpu, device):
    offload = settings.get("offload", "none")
    if offload != "none" and device.type == "cpu":
        pytest.skip("there is nothing to offload from")
    expected = cpu_result(on_cpu, open_pipelines, conditions)
    assert len(np.unique(expected[0])) > 1 and expected[1].std() > 1
    pipelines = open_pipelines()
    for pipeline in pipelines.values():
        place(pipeline, offload, device)
        assert pipeline._execution_device.type == device.type
    found = draw(pipelines, conditions, **settings)
    assert min(shares(found, expected)) >= 0.999
    again = draw(pipelines, conditions, **settings)
    assert np.array_equal(found[0], again[0]) and np.array_equal(found[1], again[1])


def test_half_precision_is_close(open_pipelines, conditions, on_cpu, device):
    """The autoencoder in float16 is compared with itself in float32 on the way."""
    if device.type == "cpu":
        pytest.skip("float16 is for GPUs")
    pipelines = open_pipelines()
    for pipeline in pipelines.values():
        pipeline.to(device, torch.float16)
    found = draw(pipelines, conditions, vae_precision="same")
    _, images = cpu_result(on_cpu, open_pipelines, conditions)
    assert np.abs(found[1] - images).mean() < 8
