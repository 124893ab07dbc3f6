"""What a command may fill: a new or empty folder, or one of its own kind, whenever it was interrupted."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features, Image
from typer.testing import CliRunner

from seggen_hf.cli import app
from seggen_hf.config import Text2MaskConfig
from seggen_hf.data.schema import encode_image, encode_map
from seggen_hf.data.sources.load import load_records
from seggen_hf.demo.decisions import Decisions
from seggen_hf.labels import LabelSet
from seggen_hf.storage import folders
from seggen_hf.storage.folders import (
    BASE,
    CAPTIONS,
    DECISIONS,
    FILTERED,
    RUN,
    SIGN,
    SYNTHESIS,
    TRAINING,
    check_folder,
    claim_folder,
    hold_folder,
)
from seggen_hf.trainers.script import run_script
from seggen_hf.trainers.text2mask import Text2MaskTask

KINDS = [kind for kind in vars(folders).values() if isinstance(kind, folders.Kind)]
SCRIPTS = Path(__file__).parents[2] / "training"
# What a home folder, a project or a data set of somebody holds, under names that we write too.
FOREIGN = {
    "labels.json": "mine",
    "id2label.json": "{}",
    "dataset_info.json": "mine",
    "recipe.yaml": "name: mine",
    "run_config.json": '{"mine": 1}',
    "manifest.json": '{"name": "app", "icons": []}',
    "model_index.json": "mine",
    "stage.json": '{"stage": 3}',
    "log/notes.txt": "mine",
    "unet/config.json": "mine",
    "data/train-00000.parquet": "mine",
}


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def fill(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "arguments",
    [
        ["caption", "no-such-data", "OUT"],
        ["run", "quickstart", "--out", "OUT"],
        ["quickstart", "--out", "OUT"],
        ["train", "text2mask", "quickstart", "--out", "OUT"],
        ["synthesize", "no-such-data", "OUT", "--mask2img", "no-such-model"],
        ["filter", "RUN", "--out", "OUT"],
        ["demo", "--text2mask", "no-such-model", "--mask2img", "no-such-model", "--out", "OUT"],
        ["doctor", "no-such-data", "--fix", "OUT"],
        ["report", "OUT"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_leave_a_folder_of_others_alone_and_say_so_first(arguments, tiny_run, tmp_path):
    """First: the sources and models that are named here do not exist, and nobody has asked for them."""
    out = fill(tmp_path / "mine", FOREIGN)
    result = call(*[{"OUT": out, "RUN": tiny_run}.get(argument, argument) for argument in arguments])
    assert result.exit_code == 1 and result.stderr.count("\n") == 1, result.stderr
    assert str(out) in result.stderr and ("exists" if arguments[0] == "doctor" else "holds data") in result.stderr
    assert contents(out) == FOREIGN


@pytest.mark.parametrize("name", ["text2mask", "train_seg", "synthesize", "train_base"])
def test_scripts_leave_a_folder_of_others_alone_and_say_so_first(name, load_script, tmp_path, monkeypatch, capsys):
    out = fill(tmp_path / "mine", FOREIGN)
    arguments = ["--output_dir", str(out)]
    source = ["--dataset_name", "no-such-data", *arguments]
    if name == "text2mask":
        assert run_script(Text2MaskConfig, Text2MaskTask, None, source) == 1
        told = capsys.readouterr().err
    elif name == "train_seg":
        assert load_script(SCRIPTS / f"{name}.py").main(source) == 1
        told = capsys.readouterr().err
    elif name == "synthesize":
        with pytest.raises(SystemExit, match="1"):
            load_script(SCRIPTS / f"{name}.py").main([*source, "--mask2img_model", "none", "--masksyn_variants", "0"])
        told = capsys.readouterr().err
    else:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(SystemExit) as stopped:
            load_script(SCRIPTS / f"{name}.py").main()
        told = stopped.value.code
    assert told.startswith("error: ") and "holds data, dataset_info.json, id2label.json and 8 more" in told
    assert told.count("--output_dir") == 1 and contents(out) == FOREIGN


def test_a_source_that_cannot_be_read_leaves_no_folder(load_script, tmp_path):
    source = ["--dataset_name", str(tmp_path / "no-such-data"), "--output_dir", str(tmp_path / "out")]
    assert run_script(Text2MaskConfig, Text2MaskTask, None, source) == 1
    assert load_script(SCRIPTS / "train_seg.py").main(source) == 1
    assert call("caption", tmp_path / "no-such-data", tmp_path / "out").exit_code == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_one_rule_for_every_kind(kind, tmp_path):
    claim_folder(tmp_path / "new" / "folder", kind)
    assert check_folder(tmp_path / "new" / "folder", kind)
    for name, text in FOREIGN.items():  # each alone, as nobody of us has written it
        with pytest.raises(ValueError, match=f"holds {name.split('/')[0]}, and was not begun as the folder of"):
            claim_folder(fill(tmp_path / name.replace("/", "-"), {name: text}), kind)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        claim_folder(tmp_path / "file", kind)
    os.symlink(tmp_path / "nowhere", tmp_path / "link")
    with pytest.raises(ValueError, match="is a link to nothing"):
        claim_folder(tmp_path / "link", kind)
    with pytest.raises(ValueError, match="cannot be made: Not a directory"):
        claim_folder(tmp_path / "file" / "below", kind)
    for other in KINDS:
        if other is not kind:
            with pytest.raises(ValueError, match=f"is the folder of {kind.name}, not of {other.name}"):
                check_folder(tmp_path / "new" / "folder", other)


def test_who_only_looks_writes_nothing(tmp_path):
    assert not check_folder(tmp_path / "new", RUN)
    claim_folder(tmp_path / "new", RUN, is_main=False)
    assert not (tmp_path / "new").exists()


def test_what_systems_put_into_folders_counts_for_nothing(tmp_path):
    fill(tmp_path, {".DS_Store": "", ".gitkeep": "", f"{SIGN}.tmp": '{"ki'})  # the last one: killed at once
    claim_folder(tmp_path, CAPTIONS)
    assert json.loads((tmp_path / SIGN).read_text()) == {"kind": "records with captions"}
    with pytest.raises(ValueError, match=r"holds \.cache"):  # hidden is not ours: what is in it would be removed
        claim_folder(fill(tmp_path / "b", {".cache/x": ""}), CAPTIONS)


@pytest.mark.slow
def test_captions_go_on_whenever_they_were_interrupted(tmp_path, monkeypatch):
    """Interrupted before each renaming in its folder in turn; the first one is the sign's."""
    maps = [encode_map(np.full((16, 16), i % 2, np.uint8), 2) for i in range(2)]
    rows = [{"image": encode_image(np.zeros((16, 16, 3), np.uint8)), "mask": value} for value in maps]
    features = Features({"image": Image(), "mask": Image()})
    Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "data")
    fill(tmp_path / "data", {"classes.json": '["sky", "road"]'})
    rename = os.replace

    def interrupted(out: Path, after: int) -> bool:
        left = after

        def stop(source, target):
            nonlocal left
            if Path(target).parent == out:
                left -= 1
                if left < 0:
                    raise KeyboardInterrupt
            return rename(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", stop)
            return "goes on where it was" in call("caption", tmp_path / "data", out).stderr

    number = 0
    while interrupted(out := tmp_path / f"out-{number}", number):
        result = call("caption", tmp_path / "data", out)
        assert result.exit_code == 0, (number, result.stderr)
        assert load_records(out)["caption"][:] == ["a photo of sky", "a photo of road"]
        number += 1
    assert number >= 5  # the sign, both label files, the rows and what makes them a data set


@pytest.mark.slow
def test_runs_of_versions_without_a_sign_go_on(tiny_run, tiny_recipe, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    assert (run / SIGN).is_file()
    (run / SIGN).unlink()
    assert check_folder(run, RUN) and call("run", tiny_recipe, "--out", run).exit_code == 0
    shutil.rmtree(run / "log")  # as it is copied without what is hidden, or in parts
    shutil.rmtree(run / "captions")
    (run / SIGN).unlink(missing_ok=True)
    assert check_folder(run, RUN) and call("report", run).exit_code == 0
    begun = fill(tmp_path / "begun", {"log/.lock": "4711"})  # as early as can be
    assert check_folder(begun, RUN)
    for name, kind in (("text2mask", TRAINING), ("segmenter-real/seed-0", TRAINING), ("synthetic", SYNTHESIS)):
        (run / name / SIGN).unlink()
        assert check_folder(run / name, kind)
        shutil.copytree(run / name, tmp_path / "alone" / name, ignore=shutil.ignore_patterns("stage.json"))
        assert check_folder(tmp_path / "alone" / name, kind)
    with pytest.raises(ValueError, match="was not begun as the folder of a synthesis"):
        check_folder(run / "text2mask", SYNTHESIS)


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        (TRAINING, {"stage.started.json": '{"stage": "mask2img"}'}),
        (TRAINING, {"captions.jsonl": ""}),
        (TRAINING, {"cache/facts.json": '{"height": 64}', "captions.jsonl": ""}),
        (TRAINING, {"run_config.json": '{"max_train_steps": 3}', "model_index.json": "{}"}),
        (SYNTHESIS, {"stage.started.json": '{"stage": "synthetic"}'}),
        (SYNTHESIS, {"manifest.json": '{"shards": [], "fingerprint": {}}'}),
        (FILTERED, {"manifest.json": '{"shards": [], "fingerprint": {}, "class_losses": {}}'}),
        (CAPTIONS, {"progress.jsonl": ""}),
        (CAPTIONS, {".saving/data-00000-of-00001.arrow": "", "labels.json": ""}),
        (DECISIONS, {"labels.json": "{}", "id2label.json": "{}"}),
        (DECISIONS, {f"data/train-masksyn-{7:020d}.parquet": "", "labels.json": "{}", "id2label.json": "{}"}),
        (BASE, {"cache/prior-2-1.npy": ""}),
        (BASE, {"cache/captions.json": "", "decoder/run_config.json": '{"max_train_steps": 3}'}),
    ],
    ids=lambda value: value.name if isinstance(value, folders.Kind) else None,
)
def test_what_versions_without_a_sign_began_goes_on(kind, files, tmp_path):
    assert check_folder(fill(tmp_path, files), kind)
    with pytest.raises(ValueError, match="was not begun as"):
        check_folder(tmp_path, RUN)


def test_a_published_data_set_does_not_take_decisions(tmp_path):
    labels = LabelSet.from_id2label({0: "sky", 1: "tree"})
    labels.save(tmp_path)
    fill(tmp_path, {"data/train-00000-of-00001.parquet": "mine"})
    with pytest.raises(ValueError, match="holds data, id2label.json, labels.json, and was not begun"):
        Decisions(tmp_path, labels)
    Decisions(tmp_path / "new", labels)
    assert Decisions(tmp_path / "new", labels).counts() == {"keep": 0, "reject": 0}


HOLD = """
import sys, time
from seggen_hf.storage.folders import SYNTHESIS, claim_folder, hold_folder
claim_folder(sys.argv[1], SYNTHESIS)
with hold_folder(sys.argv[1], SYNTHESIS):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("has_sign", [True, False])
def test_one_process_fills_a_folder_and_another_says_so(tmp_path, has_sign):
    out = tmp_path / "out"
    if not has_sign:  # begun by a version that left none
        (out / "data").mkdir(parents=True)
        (out / "manifest.json").write_text('{"shards": [], "fingerprint": {}}')
    first = subprocess.Popen([sys.executable, "-c", HOLD, out], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "held\n"
        claim_folder(out, SYNTHESIS)
        with pytest.raises(ValueError, match=rf"{out} is in use by another process\. Wait .* --output_dir"):
            with hold_folder(out, SYNTHESIS):
                pass
    finally:
        first.kill()
        first.communicate()
    with hold_folder(out, SYNTHESIS), pytest.raises(ValueError, match="in use"), hold_folder(out, SYNTHESIS):
        pass
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == [".seggen.json"]
