"""The stages of a run, a few steps of each on the machine at hand: do they run, how much do they take, how fast.

Models have the recipe's configurations and random weights, records are made up: nothing is downloaded, and nothing
larger than a few pictures is written.
"""

import contextlib
import dataclasses
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from ..config import Recipe, TrainingConfig
from ..labels import LabelSet
from ..networks.modules import move
from ..process.children import begin_child, child_context, start_child
from ..process.quiet import quiet_libraries
from ..provenance import library_versions
from ..segmenter.evaluation import evaluate_segmenter
from ..segmenter.layers import enable_checkpointing
from ..synthesis.generators import decoding, place, quiet
from ..synthesis.manifest import SynthesisPlan
from ..synthesis.shard_maker import ShardMaker
from ..synthesis.shards import write_shard
from ..trainers.generator import build_panoptic_codec
from ..trainers.loop import train
from ..trainers.mask2img import Mask2ImgTask
from ..trainers.reference import ReferenceTask
from ..trainers.segmenter import SegmenterTask
from ..trainers.text2mask import Text2MaskTask
from .made_up import made_up_records, random_family, random_generators, random_segmenter
from .run_plan import RunPlan
from .segmenter import ASPECT
from .stage_plan import GIB, StagePlan
from .watch import Watch, held_bytes, synchronize

WARM_UP, STEPS = 2, 4  # of a training: the first ones tune and allocate
SLOWEST_CPU = 5e10  # FLOP/s that any CPU reaches; a stage that would take more than the limit there is left out
LIMIT = 600.0  # seconds
RECORDS = 16
CPU_OVERHEAD = 64 * 2**20  # bytes that kernels load and keep at their first use; seen in each stage of the miniature


class Enough(Exception):
    """The steps that were asked for are done: the training need not go on."""


@dataclass
class Measured:
    """One stage as it ran here.

    Attributes:
        peak, planned (`int`): bytes of the card's memory; on a CPU of the whole process.
        held (`int`): bytes of it before the stage began.
        samples_per_second (`float`): of one process; hours: of the whole stage by as many processes as are planned;
            None where it failed.
        is_finite (`bool`): all losses, or all that was drawn.
        phases (`dict`): bytes at the worst moment of each part of the stage.
        failure (`str`): why it did not run.
    """

    name: str
    planned: int
    peak: int = 0
    held: int = 0
    samples_per_second: float | None = None
    hours: float | None = None
    is_finite: bool | None = None
    phases: dict[str, int] = dataclasses.field(default_factory=dict)
    failure: str | None = None

    def to_dict(self) -> dict:
        """JSON values."""
        return vars(self)

    def to_text(self) -> str:
        """One line for a person."""
        if self.failure is not None:
            return f"{self.name}: does not run here: {self.failure}"
        finite = "finite" if self.is_finite else "NOT FINITE"
        return (
            f"{self.name}: runs, {finite}, peak {self.peak / GIB:.2f} GiB (planned {self.planned / GIB:.2f}), "
            f"{self.samples_per_second:.3g} samples a second, {self.hours:.3g} hours in all"
        )


class ShortTraining:
    """A task of `trainers.loop` that ends the training after a few steps and a validation; it writes no weights.

    The loop is the real one, with the settings of the real training: its steps are those that a run makes.
    """

    keeps_nothing = True

    def __init__(self, task, accumulation: int, device: torch.device, profiler=None):
        self._task, self._accumulation, self._device, self._profiler = task, accumulation, device, profiler
        self._watch, self._begun = Watch(device), 0.0
        self.losses: list[torch.Tensor] = []
        self.phases: dict[str, int] = {}
        self.seconds = 0.0  # of `STEPS` steps

    def __getattr__(self, name):
        return getattr(self._task, name)

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        self._watch.start()
        self._task.to(device, dtype)
        self.phases["encodes the data"] = self._watch.stop()
        self._watch.start()

    def loss(self, module, batch):
        if len(self.losses) == WARM_UP * self._accumulation:
            synchronize(self._device)
            if self._profiler is not None:
                self._profiler.start()
            self._begun = time.perf_counter()
        loss, parts = self._task.loss(module, batch)
        self.losses.append(loss.detach())
        return loss, parts

    def validate(self, step: int, folder: Path) -> dict:
        self.phases["trains"] = self._watch.stop()
        self.seconds = time.perf_counter() - self._begun
        if self._profiler is not None:
            self._profiler.stop()
        self._watch.start()
        self._task.validate(step, folder)
        self.phases["draws validation images"] = self._watch.stop()
        raise Enough

    @property
    def is_finite(self) -> bool:
        return all(bool(torch.isfinite(loss)) for loss in self.losses)


def measure_run(recipe: Recipe, labels: LabelSet, plan: RunPlan, say: Callable[[str], None]) -> list[Measured]:
    """Run every stage of `plan` a few steps on the machine at hand; one that fails is told, and the rest goes on.

    Each in a process of its own: none finds what an earlier one left, and one that the system kills takes no other
    with it.
    """
    context = child_context(__name__)
    measured = []
    for stage, times in zip(plan.stages, plan.times, strict=True):
        say(f"{stage.name}: a few steps of it")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_measure_in_process, args=(sender, recipe, labels, stage))
        start_child(process)
        sender.close()
        try:
            entry = receiver.recv()
        except EOFError:
            process.join()
            failure = f"its process ended by itself ({_ending(process.exitcode)})"
            entry = Measured(stage.name, stage.peak, failure=failure)
        process.join()
        if entry.samples_per_second:
            entry.hours = times * stage.samples / (plan.processes * entry.samples_per_second) / 3600
        measured.append(entry)
        say(entry.to_text())
    return measured


def describe_machine() -> str:
    """The card, or the CPU's cores, and the libraries: what a measurement is worth nothing without."""
    if torch.cuda.is_available():
        place = torch.cuda.get_device_name()
    else:
        place = f"a CPU, {torch.get_num_threads()} threads"
    versions = library_versions()
    return f"{place}; " + ", ".join(f"{name} {versions[name]}" for name in ("torch", "diffusers", "transformers"))


def _ending(status: int) -> str:
    if status == -signal.SIGKILL:
        return "killed; most likely the machine's memory does not suffice"
    return f"signal {-status}" if status < 0 else f"status {status}"


def _measure_in_process(sender, recipe: Recipe, labels: LabelSet, stage: StagePlan) -> None:
    begin_child()
    quiet_libraries()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    entry = Measured(stage.name, stage.peak if device.type == "cuda" else stage.peak_on_cpu)
    with tempfile.TemporaryDirectory(prefix="seggen-plan-") as folder:
        try:
            _check_patience(stage, device)
            _load_kernels(device)
            Trial(entry, recipe, labels, stage, Path(folder), device).run()
        except Exception as error:  # whatever keeps it from running here is what the user asked about
            entry.failure = " ".join(str(error).split())[:500] or type(error).__name__
    sender.send(entry)


def _load_kernels(device: torch.device) -> None:
    """What libraries load at the first convolution is no part of a stage."""
    layer = torch.nn.Conv2d(4, 4, 3).to(device)
    layer(torch.zeros(1, 4, 8, 8, device=device)).flatten(1).matmul(
        torch.zeros(144, 4, device=device)
    ).sum().backward()


def _check_patience(stage: StagePlan, device: torch.device) -> None:
    """Raise `ValueError` for a stage of another machine's size: minutes of a card are days of a CPU."""
    seconds = (WARM_UP + STEPS) * stage.step_flops / SLOWEST_CPU
    if device.type == "cpu" and seconds > LIMIT:
        cost = f"a few steps of it would take some {seconds / 60:,.0f} minutes on a CPU"
        raise ValueError(f"{cost}; measure it on a machine with a GPU")


@dataclass
class Trial:
    """A stage on the machine at hand: what it is, where it may write, and the entry that it fills; a profiler of
    torch, if there is one, sees the steps of a training that are timed."""

    entry: Measured
    recipe: Recipe
    labels: LabelSet
    stage: StagePlan
    folder: Path
    device: torch.device
    profiler: object | None = None

    def run(self) -> None:
        """Fill the entry. Raises: whatever keeps the stage from running here."""
        _MEASURES[self.stage.kind](self)

    def records(self, count: int, height: int, width: int) -> Dataset:
        return made_up_records(self.labels, count, height, width, self.recipe.data.task)

    def begin(self) -> None:
        """Note what the process holds before its models are there; on a CPU they come on top of it."""
        self.entry.held = held_bytes(self.device)
        if self.device.type == "cpu":
            self.entry.planned += self.entry.held + CPU_OVERHEAD

    def train(self, task, config: TrainingConfig) -> None:
        """The loop's own steps, few of them."""
        accumulation = config.gradient_accumulation_steps
        short: Any = ShortTraining(task, accumulation, self.device, self.profiler)
        changes = {
            "output_dir": str(self.folder / "training"),
            "max_train_steps": max(config.max_train_steps, WARM_UP + STEPS + 1),
            "checkpointing_steps": 0,
            "validation_steps": WARM_UP + STEPS,
            "report_to": "none",
            "resume": False,
        }
        with contextlib.suppress(Enough):
            train(short, dataclasses.replace(config, **changes))
        self.entry.phases, self.entry.peak = short.phases, max(short.phases.values())
        self.entry.is_finite = short.is_finite
        self.entry.samples_per_second = STEPS * config.train_batch_size * accumulation / short.seconds


def _measure_generator(trial: Trial) -> None:
    kind, recipe, labels = trial.stage.kind, trial.recipe, trial.labels
    config = getattr(recipe, kind)
    changes = {"validation_inference_steps": 2, "output_dir": str(trial.folder / "training")}
    if kind == "mask2img":  # weights that would have to be fetched
        changes |= {"validation_segmenter": None, "controlnet_model": None}
    config = dataclasses.replace(config, **changes)
    records = trial.records(RECORDS, config.height, config.width)
    trial.begin()
    family = random_family(config, trial.device)
    mask2img = ReferenceTask if family.name == "flux2" else Mask2ImgTask
    task_class: Any = {"text2mask": Text2MaskTask, "mask2img": mask2img}[kind]
    trial.train(task_class(family, config, records, labels, build_panoptic_codec(recipe.data, labels)), config)


def _measure_segmenter(trial: Trial) -> None:
    config, task = trial.recipe.segmenter, trial.recipe.data.task
    records = trial.records(RECORDS, config.crop_height, round(config.crop_width * ASPECT))
    trial.begin()
    model, processor = random_segmenter(config, trial.labels, trial.folder, task)
    config = dataclasses.replace(config, synthetic_mode="replace", synthetic_until=1.0)
    made = SegmenterTask(model, processor, config, trial.labels, records, task=task)
    if config.gradient_checkpointing:
        enable_checkpointing(model)
    trial.train(made, config)


def _measure_evaluation(trial: Trial) -> None:
    batch, _, height, width = trial.stage.shapes["pixel values"]
    records, task = trial.records(2 * batch, height, width), trial.recipe.data.task
    trial.begin()
    model, processor = random_segmenter(trial.recipe.segmenter, trial.labels, trial.folder, task)
    move(model, trial.device).eval()
    watch = Watch(trial.device)
    watch.start()
    for part in (range(batch), range(2 * batch)):  # the first to warm up
        begun = time.perf_counter()
        evaluate_segmenter(model, processor, records.select(part), task, batch, labels=trial.labels)
        seconds = time.perf_counter() - begun
    trial.entry.peak = watch.stop()
    trial.entry.samples_per_second = 2 * batch / seconds
    trial.entry.is_finite = True  # what is not is refused


def _measure_synthesis(trial: Trial) -> None:
    """One batch, with few denoising steps and with some more: what a step takes, and what all else takes."""
    kind, config, data = trial.stage.name.split()[-1], trial.recipe.synthesis, trial.recipe.data
    size, dropped = config.batch_size, []
    records = trial.records(size, data.height, data.width)
    trial.begin()
    generators = random_generators(trial.recipe, trial.labels, kind == "masksyn", trial.device)
    for pipeline in generators.values():
        place(pipeline, config.offload if trial.device.type == "cuda" else "none", trial.device)
    watch = Watch(trial.device)
    watch.start()

    def seconds(text2mask_steps: int, mask2img_steps: int) -> float:
        changes = {"text2mask_steps": text2mask_steps, "mask2img_steps": mask2img_steps, "shard_size": size}
        changes |= {"imgsyn_variants": 1, "masksyn_variants": 1}
        # Random weights draw no map that would be kept.
        changes |= {"max_color_distance": 1e3, "max_ignored_share": 1.0, "min_region_area": 0}
        plan = SynthesisPlan(
            records["image_id"][:], records["caption"][:], dataclasses.replace(config, **changes), (kind,)
        )
        maker = ShardMaker(records, plan, trial.labels, generators, data.height, data.width)
        synchronize(trial.device)
        begun = time.perf_counter()
        with quiet(generators.values()), decoding(generators.values(), config), maker:
            drawn = maker.draw(plan.shards[0], lambda count: None)
            write_shard(trial.folder, plan.shards[0], drawn.rows(), drawn.dropped(), drawn.seconds, maker.panoptic)
        dropped.extend(drawn.dropped())
        return time.perf_counter() - begun

    seconds(1, 1)
    least = seconds(1, 1)
    steps = {"mask2img": max(0.0, seconds(1, 3) - least) / 2}
    steps["text2mask"] = max(0.0, seconds(3, 1) - least) / 2 if kind == "masksyn" else 0.0
    whole = least + (config.mask2img_steps - 1) * steps["mask2img"] + (config.text2mask_steps - 1) * steps["text2mask"]
    trial.entry.peak = watch.stop()
    trial.entry.samples_per_second = size / whole
    trial.entry.is_finite = not any(sample["reason"] == "not_finite" for sample in dropped)


_MEASURES = {
    "text2mask": _measure_generator,
    "mask2img": _measure_generator,
    "segmenter": _measure_segmenter,
    "synthesize": _measure_synthesis,
    "evaluate": _measure_evaluation,
}
