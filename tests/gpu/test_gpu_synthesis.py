"""A synthesis on the device makes the samples of the plan, and the same at each call."""

import numpy as np
import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from synthesis_settings import SIZE, largest_difference, make_config

from seggen_hf import Mask2ImgPipeline, Text2MaskPipeline
from seggen_hf.data.schema import read_map
from seggen_hf.synthesis import synthesize
from seggen_hf.synthesis.generators import open_pipeline

pytestmark = pytest.mark.gpu


@pytest.fixture
def make(generator_dirs, scene_records):
    """A synthesis of both kinds in which nothing is dropped: `make(folder, precision, on="cuda")`."""

    def run(folder, precision: str, on: str, **settings):
        AcceleratorState._reset_state(reset_partial_state=True)
        config = make_config(mixed_precision=precision, max_color_distance=500.0, max_ignored_share=1.0, **settings)
        pairs = zip((Text2MaskPipeline, Mask2ImgPipeline), generator_dirs, strict=True)
        text2mask, mask2img = (open_pipeline(*pair, config) for pair in pairs)
        accelerator = Accelerator(cpu=on == "cpu")
        assert accelerator.device.type == on
        return synthesize(
            scene_records.select(range(4)), folder, config, mask2img, text2mask, accelerator=accelerator, **SIZE
        )

    return run


def test_a_synthesis_in_bf16_repeats_itself_and_has_the_cpus_samples(make, device, tmp_path):
    first, second = (make(tmp_path / name, "bf16", device.type) for name in ("first", "second"))
    assert largest_difference(first, second) == 0
    cpu = make(tmp_path / "cpu", "bf16", "cpu")
    for column in ("image_id", "seed", "caption", "kind", "source_id", "variant"):
        assert first[column][:] == cpu[column][:], column
    for ours, theirs in zip(first, cpu, strict=True):
        if ours["kind"] == "imgsyn":
            assert np.array_equal(read_map(ours["segmentation_map"]), read_map(theirs["segmentation_map"]))


def test_in_float32_even_the_pictures_are_the_cpus(make, device, tmp_path):
    ours, theirs = (make(tmp_path / name, "no", on) for name, on in (("ours", device.type), ("theirs", "cpu")))
    same, near = [], []
    for one, other in zip(ours, theirs, strict=True):
        assert one["image_id"] == other["image_id"]
        same.append(read_map(one["segmentation_map"]) == read_map(other["segmentation_map"]))
        images = [np.asarray(row["image"], dtype=int) for row in (one, other)]
        near.append((np.abs(images[0] - images[1]) <= 2).all(-1))
    assert np.mean(same) >= 0.999 and np.mean(near) >= 0.99  # an image follows each pixel of its map


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloading_changes_nothing(offload, make, device, tmp_path):
    if device.type == "cpu":
        pytest.skip("there is nothing to offload from")
    plain = make(tmp_path / "plain", "fp16", device.type)
    settings = {"offload": offload, "vae_slicing": True, "vae_precision": "same"}
    moved = make(tmp_path / "moved", "fp16", device.type, **settings)
    for column in ("image_id", "seed", "caption"):
        assert plain[column][:] == moved[column][:]
