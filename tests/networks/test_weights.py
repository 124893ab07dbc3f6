"""Weights that are not whole are refused where a network is scored or drawn with, in one line."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from unit_segmenters import unit_config

from seggen_hf import Text2MaskPipeline
from seggen_hf.config import SynthesisConfig, Text2MaskConfig
from seggen_hf.data.scenes.records import scene_labels
from seggen_hf.segmenter.build import build_segmenter, find_config, load_segmenter
from seggen_hf.synthesis.generators import open_pipeline
from seggen_hf.trainers.generator import load_base


def edit(file, change) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def lose(tensors):
    del tensors[sorted(tensors)[3]]


def spoil(tensors):
    tensors[sorted(tensors)[3]].view(-1)[0] = torch.nan


def add(tensors):
    tensors["another"] = torch.zeros(1)


@pytest.fixture
def segmenter(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(unit_config("resnet").to_dict()))
    model, processor = build_segmenter(tmp_path / "config.json", scene_labels())
    folder = tmp_path / "segmenter"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("change", "told"),
    [(lose, "1 tensors are missing"), (spoil, "1 tensors hold NaN"), (add, "1 tensors are unexpected")],
)
def test_a_segmenter_that_is_not_whole_is_not_scored(segmenter, change, told):
    load_segmenter(segmenter, scene_labels())
    edit(segmenter / "model.safetensors", change)
    with pytest.raises(ValueError, match=told):
        load_segmenter(segmenter, scene_labels())


def test_weights_of_a_pickle_are_told_and_not_left_out(segmenter):
    (segmenter / "model.safetensors").rename(segmenter / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin, a pickle"):
        find_config(segmenter, None)


@pytest.mark.parametrize(("part", "change"), [("unet", spoil), ("text_encoder_2", lose), ("vae", spoil)])
def test_a_base_that_is_not_whole_is_not_trained_on(miniature_dir, tmp_path, part, change):
    folder = shutil.copytree(miniature_dir, tmp_path / "base")
    load_base(Text2MaskConfig(base_model=str(folder)))
    edit(next((folder / part).glob("*.safetensors")), change)
    with pytest.raises(ValueError, match=f"{part}"):
        load_base(Text2MaskConfig(base_model=str(folder)))


def test_a_generator_that_is_not_whole_does_not_draw(tiny_run, tmp_path):
    folder = shutil.copytree(tiny_run / "text2mask", tmp_path / "text2mask")
    open_pipeline(Text2MaskPipeline, str(folder), SynthesisConfig())
    edit(next((folder / "text_encoder").glob("*.safetensors")), lose)
    with pytest.raises(ValueError, match="text_encoder.*1 tensors are missing"):
        open_pipeline(Text2MaskPipeline, str(folder), SynthesisConfig())
