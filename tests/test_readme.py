"""What README.md shows is run; what it names is there."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from seggen_hf.cli import app
from seggen_hf.config import load_recipe
from seggen_hf.config.values import builtin_recipes
from seggen_hf.data.schema import read_map
from seggen_hf.data.sources.split import load_split

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


@pytest.mark.slow
def test_the_python_snippets_run_in_their_order(tiny_run, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(tiny_run)
    monkeypatch.chdir(tmp_path)
    names = {}
    # tests/hub runs one against a server, tests/runs/test_panoptic_run.py the other on a run.
    text = re.sub(r"\n## (The Hub|Panoptic and instance segmentation)\n.*?(?=\n## )", "", README, flags=re.DOTALL)
    for snippet in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(snippet, "README.md", "exec"), names)
    assert len(names["synthetic"]) == 16 and names["images"][0].size == (64, 64)
    assert 0 <= float(capsys.readouterr().out) <= 1


def _write_folder(folder: Path, label_file: dict, masks: dict[str, Image.Image]) -> None:
    """Two splits of one image; `masks` by what their names have after the image's, suffix and all."""
    for split in ("train", "val"):
        for name in ("images", "masks"):
            (folder / split / name).mkdir(parents=True)
        Image.effect_noise((32, 24), 50 if split == "train" else 60).save(folder / split / "images" / "0001.jpg")
        for ending, mask in masks.items():
            mask.save(folder / split / "masks" / f"0001{ending}")
    (folder / "classes.json").write_text(json.dumps(label_file))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*, and so matched:UserWarning")
def test_the_masks_that_the_readme_shows_are_read(tmp_path):
    """Its two label files and its calls of `seggen init`, each with masks as the text says that they are."""
    ids, painted = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", README, flags=re.DOTALL))
    truth = np.repeat(np.array([0] * 10 + [1] * 10 + [255] * 4, np.uint8)[:, None], 32, axis=1)
    table = np.zeros((256, 3), np.uint8)
    for entry in painted["categories"]:
        table[entry["id"]] = entry["color"]
    table[255] = painted["void_color"]
    rgb = Image.fromarray(table[truth])
    indexed = Image.fromarray(255 - truth)  # in an order that is no label's
    indexed.putpalette(table[::-1].ravel().tolist())
    more_void = np.where(np.arange(24)[:, None] == 23, 254, np.where(truth == 255, 253, truth)).astype(np.uint8)
    with_void, with_suffix = re.findall(r"seggen init FOLDER (--(?:void|mask).*?) +#", README)
    cases = {
        "ids": (ids, {".png": Image.fromarray(truth)}, ""),
        "rgb": (painted, {".png": rgb}, ""),
        "palette": (painted, {".png": indexed}, ""),
        "void": (ids, {".png": Image.fromarray(more_void)}, with_void),
        "suffix": (ids, {"_labelIds.png": Image.fromarray(truth), "_color.png": rgb}, with_suffix),
        "one": (ids, {"_mask.png": Image.fromarray(truth)}, ""),
        "image's": (ids, {".jpg.png": Image.fromarray(truth)}, ""),
    }
    for name, (label_file, masks, options) in cases.items():
        _write_folder(tmp_path / name, label_file, masks)
        recipe = tmp_path / f"{name}.yaml"
        done = CliRunner().invoke(app, ["init", str(tmp_path / name), "--out", str(recipe), *options.split()])
        assert done.exit_code == 0, done.output
        (record,) = load_split(load_recipe(recipe).data, "train", None)
        assert np.array_equal(read_map(record["segmentation_map"]), truth), name


def test_every_command_of_the_readme_exists():
    commands = set(get_command(app).commands)
    used = set(re.findall(r"seggen ([a-z]\w+)", README))
    assert used and used <= commands


def test_every_file_of_the_readme_exists():
    for path in re.findall(r"training/\w+\.py", README):
        assert (ROOT / path).is_file(), path
    for name in ("camvid_mini", "ade20k_sdxl", "coco_panoptic_sdxl"):
        assert name in builtin_recipes()


def copy_pages(folder: Path) -> tuple[Path, Path]:
    (folder / "docs").mkdir()
    return tuple(Path(shutil.copy(ROOT / name, folder / name)) for name in ("README.md", "docs/results.md"))


def test_measured_figures_come_from_a_run(tiny_run, tmp_path, load_script):
    script = load_script(ROOT / "benchmarks" / "update_readme.py")
    readme, page = copy_pages(tmp_path)
    before = page.read_text()
    script.write_results(tmp_path, [tiny_run])
    script.write_results(tmp_path, [tiny_run])  # again: replaced, not repeated
    text = page.read_text()
    assert text.count("**tiny**: scenes, 1 seed") == 1 and "| synthetic: with ImgSyn and MaskSyn |" in text
    assert "](tiny.png)" in text and (tmp_path / "docs" / "tiny.png").is_file()
    assert text.partition(END)[2] == before.partition(END)[2]
    sections = script.SECTION.split(before.partition(BEGIN)[2].partition(END)[0])
    assert len(sections) > 3 and all(section.strip() in text for section in sections)  # other runs stay
    assert readme.read_text() == README  # it shows the quickstart alone, and what is told of that stays
    with pytest.raises(ValueError, match="no results.json"):
        script.write_results(tmp_path, [tmp_path])


def test_the_readme_copies_its_figures_from_the_results(tiny_run, tmp_path, load_script, monkeypatch):
    script = load_script(ROOT / "benchmarks" / "update_readme.py")
    monkeypatch.setattr(script, "README_SHOWS", "tiny")
    readme, _ = copy_pages(tmp_path)
    script.write_results(tmp_path, [tiny_run])
    text = readme.read_text()
    assert text.count("**tiny**") == 1 and "**quickstart**" not in text and "](docs/tiny.png)" in text
    assert text.partition(END)[2] == README.partition(END)[2]
    readme.write_text(README.replace(BEGIN, ""))
    with pytest.raises(ValueError, match="README.md: there are no lines"):
        script.write_results(tmp_path, [tiny_run])


def test_chance_is_told_of_three_seeds_or_more(load_script):
    script = load_script(ROOT / "benchmarks" / "update_readme.py")

    def table(*arms):
        rows = [
            {"arm": arm, "mean": sum(values) / len(values), "seeds": dict(enumerate(values))} for arm, values in arms
        ]
        return [{"split": "test", "rows": rows}]

    real, synthetic, renderer = ("real", [0.5, 0.51, 0.52]), ("synthetic", [0.6, 0.61, 0.62]), ("renderer", [0.71] * 3)
    told = script.describe_chance(table(real, synthetic, renderer))
    assert "on test p = 3e-04, and 50% of the gap to `renderer`" in told
    assert "gap" not in script.describe_chance(table(real, synthetic))
    assert script.describe_chance(table(("real", [0.5, 0.51]), synthetic)) == ""
