"""What one stage of a run takes, in numbers, and as lines for a person."""

from dataclasses import dataclass, field

GIB = 2**30
KINDS = ("adapt", "text2mask", "mask2img", "synthesize", "segmenter", "evaluate")


@dataclass
class StagePlan:
    """One stage; bytes are per process.

    Attributes:
        kind (`str`): one of `KINDS`: which measured efficiency applies.
        parameters, trained: weights by module, and how many of them train.
        shapes: of one batch in one process.
        samples (`int`): all that the stage sees or makes, in all processes; 0 where it is not known.
        flops (`float`): of one sample: forward and backward pass of a training, all steps of a drawn image.
        step_flops (`float`): of one optimizer step of a process, one denoising step of a batch, or one batch.
        memory (`dict`): bytes by purpose at the worst moment of the stage's main work.
        phases (`dict`): bytes at the worst moment of each part of the stage; the largest is the peak.
        waiting (`dict`): bytes that do not lie on the card in each part, and count where the CPU is the card: weights
            that wait, and what its allocator keeps.
        host (`dict`): bytes in the machine's own memory by purpose, beside what the card holds.
        disk (`dict`): bytes by purpose; what of it is pushed to the Hub stands in `push`.
        precision (`str`): no, fp16 or bf16: which of a card's rates applies.
    """

    name: str
    kind: str
    parameters: dict[str, int]
    precision: str = "no"
    trained: int = 0
    shapes: dict[str, tuple] = field(default_factory=dict)
    steps: int = 0
    samples_per_step: int = 0
    samples: int = 0
    flops: float = 0.0
    step_flops: float = 0.0
    memory: dict[str, int] = field(default_factory=dict)
    phases: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    host: dict[str, int] = field(default_factory=dict)
    disk: dict[str, int] = field(default_factory=dict)
    push: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def peak(self) -> int:
        """Bytes of the card's memory at the worst moment."""
        return max(self._parts.values())

    @property
    def peak_on_cpu(self) -> int:
        """The same where nothing can wait elsewhere."""
        return max(size + self.waiting.get(part, 0) for part, size in self._parts.items())

    @property
    def _parts(self) -> dict[str, int]:
        return {"works": sum(self.memory.values())} | self.phases

    def to_dict(self) -> dict:
        """JSON values, the peak among them."""
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        return vars(self) | {"shapes": shapes, "peak": self.peak}

    def to_text(self) -> str:
        """Lines for a person."""
        lines = [self.name, "  parameters"]
        lines += [f"    {name:<28}{number:>16,}" for name, number in self.parameters.items()]
        lines += [f"    {'of them trained':<28}{self.trained:>16,}"] if self.trained else []
        lines += ["  shapes of a batch in one process"] if self.shapes else []
        lines += [f"    {name:<28}{' x '.join(map(str, shape))}" for name, shape in self.shapes.items()]
        if self.steps:
            seen = self.steps * self.samples_per_step
            lines += [f"  {self.steps:,} steps x {self.samples_per_step:,} samples = {seen:,} samples seen"]
        elif self.samples:
            lines += [f"  {self.samples:,} samples"]
        lines += [f"  {self.flops / 1e12:,.3g} TFLOP a sample"] if self.flops else []
        lines += ["  memory of one process (GiB)"]
        lines += [f"    {name:<52}{size / GIB:>8.2f}" for name, size in self.memory.items()]
        lines += [f"    {'sum':<52}{sum(self.memory.values()) / GIB:>8.2f}"] if self.memory else []
        lines += [f"    {f'while it {name}':<52}{size / GIB:>8.2f}" for name, size in self.phases.items()]
        lines += [f"    {'peak':<52}{self.peak / GIB:>8.2f}"]
        lines += ["  memory of the machine, beside the card's (GiB)"] if self.host else []
        lines += [f"    {name:<52}{size / GIB:>8.2f}" for name, size in self.host.items()]
        lines += ["  disk (GB)"] if self.disk else []
        lines += [f"    {name:<52}{size / 1e9:>8.2f}" for name, size in self.disk.items()]
        return "\n".join(lines + [f"  {note}" for note in self.notes])
