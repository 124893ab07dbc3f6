"""benchmarks/reproduce.py: recipes, pairs of seeds, and the page that tells what is known so far."""

import json
import shutil
from pathlib import Path

import pytest

from seggen_hf.arms import check_arms
from seggen_hf.runs.pairs import protocol_digest

SHRUNK = """data.max_train_records=4 data.max_test_records=2 segmenter.model=unit segmenter.max_train_steps=1
segmenter.lr_warmup_steps=0 segmenter.train_batch_size=2 evaluation.arms=[real] evaluation.jobs=1""".split()


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(Path(__file__).parents[2] / "benchmarks" / "reproduce.py")


def test_every_study_has_a_recipe_that_loads(script, tmp_path):
    for study in script.STUDIES.values():
        if study.folder:
            (tmp_path / study.folder).mkdir(exist_ok=True)
        recipe = study.recipe(tmp_path, "data.train_records_seed=1", "evaluation.seeds=[1]")
        check_arms(recipe)
        assert recipe.name == study.name and recipe.data.max_train_records <= 60
        arms = {"real", "imgsyn", "masksyn", "synthetic", "copy-paste"} | ({study.ceiling} - {"all-labels"})
        assert arms <= set(recipe.evaluation.arms)
        assert bool(study.folder) == bool(recipe.data.unlabelled) == ("self-training" in recipe.evaluation.arms)


@pytest.fixture
def two_seeds(script, tiny_run, tmp_path):
    """Two runs of the study of scenes; in the second one `synthetic` is better than `real` by 4 points more."""
    for seed in (0, 1):
        run = shutil.copytree(tiny_run, tmp_path / "scenes" / f"seed-{seed}")
        results = json.loads((run / "results.json").read_text())
        for row in results["scores"]:
            row["seed"] = seed
            row["mIoU"] = 0.4 + 0.1 * seed + (row["arm"] != "real") * (0.02 + 0.04 * seed)
        ceiling = [row | {"arm": "renderer", "mIoU": 0.7} for row in results["scores"] if row["arm"] == "real"]
        results["scores"] += ceiling
        (run / "results.json").write_text(json.dumps(results))
    return tmp_path


def describe(script, out) -> str:
    study = script.STUDIES["scenes"]
    return script.describe(study, script.gather(study, out))


def test_the_page_tells_gain_chance_and_gap(script, two_seeds):
    text = describe(script, two_seeds)
    assert "25 labels, 2 of 4 seeds; mIoU in %" in text and "On test:" in text and "On unseen:" in text
    (line,) = {line for line in text.splitlines() if line.startswith("| synthetic")}
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[1] == "49.0" and cells[2].startswith("+4.0 ± ") and cells[4] == "16%"  # of 0.25 on average
    assert cells[5] == "42.0 (0), 56.0 (1)" and 0 < float(cells[3]) < 1
    nuclei = script.STUDIES["nuclei"]
    assert script.describe(nuclei, script.gather(nuclei, two_seeds)) is None


def test_arms_without_a_common_seed_are_not_compared(script):
    scores = {"real": {"test": {0: 0.4}}, "renderer": {"test": {1: 0.5}}, "synthetic": {"test": {0: 0.45}}}
    text = script.describe(script.STUDIES["scenes"], {"protocol": None, "scores": scores, "hours": {}})
    assert "| renderer | 50.0 |  |  |  | 50.0 (1) |" in text and "| synthetic | 45.0 | +5.0 |  |  | 45.0 (0) |" in text


def test_the_readme_has_the_headline_of_each_study(script, two_seeds, tmp_path):
    study, readme = script.STUDIES["scenes"], tmp_path / "README.md"
    readme.write_text("# A\n\n<!-- studies:begin -->\nold\n<!-- studies:end -->\n\nend\n")
    known = script.gather(study, two_seeds)
    script.write_readme(readme, {"scenes": known})
    text = readme.read_text()
    assert "old" not in text and text.startswith("# A\n") and text.endswith("\n\nend\n")
    assert "- scenes, 2 draws of 25 labels, mIoU: test 45.0 -> 49.0 (+4.0 ± " in text
    assert "16% of what renderer brings" in text and "; unseen 45.0 -> 49.0" in text
    first = {arm: {split: {0: by_seed[0]} for split, by_seed in by_split.items()} for arm, by_split in
             known["scores"].items()}  # fmt: skip
    assert "one draw of 25 labels" in (told := script.headline(study, known | {"scores": first}))
    assert "(+2.0, one draw, 7% of what renderer brings)" in told
    assert script.headline(study, {"scores": {"real": {}}}) is None


def test_the_page_tells_where_nothing_was_to_be_gained(script, two_seeds):
    assert "nothing was to be gained" not in describe(script, two_seeds)
    for path in two_seeds.glob("scenes/*/results.json"):
        results = json.loads(path.read_text())
        for row in results["scores"]:
            row["mIoU"] = 0.1 if row["arm"] == "renderer" else row["mIoU"]
        path.write_text(json.dumps(results))
    text = describe(script, two_seeds)
    assert text.count("Here nothing was to be gained: renderer is no better than real.") == 2 and "%  |" not in text


def test_scores_measured_elsewhere_by_the_same_recipe_count_on(script, two_seeds):
    page = two_seeds / "page.md"
    words = ["--write-only", "--out", str(two_seeds), "--page", str(page)]
    assert script.main(words) == 0
    shutil.rmtree(two_seeds / "scenes" / "seed-0")
    first = page.read_text()
    assert script.main(words) == 0 and page.read_text() == first and "2 of 4 seeds" in first
    table = json.loads(page.with_suffix(".json").read_text())
    assert table["scenes"]["scores"]["real"]["test"] == {"0": 0.4, "1": 0.5}
    assert set(table["scenes"]["hours"]) == {"seed-0", "seed-1"}
    # Another study's scores stay; those of another recipe give way to what is measured now.
    table["camvid"] = table["scenes"]
    table["scenes"] = table["scenes"] | {"protocol": "of other steps"}
    page.with_suffix(".json").write_text(json.dumps(table))
    assert script.main(words) == 0
    text = page.read_text()
    assert text.index("## scenes") < text.index("1 of 4 seeds") < text.index("## camvid")
    assert "Measured with other settings than those of today's recipe." in text  # those of the miniature run


def test_runs_of_different_recipes_are_not_put_into_one_table(script, two_seeds):
    study = script.STUDIES["scenes"]
    recipe = two_seeds / "scenes" / "seed-1" / "recipe.yaml"
    text = recipe.read_text()
    recipe.write_text(text + "\n")
    script.gather(study, two_seeds)
    changed = text.replace("max_train_steps: ", "max_train_steps: 1", 1)
    assert changed != text
    recipe.write_text(changed)
    with pytest.raises(ValueError, match="follow different recipes"):
        script.gather(study, two_seeds)


def test_the_protocol_is_the_same_for_all_seeds_of_a_study_and_its_ceiling(script, tmp_path):
    study = script.STUDIES["scenes"]
    plain = protocol_digest(study.recipe(tmp_path))
    other_seed = ["data.train_records_seed=2", "evaluation.seeds=[2]", "mask2img.seed=2", "evaluation.jobs=1"]
    every = ["data.max_train_records=null", "evaluation.arms=[real]"]
    assert plain == protocol_digest(study.recipe(tmp_path, *other_seed))
    assert plain == protocol_digest(study.recipe(tmp_path, *every))
    assert plain != protocol_digest(study.recipe(tmp_path, "segmenter.max_train_steps=7"))


@pytest.mark.slow
def test_a_study_runs_each_seed_in_a_folder_of_its_own(script, tmp_path, capsys):
    words = ["scenes", "nuclei", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--seeds", "0,1"]
    words += ["--page", str(tmp_path / "page.md")] + [word for item in SHRUNK for word in ("--set", item)]
    assert script.main(words) == 0
    told = capsys.readouterr().out
    assert "skipped: nuclei needs the data set in" in told and "== scenes, seed 1 of 4" in told
    ids = [json.loads((tmp_path / f"out/scenes/seed-{seed}/captions/stage.json").read_text()) for seed in (0, 1)]
    assert ids[0]["fingerprint"] != ids[1]["fingerprint"]
    assert "| real |" in (tmp_path / "page.md").read_text()
    assert script.main(words) == 0 and "done in" not in capsys.readouterr().out  # what is finished is kept
    assert script.main(["nuclei", "--data", str(tmp_path), "--page", str(tmp_path / "page.md")]) == 1
    with pytest.raises(SystemExit):
        script.main(["nucleus"])
