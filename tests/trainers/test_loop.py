import json
import multiprocessing
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toy import ToyTask, settings

from seggen_hf.config import TrainingConfig
from seggen_hf.trainers.checkpoints import list_checkpoints, read_state
from seggen_hf.trainers.loop import describe_training, train
from seggen_hf.trainers.optimizer import lr_factor
from seggen_hf.trainers.stream import RankBatches, SampleStream


def weights(folder) -> dict:
    return load_file(Path(folder) / "toy.safetensors")


def same(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one | other)


@pytest.mark.parametrize(
    "average", [{"ema_decay": 0.0}, {"ema_decay": 0.9}, {"ema_decay": 0.9, "ema_update_steps": 2}]
)
def test_four_steps_equal_two_then_two_more(tmp_path, average):
    train(ToyTask(), settings(tmp_path / "whole", **average))
    train(ToyTask(), settings(tmp_path / "parts", **average, max_train_steps=2))
    resumed = ToyTask()
    run = train(resumed, settings(tmp_path / "parts", **average))
    assert len(resumed.seen) == 4 and run.steps == 4
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert [line["step"] for line in run.history if "loss" in line] == [1, 2, 3, 4]


def test_accumulated_batches_equal_one_large_batch(tmp_path):
    one = train(dropless(), settings(tmp_path / "one", train_batch_size=4))
    four = train(dropless(), settings(tmp_path / "four", train_batch_size=1, gradient_accumulation_steps=4))
    for a, b in zip(one.history, four.history, strict=True):
        assert a.get("loss", 0) == pytest.approx(b.get("loss", 0), rel=1e-5)
    pairs = zip(weights(one.folder).values(), weights(four.folder).values(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)


def dropless() -> ToyTask:
    task = ToyTask()
    task.trainable[1].p = 0.0
    return task


def test_every_record_is_seen_once_an_epoch_in_another_order():
    stream = SampleStream(ToyTask(num_records=7), seed=3, samples_per_step=2)
    epochs = [[stream.record_index(e * 7 + p) for p in range(7)] for e in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize(("world_size", "batch_size"), [(2, 3), (3, 2), (6, 1)])
def test_ranks_share_the_batches_that_one_process_sees(world_size, batch_size):
    alone = list(RankBatches(2, 5, 2, 6, 0, 1))
    shared = [list(RankBatches(2, 5, 2, batch_size, rank, world_size)) for rank in range(world_size)]
    joint = [sum(parts, []) for parts in zip(*shared, strict=True)]
    assert joint == alone


@pytest.mark.parametrize("poison_gradient", [False, True])
def test_an_infinite_loss_or_gradient_stops_with_one_line_and_keeps_the_checkpoint(tmp_path, poison_gradient):
    task = ToyTask(poison=3, poison_gradient=poison_gradient)
    with pytest.raises(FloatingPointError, match="at step 3 .*Lower --learning_rate") as error:
        train(task, settings(tmp_path))
    assert "\n" not in str(error.value)
    kept = list_checkpoints(tmp_path / "checkpoints")
    assert [path.name for path in kept] == ["step-00000002"]
    assert all(torch.isfinite(t).all() for t in load_file(kept[0] / "model.safetensors").values())
    assert not (tmp_path / "toy.safetensors").exists()
    assert train(ToyTask(), settings(tmp_path)).steps == 4


def test_checkpoints_rotate_and_the_last_step_has_one(tmp_path):
    train(ToyTask(), settings(tmp_path, max_train_steps=7, checkpointing_steps=2, checkpoints_total_limit=2))
    names = [path.name for path in list_checkpoints(tmp_path / "checkpoints")]
    assert names == ["step-00000006", "step-00000007"]


def test_validation_sees_the_average_and_training_goes_on_without_it(tmp_path):
    task = ToyTask()
    run = train(task, settings(tmp_path, validation_steps=2, ema_decay=0.5))
    assert task.validated == [2, 4]
    told = [line["validation/weight"] for line in run.history if "validation/weight" in line]
    assert told[-1] == pytest.approx(float(weights(tmp_path)["0.weight"].sum()))
    assert told[-1] != pytest.approx(task.trainable[0].weight.detach().sum().item())


def test_settings_that_change_the_stream_are_refused_on_resuming(tmp_path):
    train(ToyTask(), settings(tmp_path, max_train_steps=2))
    with pytest.raises(ValueError, match="train_batch_size was 2 and is now 3"):
        train(ToyTask(), settings(tmp_path, train_batch_size=3))
    assert train(ToyTask(), settings(tmp_path, train_batch_size=3, resume=False)).steps == 4


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("change", ["learning_rate", "records", "snr"])
def test_a_checkpoint_of_other_settings_or_data_is_refused_before_anything_is_written(tmp_path, finished, change):
    train(ToyTask(6), settings(tmp_path, max_train_steps=4 if finished else 2))
    before = (tmp_path / "run_config.json").read_text()
    task, changes, told = {
        "learning_rate": (ToyTask(6), {"learning_rate": 0.5}, "learning_rate was 0.01 and is now 0.5"),
        "records": (ToyTask(7), {}, "records was 6 and is now 7"),
        "snr": (ToyTask(6), {"weight_decay": 0.3}, "weight_decay was"),
    }[change]
    with pytest.raises(ValueError, match=f"cannot be continued: {told}"):
        train(task, settings(tmp_path, **changes))
    assert (tmp_path / "run_config.json").read_text() == before and not task.seen
    how = {"logging_steps": 3, "validation_steps": 1, "num_validation_images": 0, "checkpoints_total_limit": 9}
    known = {name: value for name, value in how.items() if hasattr(settings(tmp_path), name)}
    assert train(ToyTask(6), settings(tmp_path, **known)).steps == 4


def test_steps_may_grow_with_a_warning_and_a_training_beyond_its_end_is_refused(tmp_path, caplog):
    def run(steps):
        return train(ToyTask(), settings(tmp_path, max_train_steps=steps, checkpointing_steps=2))

    run(4)
    assert not caplog.records
    assert run(6).steps == 6
    assert "planned for 4 steps" in caplog.text
    four = run(4)  # the checkpoint of exactly this step is there still
    assert four.steps == 4 and [line["step"] for line in four.history if "loss" in line] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="beyond --max_train_steps 3"):
        run(3)


def test_a_finished_training_may_be_saved_by_another_number_of_processes(tmp_path):
    train(ToyTask(), settings(tmp_path, max_train_steps=2))
    (path,) = list_checkpoints(tmp_path / "checkpoints")
    fingerprint = describe_training(ToyTask(), settings(tmp_path, max_train_steps=2), processes=8)
    assert read_state(path, fingerprint).step == 2
    with pytest.raises(ValueError, match="processes was 1 and is now 8"):
        read_state(path, fingerprint | {"max_train_steps": 4})


def test_starting_again_sets_the_old_checkpoints_aside(tmp_path):
    train(ToyTask(), settings(tmp_path, max_train_steps=8))
    with pytest.raises(FloatingPointError):
        train(ToyTask(poison=5), settings(tmp_path, max_train_steps=8, learning_rate=1e-4, resume=False))
    assert [p.name for p in list_checkpoints(tmp_path / "checkpoints")] == ["step-00000002", "step-00000004"]
    assert [p.name for p in list_checkpoints(tmp_path / "checkpoints.replaced-1")][-1] == "step-00000008"
    task = ToyTask()
    train(task, settings(tmp_path, max_train_steps=8, learning_rate=1e-4))
    assert len(task.seen) == 8  # steps 4 to 8 of the new training
    train(ToyTask(), settings(tmp_path, max_train_steps=2, resume=False))
    assert (tmp_path / "checkpoints.replaced-2").is_dir()


@pytest.mark.parametrize("steps", [2, 4])
def test_a_failing_validation_loses_nothing_and_is_made_up(tmp_path, steps):
    class Failing(ToyTask):
        def validate(self, step, folder):
            if step == steps:
                raise MemoryError
            return super().validate(step, folder)

    with pytest.raises(MemoryError):
        train(Failing(), settings(tmp_path, validation_steps=2))
    assert list_checkpoints(tmp_path / "checkpoints")[-1].name == f"step-0000000{steps}"
    task = ToyTask()
    run = train(task, settings(tmp_path, validation_steps=2))
    assert len(task.seen) == 2 * (4 - steps) and task.validated == [2, 4][steps // 2 - 1 :]
    assert [line["step"] for line in run.history if "validation/weight" in line] == [2, 4]
    again = ToyTask()
    train(again, settings(tmp_path, validation_steps=2))
    assert not again.validated


def test_worker_processes_give_the_same_samples(tmp_path):
    train(ToyTask(), settings(tmp_path / "none"))
    train(ToyTask(), settings(tmp_path / "two", dataloader_num_workers=2))
    assert same(weights(tmp_path / "none"), weights(tmp_path / "two"))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1, 1, 0.5 * (1 + np.cos(np.pi / 4)), 0.5, 0.5 * (1 + np.cos(np.pi * 0.75))]),
        ("polynomial", [0.5, 1, 1, 0.75**0.9, 0.5**0.9, 0.25**0.9]),
        ("multistep", [0.5, 1, 1, 0.1, 0.1, 0.01]),
    ],
)
def test_schedules_warm_up_and_fall(schedule, expected):
    milestones = [3, 5] if schedule == "multistep" else []
    config = TrainingConfig(max_train_steps=6, lr_warmup_steps=2, lr_scheduler=schedule, lr_milestones=milestones)
    assert [lr_factor(config, step) for step in range(6)] == pytest.approx(expected)


def test_milestones_rise_and_need_their_schedule():
    for wrong in ([5, 3], [3, 6], [0, 3]):
        with pytest.raises(ValueError, match="rising steps below max_train_steps 6"):
            TrainingConfig(max_train_steps=6, lr_scheduler="multistep", lr_milestones=wrong)
    for settings_of in ({"lr_scheduler": "multistep"}, {"lr_milestones": [3]}):
        with pytest.raises(ValueError, match="go together"):
            TrainingConfig(max_train_steps=6, **settings_of)


def test_a_run_leaves_its_settings_and_history(tmp_path):
    run = train(ToyTask(), settings(tmp_path))
    assert json.loads((tmp_path / "run_config.json").read_text())["learning_rate"] == 1e-2
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert lines == run.history and {"loss", "largest", "lr", "grad_norm", "samples_per_second"} <= set(lines[0])


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
def test_processes_that_load_have_the_task_without_being_sent_it(tmp_path):
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("forkserver", force=True)  # Python 3.14's own choice
    try:
        task = ToyTask()
        task.unsendable = threading.Lock()
        train(task, settings(tmp_path, dataloader_num_workers=1))
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert task.seen == []  # all of them were drawn elsewhere
