"""The plan of a whole run: its stages, what they sum up to, and which cards it fits."""

import dataclasses
from collections.abc import Container
from dataclasses import dataclass, field

from ..arms import list_folders, parse_segmenter_name, pseudo_map_variants
from ..config import Recipe
from ..labels import LabelSet
from .generators import plan_adapt, plan_mask2img, plan_text2mask
from .gpus import CPU_SPEED, Gpu, efficiency
from .segmenter import plan_evaluation, plan_filter, plan_segmenter
from .stage_plan import GIB, KINDS, StagePlan
from .synthesis import plan_synthesis

# Real training records of public data sets, by the name of their labels: told where the data is not at hand.
PUBLISHED_RECORDS = {"ade20k": 20_210, "coco": 118_287}


CPU_MOST = 100  # hours: nobody waits longer for a CPU


@dataclass
class RunPlan:
    """Stages in the order of a run, each with how often it runs (a segmenter for every arm and seed)."""

    recipe: str
    processes: int
    stages: list[StagePlan]
    times: list[int]
    num_records: int | None
    notes: list[str] = field(default_factory=list)

    @property
    def peak(self) -> int:
        """Bytes of a card's memory that the hungriest stage takes."""
        return max((stage.peak for stage in self.stages), default=0)

    @property
    def disk(self) -> int:
        """Bytes of the run folder, and of what `datasets` copies of it, when all is finished and kept."""
        return sum(sum(stage.disk.values()) * times for stage, times in zip(self.stages, self.times, strict=True))

    @property
    def push(self) -> int:
        """Bytes that `seggen push` sends: one of each artefact."""
        return sum(stage.push for stage in self.stages)

    def seconds(self, stage: StagePlan, gpu: Gpu) -> float:
        """Of one run of `stage` on `processes` cards; 0 where operations or samples are not known."""
        speed = efficiency(stage) * gpu.rate(stage.precision) * self.processes
        return stage.samples * stage.flops / speed

    def hours(self, gpu: Gpu) -> float:
        """Of all stages, one after the other."""
        pairs = zip(self.stages, self.times, strict=True)
        return sum(self.seconds(stage, gpu) * times for stage, times in pairs) / 3600

    @property
    def cpu_hours(self) -> float:
        """Of all stages, one after the other, at `CPU_SPEED`."""
        pairs = zip(self.stages, self.times, strict=True)
        return sum(stage.samples * stage.flops / CPU_SPEED[stage.kind] * times for stage, times in pairs) / 3600

    def fits(self, gpu: Gpu) -> bool:
        """Whether every stage leaves a tenth of the card's memory free."""
        return self.peak <= gpu.room

    def to_dict(self, gpus: dict[str, Gpu], fitting: dict[str, str | None]) -> dict:
        """JSON values. `fitting`: for each card the preset with which it would fit, if one has been looked for."""
        stages = []
        for stage, times in zip(self.stages, self.times, strict=True):
            rates = {
                name: {
                    "samples_per_second": _rate(stage, self.seconds(stage, gpu)),
                    "hours": self.seconds(stage, gpu) * times / 3600,
                }
                for name, gpu in gpus.items()
            }
            stages.append(stage.to_dict() | {"times": times, "gpus": rates})
        whole = {
            name: {
                "fits": self.fits(gpu),
                "hours": self.hours(gpu),
                "memory_gib": gpu.memory,
                "source": gpu.source,
            }
            for name, gpu in gpus.items()
        }
        facts = {name: getattr(self, name) for name in ("recipe", "processes", "num_records", "notes")}
        facts["cpu_hours"] = self.cpu_hours
        return facts | {"peak": self.peak, "disk": self.disk, "push": self.push, "gpus": whole, "stages": stages}

    def to_text(self, gpus: dict[str, Gpu], fitting: dict[str, str | None]) -> str:
        """The stages, then a table of them, then a line a card; see `to_dict`."""
        lines = ["\n\n".join(stage.to_text() for stage in self.stages), "", *self._table(gpus), ""]
        lines += [
            f"disk {self.disk / 1e9:,.1f} GB in all; a push sends {self.push / 1e9:,.1f} GB",
            *self.notes,
            *(self.verdict(name, gpu, fitting[name]) for name, gpu in gpus.items()),
        ]
        if 0 < self.cpu_hours < CPU_MOST:
            told = _told_hours(self.cpu_hours)
            lines.append(f"without a card: about {told} on one CPU core, half of it on two with evaluation.jobs=2")
        return "\n".join(lines)

    def verdict(self, name: str, gpu: Gpu, preset: str | None = None) -> str:
        """One line: whether the run fits the card, and how long it takes there, or the preset with which it fits."""
        hungriest = max(self.stages, key=lambda stage: stage.peak)
        needs = f"peak {self.peak / GIB:.1f} of {gpu.memory:g} GiB ({hungriest.name})"
        if self.fits(gpu):
            cards = f"{self.processes} x {name}" if self.processes > 1 else name
            return f"{cards}: fits, {needs}; about {_told_hours(self.hours(gpu))}"
        shortfall = "leaves less than a tenth free" if self.peak <= gpu.memory * GIB else "does not fit"
        return f"{name}: {shortfall}, {needs}" + (f"; --preset {preset} fits" if preset else "")

    def _table(self, gpus: dict[str, Gpu]) -> list[str]:
        """A row a stage: samples a second and the hours of all its times on each card; of many cards hours alone."""
        with_rates = len(gpus) <= 2
        columns = [
            f"{name} {what}" for name in gpus for what in (("samples/s", "hours") if with_rates else ("hours",))
        ]
        rows = [["stage", "times", "samples", "peak GiB", "disk GB", *columns]]
        for stage, times in zip(self.stages, self.times, strict=True):
            disk = sum(stage.disk.values()) * times / 1e9
            samples = f"{stage.samples:,}" if stage.samples else "?"
            cells = [stage.name, str(times), samples, f"{stage.peak / GIB:.1f}", f"{disk:.1f}"]
            for gpu in gpus.values():
                seconds = self.seconds(stage, gpu)
                cells += [_told_rate(_rate(stage, seconds))] if with_rates else []
                cells.append(f"{seconds * times / 3600:,.1f}")
            rows.append(cells)
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _rate(stage: StagePlan, seconds: float) -> float | None:
    return stage.samples / seconds if seconds else None


def _told_rate(rate: float | None) -> str:
    if rate is None:
        return "?"
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _told_hours(hours: float) -> str:
    if hours < 1:
        minutes = round(hours * 60)
        return f"{minutes} minutes" if minutes > 1 else "a minute"
    return f"{hours:,.0f} hours" if hours < 72 else f"{hours / 24:,.0f} days"


def _of_pseudo_maps(recipe: Recipe) -> Recipe:
    """With the synthesis of the arm pseudo-maps: see `runs.stages.repaint_config`."""
    variants = pseudo_map_variants(recipe)
    synthesis = dataclasses.replace(recipe.synthesis, masksyn_variants=0, imgsyn_variants=variants)
    return dataclasses.replace(recipe, synthesis=synthesis)


def plan_recipe(
    recipe: Recipe,
    labels: LabelSet,
    num_records: int | None = None,
    processes: int = 1,
    measure: bool = True,
    num_tests: int = 0,
    kinds: Container[str] = KINDS,
) -> RunPlan:
    """What every stage of a run of `recipe` takes.

    Args:
        num_records: of the real training data; those of ADE20K and COCO are known if it is not given.
        processes: of each training and synthesis, a card each.
        measure: see `plan_text2mask`.
        num_tests: test images, of all test splits together.
        kinds: of the stages that are planned.

    Raises: `ValueError` naming the section that is wrong.
    """

    notes = []
    if num_records is None and (num_records := PUBLISHED_RECORDS.get(recipe.data.labels or "")):
        notes.append(f"the data was not read: planned with {num_records:,} records, as {recipe.data.labels} has")
    pictures = (num_records or 0) * (recipe.synthesis.masksyn_variants + recipe.synthesis.imgsyn_variants)
    folders = list_folders(recipe)
    segmenters = sum(parse_segmenter_name(name) is not None for name in folders)
    stages: list[tuple[StagePlan, int]] = []
    task = recipe.data.task
    for section, kind, is_run, plan in (
        ("adapt", "adapt", "adapted" in folders,
            lambda: [plan_adapt(recipe.adapt, None, processes, measure)]),
        ("text2mask", "text2mask", "text2mask" in folders,
            lambda: [plan_text2mask(recipe.text2mask, num_records, processes, measure)]),
        ("mask2img", "mask2img", "mask2img" in folders,
            lambda: [plan_mask2img(recipe.mask2img, num_records, processes, measure, labels.num_labels)]),
        ("synthesis", "synthesize", "synthetic" in folders,
            lambda: plan_synthesis(recipe, labels.num_labels, num_records, measure)),
        ("synthesis", "synthesize", "repainted" in folders,
            lambda: [
                dataclasses.replace(stage, name="repaint")
                for stage in plan_synthesis(
                    _of_pseudo_maps(recipe), labels.num_labels, recipe.data.max_unlabelled or 0, measure
                )
            ]),
        ("segmenter", "segmenter", True, lambda: [plan_segmenter(recipe.segmenter, labels, processes, task, measure)]),
        ("filter", "evaluate", "filtered" in folders,
            lambda: [plan_filter(recipe, labels, pictures, measure)]),
        ("filter", "evaluate", "pseudo" in folders,
            lambda: [plan_filter(recipe, labels, recipe.data.max_unlabelled or 0, measure)]),
        ("evaluation", "evaluate", True,
            lambda: [plan_evaluation(recipe.segmenter, recipe.evaluation, labels, num_tests, measure, task)]),
    ):  # fmt: skip
        if not is_run or kind not in kinds:
            continue
        try:
            times = segmenters if section in ("segmenter", "evaluation") else 1
            stages += [(stage, times) for stage in plan()]
        except ValueError as error:
            raise ValueError(f"{recipe.name}, section {section}: {error}") from None
    if recipe.caption.captioner != "template":
        notes.append(f"captions of {recipe.caption.captioner} are not planned: its configuration is not known here")
    return RunPlan(recipe.name, processes, [s for s, _ in stages], [t for _, t in stages], num_records, notes)
