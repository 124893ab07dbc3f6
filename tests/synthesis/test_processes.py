"""training/synthesize.py as users start it: several processes, killed at any moment, called again."""

import dataclasses
import json
import signal
import time
from pathlib import Path

import pytest
from forked_python import client_environment, run_ranks, start_python
from synthesis_settings import SIZE, largest_difference, make_config

from seggen_hf import load_synthetic

SCRIPT = Path(__file__).parents[2] / "training" / "synthesize.py"
ENVIRONMENT = client_environment(ACCELERATE_USE_CPU="true", OMP_NUM_THREADS=1)


@pytest.fixture(scope="module")
def records_dir(scene_records, tmp_path_factory):
    folder = tmp_path_factory.mktemp("records") / "scenes"
    scene_records.save_to_disk(folder)
    return folder


@pytest.fixture
def command(records_dir, generator_dirs, tmp_path):
    """The script's arguments for what `made` was made with, into `tmp_path / "synthetic"`."""
    text2mask, mask2img = generator_dirs
    config = make_config(text2mask_model=str(text2mask), mask2img_model=str(mask2img))
    config = dataclasses.replace(config, output_dir=str(tmp_path / "synthetic"))
    values = {"dataset_name": records_dir, **SIZE, **dataclasses.asdict(config)}
    for name in ("caption_styles", "caption_attributes", "style_writer"):  # empty, which no flag says
        values.pop(name)
    return [str(SCRIPT), *(str(part) for name, value in values.items() for part in (f"--{name}", value))]


def finished(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "data").glob("*.parquet")}


@pytest.mark.slow
def test_two_processes_make_the_rows_of_one(command, made, tmp_path):
    first, other = run_ranks(command, ENVIRONMENT, tmp_path)
    assert "32/32" in first.stderr and "Traceback" not in first.stderr + other.stderr
    assert largest_difference(load_synthetic(tmp_path / "synthetic"), made[0]) <= 1
    summary = json.loads((tmp_path / "synthetic" / "summary.json").read_text())
    ours = json.loads((made[1] / "summary.json").read_text())
    assert summary["num_processes"] == 2 and summary["num_kept"] == ours["num_kept"]
    assert summary["kinds"]["masksyn"]["dropped"] == ours["kinds"]["masksyn"]["dropped"]


@pytest.mark.slow
def test_a_killed_synthesis_goes_on_where_it_was(command, made, make, tmp_path):
    folder = tmp_path / "synthetic"
    with open(tmp_path / "log", "w") as log:
        running = start_python(command, ENVIRONMENT, tmp_path, log=log)
    try:
        deadline = time.monotonic() + 240
        while not finished(folder):
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    kept = finished(folder)
    assert 1 <= len(kept) < 8 and not (folder / "summary.json").exists()
    with pytest.warns(UserWarning, match="is not finished"):
        assert 0 < len(load_synthetic(folder)) < len(made[0])

    # What a kill inside the writing of a shard leaves behind.
    number = len(kept)
    half = folder / "data" / f"train-{'imgsyn' if number < 4 else 'masksyn'}-{number % 4:05d}.parquet.tmp"
    half.write_bytes(b"PAR1 half of a shard")
    rows = make(folder)
    assert largest_difference(rows, made[0]) <= 1
    assert {name: time for name, time in finished(folder).items() if name in kept} == kept  # not made again
    assert not half.exists()
