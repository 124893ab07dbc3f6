"""The recipe of a folder fits it, loads, and runs."""

import dataclasses
import json

import pytest
import real_files as make
import yaml
from PIL import Image
from typer.testing import CliRunner

from seggen_hf.cli import app
from seggen_hf.config import load_recipe
from seggen_hf.runs.first_recipe import name_for, survey, write_first_recipe


def flat(root, names):
    """Images and masks in `root` itself, which is one split."""
    make.folder(root, images=[f"{name}.jpg" for name in names], masks=[f"{name}.png" for name in names])
    for part in ("images", "masks"):
        (root / "train" / part).rename(root / part)
    (root / "train").rmdir()
    return root


def test_splits_are_named_as_they_are(tmp_path):
    make.folder(tmp_path, split="training", size=(30, 60))
    make.folder(tmp_path, split="valid", size=(30, 60))
    found = survey(tmp_path)
    assert (found.train_split, found.test_splits, found.task) == ("training", ("valid",), "semantic")
    assert (found.num_records, found.num_labels) == (1, 2)


@pytest.mark.parametrize("preset", [None, "24gb"])
def test_a_folder_with_one_split_gets_a_held_out_part(tmp_path, preset):
    root = flat(tmp_path / "my data!", [f"patient{i % 6}_{i:02d}" for i in range(30)])
    (root / "unlabelled").mkdir()
    for i in range(3):
        make.picture(root / f"unlabelled/{i}.jpg")
    done = CliRunner().invoke(app, ["init", str(root), "--out", str(tmp_path / "r.yaml"), "--json"]
                              + (["--preset", preset] if preset else []))  # fmt: skip
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)["told"]
    assert len(told) == 3 and "30 labelled images" in told[0] and "3 images without masks" in told[0]
    assert "a fifth of it is held out to score on, whole groups of 6" in told[1]
    recipe = load_recipe(tmp_path / "r.yaml")
    assert recipe.name == "my-data" and recipe.data.held_out == 0.2 and recipe.data.test_splits == ["held-out"]
    assert recipe.evaluation.arms == ["real", "copy-paste", "self-training", "synthetic-copy-paste"]
    assert (recipe.data.height, recipe.data.width) == (recipe.text2mask.height, recipe.text2mask.width)
    ratio = recipe.data.height / recipe.data.width
    assert 0.75 < ratio / (make.SIZE[0] / make.SIZE[1]) < 1.35
    bases = {recipe.adapt.base_model, recipe.text2mask.base_model, recipe.mask2img.base_model}
    assert bases == {"miniature" if preset is None else "stabilityai/stable-diffusion-xl-base-1.0"}
    assert recipe.adapt.train_text_encoders == (preset is None)  # SDXL's know the words
    again = CliRunner().invoke(app, ["init", str(root), "--out", str(tmp_path / "r.yaml")])
    assert again.exit_code == 1 and "exists, and may hold what somebody wrote" in again.stderr


@pytest.mark.parametrize("task", ["semantic", "panoptic", "instance"])
@pytest.mark.parametrize("preset", [None, "12gb", "80gb"])
def test_recipes_of_every_task_and_card_load(tmp_path, task, preset):
    for split in ("train", "val"):
        make.panoptic(tmp_path / split)
    root = tmp_path / "train"
    text, _ = write_first_recipe(survey(root, task), "mine", preset)
    (tmp_path / "mine.yaml").write_text(text)
    recipe = load_recipe(tmp_path / "mine.yaml")
    assert recipe.data.task == task and recipe.name == "mine"
    assert yaml.safe_load(text)["evaluation"]["seeds"] == [0, 1, 2]


@pytest.mark.parametrize("preset", ["24gb", "80gb"])
def test_a_recipe_can_begin_with_flux2(tmp_path, preset):
    root = flat(tmp_path / "mine", [f"{i:02d}" for i in range(10)])
    (root / "unlabelled").mkdir()
    make.picture(root / "unlabelled/0.jpg")
    command = ["init", str(root), "--out", str(tmp_path / "r.yaml"), "--base", "flux2"]
    done = CliRunner().invoke(app, [*command, "--preset", preset])
    assert done.exit_code == 0 and "FLUX.2-klein draws at" in done.stdout, done.output
    recipe = load_recipe(tmp_path / "r.yaml")
    for section in (recipe.adapt, recipe.text2mask, recipe.mask2img):
        assert section.base_model.startswith("black-forest-labs/FLUX.2-klein") and section.lora_rank == 32
        assert section.height % 16 == section.width % 16 == 0 and section.height * section.width <= 1024 * 1024
    assert not recipe.mask2img.train_base and recipe.synthesis.conditioning_scale == 1


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["--base", "flux2"], 1, "--base flux2 needs a card"),
        (["--base", "flux2", "--preset", "16gb"], 1, "Presets 24gb, 48gb, 80gb hold it"),
        (["--base", "sd15", "--preset", "24gb"], 2, "There is no base 'sd15'; there are sdxl, flux2."),
    ],
)
def test_bases_that_do_not_fit_are_refused(tmp_path, words, status, told):
    make.folder(tmp_path / "mine", split="train")
    refused = CliRunner().invoke(app, ["init", str(tmp_path / "mine"), "--out", str(tmp_path / "r.yaml"), *words])
    assert refused.exit_code == status and told in refused.stderr
    assert not (tmp_path / "r.yaml").exists()


def test_images_of_many_segments_are_cut_into_tiles(tmp_path):
    make.panoptic(tmp_path / "data")
    found = dataclasses.replace(survey(tmp_path / "data"), segments=375)
    text, told = write_first_recipe(found, "mine", None)
    (tmp_path / "mine.yaml").write_text(text)
    recipe = load_recipe(tmp_path / "mine.yaml")
    assert recipe.data.tiles == 4 and recipe.data.height == recipe.data.width and "tiles of 4 x 4" in told[2]


def test_a_cpu_starts_from_shipped_weights_but_on_the_scenes_that_they_know(tmp_path):
    for source, model in ((flat(tmp_path / "shapes", ["a", "b"]), "miniature-scenes"), ("scenes", "miniature")):
        text, _ = write_first_recipe(survey(source), "mine", None)
        (tmp_path / "mine.yaml").write_text(text)
        assert load_recipe(tmp_path / "mine.yaml").segmenter.model == model


@pytest.mark.slow
def test_a_folder_is_run_without_a_recipe(tmp_path, monkeypatch, miniature_dir):
    """Its recipe is written beside the runs, said in lines, and the next call takes it as it is then."""
    monkeypatch.chdir(tmp_path)
    root = flat(tmp_path / "shapes", [f"{i:02d}" for i in range(10)])
    small = ["text2mask.max_train_steps=1", "mask2img.max_train_steps=1", "segmenter.max_train_steps=1"]
    small += [f"{name}.base_model={miniature_dir}" for name in ("text2mask", "mask2img")]
    small += ["segmenter.model=unit", "evaluation.seeds=[0]", "synthesis.max_color_distance=500"]
    small += ["synthesis.imgsyn_variants=1", "synthesis.masksyn_variants=1", "synthesis.max_ignored_share=1"]
    small += ["synthesis.text2mask_steps=1", "synthesis.mask2img_steps=1", "segmenter.train_batch_size=2"]
    small += [f"{name}.num_validation_images=1" for name in ("text2mask", "mask2img")]
    small += ["text2mask.lr_warmup_steps=0", "mask2img.lr_warmup_steps=0", "segmenter.lr_warmup_steps=0"]
    words = ["run", str(root)] + [word for setting in small for word in ("--set", setting)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "the recipe is runs/shapes.yaml" in done.stderr and "held out" in done.stderr
    assert (tmp_path / "runs/shapes/report.html").is_file()
    scores = json.loads((tmp_path / "runs/shapes/results.json").read_text())["scores"]
    assert {(row["arm"], row["num_images"]) for row in scores} == {
        (arm, 2) for arm in ("real", "copy-paste", "synthetic-copy-paste")
    }
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0 and "the recipe is" not in again.stderr


def test_a_folder_that_is_run_is_read_as_it_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        names = [f"{i}{kind}.png" for i in range(2) for kind in ("_ids", "_color")]
        make.folder(tmp_path / "mine", split=split, images=[f"{i}.jpg" for i in range(2)], masks=names)
    command = ["run", "mine", "--dry-run", "--set", "segmenter.max_train_steps=1"]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 1 and not (tmp_path / "runs").exists(), refused.output
    wrong = CliRunner().invoke(app, [*command, "--set", "data.mask_sufix=_ids"])
    assert wrong.exit_code == 1 and "mask_suffix" in wrong.stderr
    done = CliRunner().invoke(app, [*command, "--set", "data.mask_suffix=_ids", "--set", "data.task=semantic"])
    assert done.exit_code == 0, done.output
    assert load_recipe(tmp_path / "runs/mine.yaml").data.mask_suffix == "_ids"


@pytest.mark.parametrize(("folder", "name"), [("my data!", "my-data"), ("...", "data"), ("a_b-1", "a_b-1")])
def test_names_are_those_of_folders(tmp_path, folder, name):
    assert name_for(tmp_path / folder) == name


def test_what_is_no_data_set_is_told(tmp_path):
    done = CliRunner().invoke(app, ["init", str(tmp_path)])
    assert done.exit_code == 1 and "is no layout that can be read" in done.stderr
    assert CliRunner().invoke(app, ["init", str(tmp_path), "--preset", "1gb"]).exit_code == 2


def test_how_the_data_is_read_is_written_into_the_recipe(tmp_path):
    names = [f"{i}{kind}.png" for i in range(4) for kind in ("_labelIds", "_color")]
    for split in ("train", "val"):
        make.folder(tmp_path / "data", split=split, images=[f"{i}.jpg" for i in range(4)], masks=names)
    command = ["init", str(tmp_path / "data"), "--out", str(tmp_path / "r.yaml")]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 1 and "each image has 2 masks" in refused.output and "--mask_suffix" in refused.output
    done = CliRunner().invoke(app, [*command, "--mask-suffix", "_labelIds", "--void-ids", "7", "--void-ids", "9"])
    assert done.exit_code == 0, done.output
    data = load_recipe(tmp_path / "r.yaml").data
    assert (data.mask_suffix, data.void_ids, data.mask_column) == ("_labelIds", [7, 9], None)


@pytest.mark.parametrize("preset", [None, "24gb"])
def test_the_base_sees_dark_images_brightened(tmp_path, preset):
    for name in ("dark", "bright"):
        for split in ("train", "val"):
            make.folder(tmp_path / name, split=split)
    for path in (tmp_path / "dark/train/images").iterdir():
        with Image.open(path) as image:
            image.point(lambda value: value // 16).save(path)
    recipes = {}
    for name in ("dark", "bright"):
        text, _ = write_first_recipe(survey(tmp_path / name), name, preset)
        (tmp_path / f"{name}.yaml").write_text(text)
        recipes[name] = load_recipe(tmp_path / f"{name}.yaml")
    assert recipes["dark"].mask2img.image_gamma == recipes["dark"].adapt.image_gamma == 0.5
    assert recipes["bright"].mask2img.image_gamma == 1
