"""Unit-size generators with random weights whose maps and images differ from sample to sample."""

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionXLPipeline
from synthesis_settings import SIZE, make_config

from seggen_hf import ColormapCodec, LabelSet, Mask2ImgPipeline, Text2MaskPipeline
from seggen_hf.synthesis import synthesize


@pytest.fixture(scope="session")
def generator_dirs(miniature_dir, scene_records, tmp_path_factory):
    """Folders of a Text2Mask and a Mask2Img pipeline for the scenes' labels."""
    base = StableDiffusionXLPipeline.from_pretrained(miniature_dir, use_safetensors=True, add_watermarker=False)
    names = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "scheduler")
    components = {name: base.components[name] for name in names}
    colormap = ColormapCodec(LabelSet.from_records(scene_records)).to_dict()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        controlnet = ControlNetModel.from_unet(components["unet"], conditioning_embedding_out_channels=(8, 16, 32))
        for block in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
            block.weight.normal_(std=0.5)  # a fresh ControlNet adds nothing
        components["vae"].decoder.conv_out.weight *= 5  # colors far enough apart to be several labels
    folder = tmp_path_factory.mktemp("generators")
    Text2MaskPipeline(**components, colormap=colormap).save_pretrained(folder / "text2mask")
    Mask2ImgPipeline(**components, controlnet=controlnet, colormap=colormap).save_pretrained(folder / "mask2img")
    return folder / "text2mask", folder / "mask2img"


@pytest.fixture(scope="session")
def generators(generator_dirs):
    text2mask, mask2img = generator_dirs
    return {
        "text2mask": Text2MaskPipeline.from_pretrained(text2mask, use_safetensors=True),
        "mask2img": Mask2ImgPipeline.from_pretrained(mask2img, use_safetensors=True),
    }


@pytest.fixture(scope="session")
def make(scene_records, generators):
    """Run a synthesis: `make(folder, records=None, **settings of the config)`."""

    def run(folder, records=None, **settings):
        records = scene_records if records is None else records
        return synthesize(records, folder, make_config(**settings), **generators, **SIZE)

    return run


@pytest.fixture(scope="session")
def made(make, tmp_path_factory):
    """A finished synthesis of both kinds from eight records, and its folder."""
    folder = tmp_path_factory.mktemp("made") / "synthetic"
    return make(folder), folder
