"""What is staged tells nothing of the machine that made it."""

import json
import re
import shutil

import pytest

from seggen_hf.hub.publish import stage
from seggen_hf.hub.push_plan import plan_push
from seggen_hf.runs.cards import RunCards


@pytest.fixture
def run(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "run")


def test_configurations_do_not_say_from_which_folder_they_were_loaded(run):
    places = ["text2mask/unet/config.json", "text2mask/tokenizer/tokenizer_config.json", "text2mask/model_index.json"]
    places += ["mask2img/controlnet/config.json", "segmenter-synthetic/seed-0/config.json"]
    known = {}
    for place in places:
        known[place] = json.loads((run / place).read_text())
        known[place].pop("_name_or_path", None)
        origins = {
            "_name_or_path": "/home/ada/x",
            "name_or_path": "/home/ada/x",
            "inner": [{"tokenizer_file": "/home/ada"}],
        }
        (run / place).write_text(json.dumps(known[place] | origins))
    for artifact in stage(plan_push(run, "seggen", ["text2mask", "mask2img", "segmenter", "adapters"])):
        for path in artifact.folder.rglob("*"):
            assert not path.is_file() or b"/home/ada" not in path.read_bytes(), path
    staged = json.loads((run / "hub" / "tiny-segmenter" / "config.json").read_text())
    del known[places[-1]]["backbone_config"]["_name_or_path"]  # transformers writes it there too
    assert staged == known[places[-1]] | {"inner": [{}]}


def test_a_folder_called_scenes_is_not_taken_for_the_built_in_ones(run):
    recipe = run / "recipe.yaml"
    recipe.write_text(re.sub(r"dataset_name: .*", "dataset_name: /home/ada/scenes", recipe.read_text()))
    card = RunCards(run).pipeline("text2mask")
    assert "Apache-2.0" not in card.partition("## Where it comes from")[2].partition("Base model")[0]
    assert "`scenes`, which is not published here" in card and "pushed as private" in card
