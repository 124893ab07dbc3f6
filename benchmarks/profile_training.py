"""Where the time of a training's steps goes, on the machine at hand: random weights, made-up records.

    python benchmarks/profile_training.py ade20k_sdxl text2mask mask2img segmenter
    python benchmarks/profile_training.py quickstart segmenter --set segmenter.train_batch_size=4     # on a CPU
    python benchmarks/profile_training.py ade20k_sdxl text2mask --set preset=24gb --trace trace.json

For each training: samples a second, kernels a step, how often the host waited for the device, and the costliest
operations. Traces open in https://ui.perfetto.dev.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from seggen_hf.config import load_recipe
from seggen_hf.plan.measure import STEPS, Measured, Trial
from seggen_hf.process.quiet import quiet_libraries
from seggen_hf.runs.preflight import plan_run

# What makes the host wait: a value read on it, and CUDA's own calls. On a CPU the first alone can be counted.
WAITS = ("aten::_local_scalar_dense", "cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
SHOWN = 15


def main(argv: list[str] | None = None) -> int:
    """Print a profile for each training named; exit status 1 if one does not run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("trainings", nargs="+", choices=("text2mask", "mask2img", "segmenter"))
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="section.key=value")
    parser.add_argument("--trace", type=Path, help="file for a trace, of the last training named")
    arguments = parser.parse_args(argv)
    quiet_libraries()
    recipe = load_recipe(arguments.recipe, arguments.settings)
    plan, labels = plan_run(recipe)
    stages = {stage.kind: stage for stage in plan.stages}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    for kind in arguments.trainings:
        if kind not in stages:
            print(f"error: a run of {recipe.name} has no training {kind}", file=sys.stderr)
            return 1
        entry, profiler = Measured(kind, stages[kind].peak), profile(activities=activities)
        with tempfile.TemporaryDirectory() as folder:
            Trial(entry, recipe, labels, stages[kind], Path(folder), device, profiler).run()
        print(describe(entry, profiler, device))
        if arguments.trace:
            profiler.export_chrome_trace(str(arguments.trace))
    return 0


def describe(entry: Measured, profiler, device: torch.device) -> str:
    """The profile of a training's timed steps as text."""
    events = profiler.key_averages()
    counts = {event.key: event.count for event in events}
    waits = {name: counts[name] / STEPS for name in WAITS if name in counts}
    kernels = counts.get("cudaLaunchKernel", 0) or sum(n for name, n in counts.items() if name.startswith("aten::"))
    waited = ", ".join(f"{number:g} {name}" for name, number in waits.items()) or "none"
    key = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    name = "kernels" if device.type == "cuda" else "operations"
    lines = [f"{entry.name}: {entry.samples_per_second:.3g} samples a second with the profiler on"]
    lines += [f"{kernels / STEPS:,.0f} {name} a step; waits a step: {waited}"]
    return "\n".join([*lines, events.table(sort_by=key, row_limit=SHOWN, max_name_column_width=50)])


if __name__ == "__main__":
    raise SystemExit(main())
