"""Syntheses with the generators of unit size."""

import pytest
from synthesis_settings import SIZE, make_config

from seggen_hf import Mask2ImgPipeline, Text2MaskPipeline
from seggen_hf.synthesis import synthesize


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
