import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from toy import ToyTask, settings

from seggen_hf.trainers.checkpoints import list_checkpoints
from seggen_hf.trainers.loop import build_accelerator, train
from seggen_hf.trainers.window import LogWindow

# What makes the host wait for a device: Python values of tensors, copies to the host, sizes that depend on values.
READS = {
    "item",
    "tolist",
    "cpu",
    "numpy",
    "__bool__",
    "__float__",
    "__int__",
    "__index__",
    "__array__",
    "__contains__",
}
OPERATORS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique"}


class Reads(TorchFunctionMode):
    """Counts, in each step, what would wait for a device; `steps[0]` is what came before the first loss."""

    def __init__(self):
        super().__init__()
        self.steps, self.paused = [[]], False

    def note(self, name: str) -> None:
        if not self.paused:
            self.steps[-1].append(name)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in READS:
            self.note(name)
        return function(*args, **(kwargs or {}))


class Operators(TorchDispatchMode):
    def __init__(self, reads: Reads):
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in OPERATORS:
            self.reads.note(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def read_in_steps(folder, steps: int, accelerator=None, **changes) -> list[list[str]]:
    """What each step of a training waited for, from its loss to the next one's; the task itself waits for nothing."""
    reads = Reads()

    class Counted(ToyTask):
        def loss(self, module, batch):
            reads.steps.append([])
            return super().loss(module, batch)

    changes = {"max_train_steps": steps, "checkpointing_steps": 0, "logging_steps": 4, "ema_decay": 0.9} | changes
    with reads, Operators(reads):
        train(Counted(), settings(folder, **changes), accelerator)
    return reads.steps[1:]


def test_the_counter_sees_what_waits():
    reads = Reads()
    value = torch.ones(2)
    with reads, Operators(reads):
        value[0].item(), value.tolist(), float(value[0]), bool(value[0] > 0), value.cpu(), value.nonzero()
    assert {"item", "tolist", "cpu", "nonzero"} <= set(reads.steps[0])
    assert len(reads.steps[0]) >= 6


@pytest.mark.parametrize(
    "changes", [{}, {"gradient_accumulation_steps": 2}, {"max_grad_norm": 0.0}, {"mixed_precision": "bf16"}]
)
def test_only_steps_with_a_log_line_wait_for_the_device(tmp_path, changes):
    steps = 10 * changes.get("gradient_accumulation_steps", 1)
    accelerator = build_accelerator(settings(tmp_path, **changes))
    found = read_in_steps(tmp_path, 10, accelerator, **changes)
    assert len(found) == steps
    found = [sum(found[i : i + steps // 10], []) for i in range(0, steps, steps // 10)]
    assert [i + 1 for i, reads in enumerate(found) if reads] == [4, 8, 10]
    assert found[3] == found[7] and len(found[3]) == 1


def test_a_window_is_reduced_once(tmp_path, monkeypatch):
    accelerator, calls = build_accelerator(settings(tmp_path)), []
    monkeypatch.setattr(accelerator, "reduce", lambda t, reduction: calls.append((tuple(t.shape), reduction)) or t)
    read_in_steps(tmp_path, 10, accelerator, gradient_accumulation_steps=2)
    assert calls == [((8, 2), "mean"), ((8, 2), "mean"), ((4, 2), "mean")]


def test_a_line_is_the_mean_of_the_lines_of_its_steps(tmp_path):
    every = train(ToyTask(), settings(tmp_path / "every", max_train_steps=6)).history
    third = train(ToyTask(), settings(tmp_path / "third", max_train_steps=6, logging_steps=3)).history
    lines = [line for line in every if "loss" in line]
    for start, line in zip((0, 3), third, strict=False):
        for name in ("loss", "largest", "grad_norm"):
            assert line[name] == pytest.approx(sum(one[name] for one in lines[start : start + 3]) / 3, rel=1e-12)
        assert line["lr"] == lines[start + 2]["lr"]


@pytest.mark.parametrize(("norms", "expected"), [((2.0, float("inf"), 4.0), 3.0), ((float("inf"),) * 3, None)])
def test_steps_that_a_scaler_skips_have_no_norm(tmp_path, norms, expected):
    """JSON has no infinity."""
    window = LogWindow(build_accelerator(settings(tmp_path)), 1, "a training", forgives_gradients=True)
    for _ in range(2):
        for step, norm in enumerate(norms):
            window.add_loss(step, torch.tensor(6.0), {})
            window.end_step(torch.tensor(norm))
        line = window.line()
        assert line == {"loss": 6.0} | ({} if expected is None else {"grad_norm": expected})


@pytest.mark.parametrize("poison_gradient", [False, True])
@pytest.mark.parametrize("checkpointing_steps", [2, 0])
def test_the_first_step_that_went_wrong_is_named_later(tmp_path, poison_gradient, checkpointing_steps):
    task = ToyTask(poison=2, poison_gradient=poison_gradient)
    changes = {"max_train_steps": 9, "logging_steps": 7, "checkpointing_steps": checkpointing_steps}
    with pytest.raises(FloatingPointError, match="(gradient|loss) became (nan|inf) at step 2 "):
        train(task, settings(tmp_path, **changes))
    assert len(list_checkpoints(tmp_path / "checkpoints")) == (1 if checkpointing_steps else 0)
    steps_taken = len(task.seen) // 2
    assert steps_taken == (4 if checkpointing_steps else 7)


def test_what_fails_because_of_an_earlier_step_is_told_as_that(tmp_path):
    class Strict(ToyTask):
        def loss(self, module, batch):
            if not torch.isfinite(module[0].weight).all():
                raise ValueError("matrix contains invalid numeric entries")
            return super().loss(module, batch)

    with pytest.raises(FloatingPointError, match="gradient became nan at step 3 "):
        train(
            Strict(poison=3, poison_gradient=True),
            settings(tmp_path, logging_steps=10, checkpointing_steps=0, max_train_steps=8),
        )
