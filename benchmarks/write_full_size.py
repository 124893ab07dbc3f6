"""Write docs/full_size.md: the plan of SDXL's trainings beside what a card showed, and what the presets need.

    python benchmarks/write_full_size.py
    seggen plan ade20k_sdxl --gpu h100 --measure --json > measured.json      # on a machine with a GPU
    python benchmarks/write_full_size.py --measured measured.json

Plans are made anew by each call (two minutes on a CPU); what was seen on a card stands here with its date, until a
newer measurement is given.
"""

import argparse
import json
from pathlib import Path

from seggen_hf.config import Mask2ImgConfig, SegmenterConfig, Text2MaskConfig, load_recipe
from seggen_hf.config.presets import MEMORY, preset_lines
from seggen_hf.labels import LabelSet
from seggen_hf.plan.generators import plan_mask2img, plan_text2mask
from seggen_hf.plan.run_plan import plan_recipe
from seggen_hf.plan.segmenter import plan_segmenter
from seggen_hf.plan.stage_plan import GIB
from seggen_hf.process.quiet import quiet_libraries
from seggen_hf.trainers.sdxl_config import SDXL_BASE_ID

TARGET = Path(__file__).parents[1] / "docs" / "full_size.md"
LABELS = LabelSet.builtin("ade20k")
GENERATOR = {
    "base_model": SDXL_BASE_ID,
    "train_batch_size": 4,
    "mixed_precision": "bf16",
    "gradient_checkpointing": True,
}
SWIN = {"model": "swin-large", "crop_height": 640, "crop_width": 640, "train_batch_size": 4}

# One H200 on 2026-11-26: torch 2.11.0+cu130, diffusers 0.42.1, transformers 5.23.0; SDXL's configuration with random
# weights at 768 pixels, 16 made-up pictures that show nearly all of 150 labels. Peaks are those of torch's allocator.
# `then` is this plan of the code that was measured: the LoRA's peak was that of encoding the data, with the U-Net on
# the card; the segmenter held the logits of all layers, and whole masks.
SEEN = (
    ("Text2Mask, whole U-Net, batch 4", 49.0, 48.5, "4.3 to 5.6"),
    ("Text2Mask, LoRA of rank 32, batch 4", 10.2, 9.7, "3.0 to 3.3"),
    ("Mask2Img, ControlNet, batch 4", 24.9, 24.6, "4.4 to 4.8"),
    ("segmenter R50, crop 512, batch 2", 5.6, 5.5, "3.9"),
    ("segmenter R50, crop 512, batch 16", 40.5, 40.4, "20.8"),
    ("segmenter Swin-L, crop 640, batch 4", 26.0, 24.1, "7.4"),
)


def plans() -> list:
    """Of the trainings in `SEEN`, as they are now."""
    return [
        plan_text2mask(Text2MaskConfig(**GENERATOR, ema_decay=0.9999)),
        plan_text2mask(Text2MaskConfig(**GENERATOR, ema_decay=0.9999, lora_rank=32)),
        plan_mask2img(Mask2ImgConfig(**GENERATOR)),
        plan_segmenter(SegmenterConfig(model="resnet-50", train_batch_size=2), LABELS),
        plan_segmenter(SegmenterConfig(model="resnet-50", train_batch_size=16), LABELS),
        plan_segmenter(SegmenterConfig(**SWIN), LABELS),
    ]


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, figures to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def seen_table() -> str:
    rows = [
        [name, f"{peak:.1f}", f"{then:.1f}", f"{planned.peak / GIB:.1f}", rate]
        for (name, peak, then, rate), planned in zip(SEEN, plans(), strict=True)
    ]
    return table(["training", "seen, GiB", "planned, GiB", "now planned, GiB", "samples a second, seen"], rows)


def preset_table() -> str:
    head, rows = [], []
    for name, size in MEMORY.items():
        plan = plan_recipe(load_recipe("ade20k_sdxl", [f"preset={name}"]), LABELS)
        head = ["preset", "may take", *(stage.name for stage in plan.stages)]
        rows.append([name, f"{0.9 * size:.1f}", *(f"{stage.peak / GIB:.1f}" for stage in plan.stages)])
    return table(head, rows)


def measured_table(path: Path) -> str:
    found = json.loads(path.read_text())
    rows = []
    for entry in found["measured"]:
        if entry["failure"]:
            rows.append([entry["name"], "does not run", "", "", ""])
            continue
        rate, hours = f"{entry['samples_per_second']:.3g}", f"{entry['hours']:,.1f}"
        rows.append([entry["name"], f"{entry['peak'] / GIB:.1f}", f"{entry['planned'] / GIB:.1f}", rate, hours])
    heading = f"`seggen plan {found['recipe']} --measure` on {found['machine']}:"
    return f"{heading}\n\n{table(['stage', 'peak, GiB', 'planned', 'samples a second', 'hours in all'], rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, help="what `seggen plan RECIPE --measure --json` printed on a GPU")
    arguments = parser.parse_args()
    quiet_libraries()
    text = TEXT.format(
        seen=seen_table(),
        presets=preset_table(),
        settings="\n".join(
            f"**{name}**\n\n" + "".join(f"- {line}\n" for line in preset_lines(name)) for name in MEMORY
        ),
        measured=measured_table(arguments.measured) if arguments.measured else "None yet of the code as it is now.",
    )
    temporary = TARGET.with_name(f".{TARGET.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(TARGET)


TEXT = """<!-- written by benchmarks/write_full_size.py -->
# At full size

Before a week of training, three questions: does it fit, how long does it take, does it run?

```bash
seggen plan ade20k_sdxl --gpu rtx4090             # memory, disk, hours; the preset with which it fits; loads nothing
seggen plan ade20k_sdxl --preset 24gb --measure   # on the machine itself: every stage a few steps, with random weights
seggen run ade20k_sdxl --preset 24gb --out runs/ade20k
```

The plan runs one step of each training on PyTorch's meta device, which has shapes and no values, with autocast and
fused attention as a GPU has them: every tensor counts from its first use to its last, and every matrix product is
counted. Encoding the data, validation images, synthesis and scoring are planned too, checkpoints and their copy in
the machine's memory, shards and pushes. Hours follow from a card's published rate and the share of it that was
reached where it was measured; `--measure` takes the place of both.

## Planned and seen

One H200, 2026-11-26: SDXL's configuration with random weights, 768 pixels, bf16, gradient checkpointing; segmenters in
float32 without it. Each peak is within a tenth of the plan of the code that was measured. Since then a LoRA's data is
encoded before its U-Net is on the card, and the segmenter reads its masks at the loss's points alone; `now planned`
says what that changes. Images are planned with as many masks as there are labels, which is the most there can be: the
made-up pictures had nearly all 150, ADE20K's show some ten.

{seen}

### Measured

{measured}

## Presets

A preset is a short list of settings that makes a run of SDXL's size fit a card and leaves a tenth of it free:
`preset: 24gb` in a recipe, `--preset 24gb` for `seggen plan`, `run` and `train` and the scripts of `training/`. What
it sets takes the place of the recipe's own; `--set` comes after it. Batches that become smaller are accumulated to the
same number of samples a step, in one process. `adamw_8bit` needs `pip install 'seggen_hf[8bit]'`.

Peaks in GiB, `ade20k_sdxl`, one process:

{presets}

{settings}
With few labels a LoRA is also the better choice, whatever the card: a comparison in 2026 found 0.7 million trained
weights to beat 360 million at 92 to 366 labels. A LoRA of Mask2Img needs no trained ControlNet: the layers of zeros in
which a new one ends, and the embedding of its condition, train whole beside it.

## Tests on a card

`make test-gpu` runs the tests that need CUDA, in minutes: each training's step in half precision against the CPU's in
float32, resuming, sampling, synthesis, scoring, and the plan against what a card takes. They skip without one.
"""

if __name__ == "__main__":
    main()
