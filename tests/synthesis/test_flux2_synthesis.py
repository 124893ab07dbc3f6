"""MaskSyn and ImgSyn with generators on FLUX.2-klein at unit size: alone, and beside one on SDXL."""

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline

from seggen_hf import ColormapCodec, LabelSet, Mask2ImgPipeline, Text2MaskPipeline, synthesize
from seggen_hf.config import SynthesisConfig
from seggen_hf.pipelines import Flux2Mask2ImgPipeline, Flux2Text2MaskPipeline
from seggen_hf.synthesis.generators import CACHED_BYTES, PromptCache, open_pipeline

SETTINGS = {"text2mask_steps": 1, "mask2img_steps": 1, "max_color_distance": 500, "max_ignored_share": 1.0}


@pytest.fixture(scope="module")
def folders(flux2_dir, scene_records, tmp_path_factory):
    """A Text2Mask and a Mask2Img on FLUX.2 for the scenes' labels, whose maps and images differ between samples."""
    base = Flux2KleinPipeline.from_pretrained(flux2_dir, use_safetensors=True)
    with torch.no_grad():
        base.vae.decoder.conv_out.weight *= 5  # colors far enough apart to be several labels
        base.vae.encoder.conv_out.weight *= 30
    colormap = ColormapCodec(LabelSet.from_records(scene_records)).to_dict()
    folder = tmp_path_factory.mktemp("flux2-generators")
    Flux2Text2MaskPipeline(**base.components, colormap=colormap).save_pretrained(folder / "text2mask")
    Flux2Mask2ImgPipeline(**base.components, colormap=colormap).save_pretrained(folder / "mask2img")
    return folder / "text2mask", folder / "mask2img"


def make(records, out, text2mask, mask2img, **changes):
    config = SynthesisConfig(**SETTINGS | changes)
    opened = {
        "text2mask": open_pipeline(Text2MaskPipeline, str(text2mask), config),
        "mask2img": open_pipeline(Mask2ImgPipeline, str(mask2img), config),
    }
    return synthesize(records, out, config, **opened, height=64, width=64), opened


@pytest.mark.slow
def test_samples_are_the_same_in_batches_of_any_size(folders, scene_records, tmp_path):
    records = scene_records.select(range(3))
    alone, opened = make(records, tmp_path / "one", *folders, batch_size=1)
    together, _ = make(records, tmp_path / "three", *folders, batch_size=3)
    assert type(opened["text2mask"]) is Flux2Text2MaskPipeline and type(opened["mask2img"]) is Flux2Mask2ImgPipeline
    assert len(alone) == len(together) == 6 and alone["seed"][:] == together["seed"][:]
    for one, other in zip(alone, together, strict=True):
        assert one["image_id"] == other["image_id"]
        maps = [np.asarray(row["segmentation_map"]) for row in (one, other)]
        assert (maps[0] != maps[1]).mean() < 1e-3
        images = [np.asarray(row["image"]).astype(int) for row in (one, other)]
        assert np.abs(images[0] - images[1]).max() <= 1 or not np.array_equal(*maps)
    drawn = [np.asarray(row["segmentation_map"]) for row in alone if row["kind"] == "masksyn"]
    assert not np.array_equal(drawn[0], drawn[1])


@pytest.mark.slow
def test_one_generator_may_be_on_flux2_and_the_other_on_sdxl(folders, generator_dirs, scene_records, tmp_path):
    records = scene_records.select(range(2))
    for number, pair in enumerate(((folders[0], generator_dirs[1]), (generator_dirs[0], folders[1]))):
        made, _ = make(records, tmp_path / str(number), *pair)
        assert sorted(made["kind"][:]) == ["imgsyn", "imgsyn", "masksyn", "masksyn"]


def test_captions_are_encoded_once_and_no_more_are_kept_than_there_is_room_for(folders):
    pipeline = open_pipeline(Text2MaskPipeline, str(folders[0]), SynthesisConfig())
    prompts = PromptCache(pipeline, capacity=2)
    first = prompts(["a road", "a house", "a road"])
    assert set(first) == {"prompt_embeds", "negative_prompt_embeds"} and prompts.num_encoded == 2
    assert torch.equal(first["prompt_embeds"][0], first["prompt_embeds"][2])
    assert all(len(rows) == 3 for rows in first.values())
    assert torch.equal(prompts(["a road"])["prompt_embeds"][0], first["prompt_embeds"][0]) and prompts.num_encoded == 2
    size = first["prompt_embeds"][0].nbytes
    assert 1 <= CACHED_BYTES // (512 * 7680 * 2) < 256 < CACHED_BYTES // size  # of klein, and of this


def test_a_generator_of_the_other_kind_is_refused(folders):
    with pytest.raises(ValueError, match="cannot be read as a Mask2ImgPipeline"):
        open_pipeline(Mask2ImgPipeline, str(folders[0]), SynthesisConfig())
