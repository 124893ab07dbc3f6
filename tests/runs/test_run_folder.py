import pytest

from seggen_hf.config import load_recipe, save_recipe
from seggen_hf.runs.folder import RunFolder, find_stage


@pytest.fixture
def run(tiny_recipe, tmp_path):
    run = RunFolder(tmp_path / "run")
    for folder in (run.captions, run.segmenter("style-augmentation", 3), run.segmenter("real", 0)):
        folder.mkdir(parents=True)
    save_recipe(load_recipe(tiny_recipe), run.recipe_file)
    return run


def test_a_stage_lies_where_its_name_says(run):
    assert run.stage("captions") == run.captions
    assert run.stage("segmenter-style-augmentation/seed-3") == run.segmenter("style-augmentation", 3)
    assert run.list_segmenters() == [run.segmenter("real", 0), run.segmenter("style-augmentation", 3)]
    assert run.marker("captions") is None


def test_the_run_of_a_stage_is_found_from_its_folder(run):
    for name in ("captions", "segmenter-style-augmentation/seed-3"):
        found, stage = find_stage(run.stage(name))
        assert (found.path, stage) == (run.path, name)
    assert find_stage(run) is None and find_stage(run.path.parent) is None


def test_any_other_folder_is_told_to_be_no_run(run, tmp_path):
    assert run.recipe() == load_recipe(run.recipe_file)
    assert run.is_run and not RunFolder(tmp_path).is_run
    with pytest.raises(ValueError, match=f"{tmp_path} is no run folder: it has no recipe.yaml"):
        RunFolder(tmp_path).recipe()
