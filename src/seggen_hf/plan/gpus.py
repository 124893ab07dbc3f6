"""Cards: their memory and rates as published, and what share of a rate the stages reached where it was measured."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """A card as its maker describes it.

    memory (GiB that programs can have), half and single (dense TFLOP/s: fp16 and bf16 on tensor cores with sums in
    float32, and float32 without tensor cores), and where that stands.
    """

    memory: float
    half: float
    single: float
    source: str

    @property
    def room(self) -> float:
        """Bytes that a stage may take: all but a tenth, for CUDA's context, fragmentation, and what no plan knows."""
        return 0.9 * self.memory * 2**30

    def rate(self, precision: str) -> float:
        """FLOP/s as published for no, fp16 or bf16."""
        return 1e12 * (self.single if precision == "no" else self.half)


GPUS = {
    "rtx3060": Gpu(12.0, 25.6, 12.7, "NVIDIA Ampere GA102 architecture whitepaper, by its tensor rate an SM"),
    "t4": Gpu(15.0, 65.0, 8.1, "NVIDIA T4 datasheet"),
    "rtx4080": Gpu(16.0, 97.5, 48.7, "NVIDIA Ada GPU architecture whitepaper"),
    "rtx3090": Gpu(24.0, 71.0, 35.6, "NVIDIA Ampere GA102 architecture whitepaper"),
    "rtx4090": Gpu(24.0, 165.2, 82.6, "NVIDIA Ada GPU architecture whitepaper"),
    "l4": Gpu(22.5, 121.0, 30.3, "NVIDIA L4 datasheet, without sparsity"),
    "a10": Gpu(22.5, 125.0, 31.2, "NVIDIA A10 datasheet"),
    "rtx5090": Gpu(32.0, 209.5, 104.8, "NVIDIA RTX Blackwell GPU architecture whitepaper"),
    "rtxa6000": Gpu(48.0, 154.8, 38.7, "NVIDIA RTX A6000 datasheet, without sparsity"),
    "l40s": Gpu(45.0, 362.0, 91.6, "NVIDIA L40S datasheet, without sparsity"),
    "a100-40gb": Gpu(40.0, 312.0, 19.5, "NVIDIA A100 datasheet"),
    "a100-80gb": Gpu(80.0, 312.0, 19.5, "NVIDIA A100 datasheet"),
    "h100": Gpu(79.6, 989.0, 67.0, "NVIDIA H100 datasheet, SXM, without sparsity"),
    "h200": Gpu(139.8, 989.0, 67.0, "NVIDIA H200 datasheet, SXM, without sparsity"),
}
# Share of a card's published rate that each stage reached: operations by this plan, samples a second as measured on
# one H200 on 2026-11-26 (docs/full_size.md): SDXL at 768 pixels in batches of 4, ResNet-50 with crops of 512 in
# batches of 16 and float32, ImgSyn in batches of 8. Smaller cards usually reach a larger share of their smaller rates.
EFFICIENCY = {
    "adapt": 0.069,  # Text2Mask's, whose network and batches it has
    "text2mask": 0.069,
    "mask2img": 0.063,
    "segmenter": 0.126,
    "synthesize": 0.164,
    "evaluate": 0.043,
}
LORA_EFFICIENCY = 0.033  # of Text2Mask's
# FLOP/s of one CPU core, in the run that docs/walkthrough.md shows: of the miniature, whose operations are small, and
# whose segmenter's are the smallest. Not told as the speed of any other CPU: their ratios are what is used.
CPU_SPEED = {
    "adapt": 4.8e10,
    "text2mask": 4.8e10,
    "mask2img": 5.6e10,
    "segmenter": 2.1e10,
    "synthesize": 1.03e11,
    "evaluate": 2.1e10,
}


def efficiency(stage) -> float:
    """Share of a card's published rate that a stage of this kind reaches."""
    if stage.kind in ("adapt", "text2mask") and "lora" in stage.parameters:
        return LORA_EFFICIENCY
    return EFFICIENCY[stage.kind]


def choose_gpus(names: Sequence[str] | None = None) -> dict[str, Gpu]:
    """The cards named, or one of each usual size.

    Raises: `ValueError` for a card that is not known.
    """
    if unknown := [name for name in names or () if name not in GPUS]:
        raise ValueError(f"There is no card {unknown[0]!r} here; there are {', '.join(GPUS)}.")
    return {name: GPUS[name] for name in names or ("rtx3060", "rtx4090", "l40s", "h100", "h200")}
