"""Names of users and files stay one part of a path, wherever they come from."""

import json
import shutil

import numpy as np
import pytest
from huggingface_hub.utils import validate_repo_id
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from seggen_hf.cli import app
from seggen_hf.config import load_recipe
from seggen_hf.hub.publish import stage
from seggen_hf.hub.push_plan import plan_push
from seggen_hf.hub.staging import stage_pipeline
from seggen_hf.pictures.report import PictureFolder
from seggen_hf.runs.redo import finish_moves
from seggen_hf.storage.names import WrongName, check_name, is_hub_id

WRONG = (
    "../../victim", "/etc", "a/b", "a/../..", "..", ".", "", ".hidden", "-flag", "a--b", "a..b", "a.git", "CON",
    "com1.txt", "a\n", "a b", "ä", "a\\b", "C:x", "x" * 97, "ends.", "ends-",
)  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_name_is_refused_in_one_line(name):
    with pytest.raises(WrongName, match="^--name is ") as error:
        check_name(name, "--name")
    assert "\n" not in str(error.value) and len(str(error.value)) < 250


@pytest.mark.parametrize("name", ["a", "7", "_x", "coco_panoptic_sdxl", "My-Run.v2", "console", "x" * 96])
def test_names_of_the_hub_are_names(name):
    assert check_name(name, "name") == name


@settings(derandomize=True)
@given(st.text(alphabet=st.sampled_from("aZ09_-./\\ \n\u00e4~"), max_size=99) | st.text())
def test_what_is_taken_the_hub_takes_too_and_it_stays_in_its_folder(tmp_path_factory, name):
    try:
        check_name(name, "name")
    except WrongName:
        return
    validate_repo_id(f"{name}/{name}")
    folder = tmp_path_factory.getbasetemp()
    assert (folder / name).resolve().parent == folder.resolve() and is_hub_id(f"{name}/no-such-name")


@pytest.mark.parametrize("name", ["../../victim", "/tmp/victim", "my recipe"])
def test_a_recipe_is_not_called_so(tmp_path, name):
    (tmp_path / "x.yaml").write_text(f"name: {name}\n")
    result = CliRunner().invoke(app, ["run", str(tmp_path / "x.yaml"), "--only", "caption"])
    assert result.exit_code == 2 and "--set name=NAME" in result.stderr and result.stderr.count("\n") == 1
    assert load_recipe(tmp_path / "x.yaml", ["name=fine"]).name == "fine"
    (tmp_path / "my recipe.yaml").write_text("data: {height: 64}\n")
    with pytest.raises(ValueError, match="Give another as `name:`"):
        load_recipe(tmp_path / "my recipe.yaml")


@pytest.mark.parametrize("split", ["../../victim", "/tmp/victim"])
def test_a_test_split_is_not_called_so(split):
    with pytest.raises(ValueError, match="--test_splits is"):
        load_recipe("quickstart", [f"data.test_splits=[{split}]"])


@pytest.fixture
def victim(tmp_path):
    """A folder that names could lead to; whatever a test does, its content must stay."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "thesis.txt").write_text("mine")
    yield tmp_path / "victim"
    assert [path.name for path in (tmp_path / "victim").iterdir()] == ["thesis.txt"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--namespace", "a", "--name", "../../victim"],
        ["--namespace", "a", "--name", "{victim}"],
        ["--namespace", "a/../..", "--name", "victim"],
        ["--namespace", "a/../../..", "--name", ""],
        ["--namespace", "a", "--name", "x" * 96],
        ["--namespace", "", "--name", "x"],
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_push_is_not_called_so(tiny_run, tmp_path, victim, flags, dry_run):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    words = ["push", run, *(flag.format(victim=victim) for flag in flags), *(["--dry-run"] if dry_run else [])]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.output
    assert "so it must" in result.stderr and not (run / "hub").exists()


def test_files_of_a_run_folder_name_nothing_outside_of_it(tiny_run, tmp_path, victim):
    run = shutil.copytree(tiny_run, tmp_path / "run")

    def change(file, old, new):
        text = (run / file).read_text()
        assert old in text
        (run / file).write_text(text.replace(old, new))

    recipe = (run / "recipe.yaml").read_text()
    change("recipe.yaml", "name: tiny\n", "name: ../../victim\n")
    with pytest.raises(ValueError, match="recipe's name is '../../victim'"):
        plan_push(run, "seggen")
    (run / "recipe.yaml").write_text(recipe)

    fingerprint = json.loads((run / "synthetic" / "stage.json").read_text())["fingerprint"]
    change("synthetic/stage.json", fingerprint, "/../../../victim")
    with pytest.raises(ValueError, match="The fingerprint in .* is 'round-/../../"):
        plan_push(run, "seggen")

    change("text2mask/model_index.json", '"unet": [', '"../../victim": [')
    with pytest.raises(ValueError, match="A component in .* is '../../victim'"):
        stage_pipeline(run / "text2mask", tmp_path / "run" / "hub" / "x")

    pictures = PictureFolder(run / "pictures")  # whose names begin with a split of results.json
    for add, picture in ((pictures.add, np.zeros((4, 4, 3), np.uint8)), (pictures.add_chart, "<svg/>")):
        with pytest.raises(ValueError, match="is '../../victim/test-0'"):
            add("../../victim/test-0", picture, "a map")

    entry = {"redo": [], "recipe_hash": "", "place": "replaced/1", "is_moved": False, "paths": [str(victim)]}
    for paths, place in ([[str(victim)], "replaced/1"], [["../victim"], "replaced/1"], [["captions"], "../victim"]):
        (run / "log" / "redo.json").write_text(json.dumps(entry | {"paths": paths, "place": place}))
        with pytest.raises(ValueError, match="is not in the run folder"):
            finish_moves(run)
    assert (run / "captions").is_dir()


@pytest.mark.slow
def test_what_was_not_staged_is_not_cleared(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    kinds = ["text2mask", "mask2img", "segmenter", "dataset", "adapters", "metrics", "space"]
    for place, kind in (
        ("mine-text2mask", "text2mask"), ("mine-synthetic", "dataset"), ("mine-segmenter", "segmenter"),
        ("mine-controlnet", "adapters"), ("mean_iou", "metrics"), ("mine-demo", "space"),
    ):  # fmt: skip
        foreign = run / "hub" / place
        for name in ("notes.txt", "round-0/notes.txt"):
            (foreign / name).parent.mkdir(parents=True, exist_ok=True)
            (foreign / name).write_text("mine")
        with pytest.raises(
            ValueError,
            match=f"{place} holds notes.txt, round-0, and was not begun as the folder of a repository to push",
        ):
            stage(plan_push(run, "seggen", [kind], name="mine"))
        assert sorted(p.name for p in foreign.rglob("*")) == ["notes.txt", "notes.txt", "round-0"]
        shutil.rmtree(foreign)
    (run / "hub" / "mine-mask2img").mkdir()  # empty: nobody's
    (run / "hub" / "mine-mask2img" / ".seggen.json.tmp").write_text("{")  # of a call that was killed
    staged = stage(plan_push(run, "seggen", kinds, name="mine"))
    (staged[0].folder / "left.bin").write_text("of an earlier push")
    (staged[0].folder / "link").symlink_to(tmp_path)
    assert stage(plan_push(run, "seggen", kinds, name="mine")) is not None
    assert not (staged[0].folder / "left.bin").exists() and not (staged[0].folder / "link").is_symlink()
    assert tmp_path.is_dir() and (run / "recipe.yaml").is_file()

    shutil.rmtree(staged[0].folder)
    staged[0].folder.symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(ValueError, match="is a link|is a file"):
        stage(plan_push(run, "seggen", ["text2mask"], name="mine"))
