"""What a training tells its trackers, read back from the files that they write."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy import ToyTask, settings

from seggen_hf.storage.files import read_json, save_image
from seggen_hf.trainers.loop import build_accelerator, train
from seggen_hf.trainers.trackers import list_trackers, name_run, report_scores

needs_trackio = pytest.mark.skipif(
    importlib.util.find_spec("trackio") is None, reason="trackio is not installed: pip install trackio"
)


@pytest.fixture(autouse=True)
def files_in_order(monkeypatch):
    """TensorBoard reads files in the order of their names, of which those of one second end in a count: with as many
    digits for all, that is the order in which they were begun."""
    from tensorboard.summary.writer import event_file_writer

    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(1000))


class ShowingTask(ToyTask):
    """Leaves a picture at each validation, as the real tasks do: its blue is the step."""

    def validate(self, step, folder):
        save_image(Image.new("RGB", (6, 4), (250, 0, step)), folder / f"step-{step:08d}.png")
        return super().validate(step, folder)


def train_in_parts(folder: Path, report_to: str) -> None:
    """Four steps; the process ends in the third, after the checkpoint of the second, and goes on from there."""
    how = {"report_to": report_to, "validation_steps": 2}
    with pytest.raises(FloatingPointError):
        train(ShowingTask(poison=3), settings(folder, **how))
    train(ShowingTask(), settings(folder, **how))
    report_scores(report_to, folder, "test", {"mIoU": 0.25, "per_label": {"sky": 0.5}, "num_images": 3}, 4)


def read_tensorboard(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "log"), size_guidance={"images": 0}).Reload()


def test_tensorboard_has_losses_pictures_and_scores_of_a_resumed_training_once(tmp_path):
    train_in_parts(tmp_path / "camvid" / "text2mask", "tensorboard")
    events = read_tensorboard(tmp_path / "camvid" / "text2mask")
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    assert [event.step for event in events.Scalars("validation/weight")] == [2, 4]
    assert [(event.step, event.value) for event in events.Scalars("test/test/mIoU")] == [(4, 0.25)]
    assert not [tag for tag in events.Tags()["scalars"] if "num_images" in tag or "per_label" in tag]
    shown = events.Images("validation/pictures")
    assert [(picture.step, picture.width, picture.height) for picture in shown] == [(2, 6, 4), (4, 6, 4)]


@needs_trackio
@pytest.mark.slow
def test_trackio_has_a_project_of_the_run_folder_and_a_run_of_the_stage(tmp_path):
    """In a process of its own: trackio reads TRACKIO_DIR at its import. No word leaves it, though there is a token."""
    script = (
        "import os, socket, sys; from pathlib import Path\n"
        "def refuse(*args, **kwargs): os._exit(99)\n"
        "socket.socket.connect = socket.socket.bind = socket.getaddrinfo = refuse\n"
        "from test_trackers import train_in_parts, read_trackio\n"
        "folder = Path(sys.argv[1]) / 'cam_vid' / 'segmenter-real' / 'seed-0'\n"
        "train_in_parts(folder, 'tensorboard,trackio')\n"
        "read_trackio('cam-vid', 'segmenter-real/seed-0')\n"
    )
    variables = {"TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": os.pathsep.join(sys.path)}
    variables |= {"HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_none"}
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode != 99, "something was to be sent"
    assert done.returncode == 0, done.stderr
    events = read_tensorboard(tmp_path / "cam_vid" / "segmenter-real" / "seed-0")
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]


def read_trackio(project: str, name: str) -> None:
    from trackio.sqlite_storage import SQLiteStorage
    from trackio.utils import project_media_dir

    (record,) = SQLiteStorage.get_run_records(project)
    assert record["name"] == name
    logs = SQLiteStorage.get_logs(project, name, run_id=record["id"])
    assert {log["step"] for log in logs if "loss" in log} == {1, 2, 3, 4}
    pictures = {log["step"]: log["validation/pictures"] for log in logs if "validation/pictures" in log}
    assert set(pictures) == {2, 4}
    for step, picture in pictures.items():
        file = project_media_dir(project).parent / picture["file_path"]
        assert np.asarray(Image.open(file)).tolist() == [[[250, 0, step]] * 6] * 4
    assert [(log["step"], log["test/test/mIoU"]) for log in logs if "test/test/mIoU" in log] == [(4, 0.25)]
    assert SQLiteStorage.get_run_config(project, name, run_id=record["id"])["learning_rate"] == "0.01"


def test_a_training_begun_anew_is_another_run(tmp_path):
    ids = set()
    for resume in (True, True, False):
        train(ToyTask(), settings(tmp_path, report_to="tensorboard", resume=resume))
        ids.add((tmp_path / "log" / "run_id").read_text())
    assert len(ids) == 2
    assert [event.step for event in read_tensorboard(tmp_path).Scalars("loss")] == [1, 2, 3, 4]


def test_runs_are_named_after_their_stage_and_projects_after_the_run_folder(tmp_path):
    assert name_run(tmp_path / "camvid" / "mask2img") == ("camvid", "mask2img")
    assert name_run(tmp_path / "my_run.2" / "segmenter-real" / "seed-3") == ("my-run-2", "segmenter-real/seed-3")
    assert name_run("/training") == ("seggen-hf", "training")


def test_trackers_are_named_and_installed_or_refused_before_anything_is_written(tmp_path):
    assert list_trackers("none") == []
    assert list_trackers("tensorboard, tensorboard") == ["tensorboard"]
    with pytest.raises(ValueError, match="'tensorbord', which is no tracker; known are none, .*tensorboard"):
        list_trackers("tensorbord")
    missing = next(name for name in ("swanlab", "aim", "dvclive") if importlib.util.find_spec(name) is None)
    with pytest.raises(ValueError, match=f"pip install {missing}"):
        build_accelerator(settings(tmp_path / "none", report_to=f"tensorboard,{missing}"))
    assert not (tmp_path / "none").exists()


def test_trackers_end_with_a_training_that_fails(tmp_path):
    with pytest.raises(FloatingPointError):
        train(ToyTask(poison=1), settings(tmp_path, report_to="tensorboard", logging_steps=1))
    assert read_json(tmp_path / "run_config.json")["report_to"] == "tensorboard"
    assert [event.step for event in read_tensorboard(tmp_path).Scalars("loss")] == [1]
