"""Where the time of a synthesis goes: one shard of ImgSyn or MaskSyn, split into networks, autoencoder, text and host.

    python benchmarks/profile_synthesis.py
    python benchmarks/profile_synthesis.py --mask2img_model DIR --height 768 --width 768 --mixed_precision bf16 \\
        --batch_size 16 --mask2img_steps 40

Without models a ControlNet that was never trained stands on the miniature base. Records are the built-in scenes. The
shard is made twice: undisturbed, for the samples a second, and with every part timed, for which a GPU's queue is
emptied before and after each. `host` is what is left: maps, conditions, noise, schedulers, and waiting for files.
Flags are those of the section `synthesis`, and these:
"""

import argparse
import contextlib
import dataclasses
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import ControlNetModel, StableDiffusionXLPipeline

from seggen_hf import ColormapCodec, LabelSet, Mask2ImgPipeline, Text2MaskPipeline
from seggen_hf.config import SynthesisConfig, parse_or_exit
from seggen_hf.data.scenes.records import scene_records
from seggen_hf.miniature.architecture import resolve_base
from seggen_hf.synthesis import synthesize
from seggen_hf.synthesis.generators import open_pipeline
from seggen_hf.trainers.mask2img import embedding_channels

# What is timed of a pipeline: method of a component, and the part that it belongs to.
TIMED = {
    ("unet", "forward"): "networks",
    ("controlnet", "forward"): "networks",
    ("vae", "decode"): "autoencoder",
    ("text_encoder", "forward"): "text",
    ("text_encoder_2", "forward"): "text",
}


class Clock:
    """Seconds of each part, counted while `clock.timing(pipelines)` lasts."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, defaultdict(float)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @contextlib.contextmanager
    def timing(self, pipelines):
        wrapped = []
        for pipeline in pipelines:
            for (name, method), part in TIMED.items():
                component = getattr(pipeline, name, None)
                if component is not None and method not in vars(component):  # pipelines share components
                    setattr(component, method, self._timed(getattr(component, method), part))
                    wrapped.append((component, method))
        try:
            yield self
        finally:
            for component, method in wrapped:
                delattr(component, method)  # the class's own shows again

    def _timed(self, function, part: str):
        def timed(*args, **kwargs):
            self.wait()
            begun = time.perf_counter()
            result = function(*args, **kwargs)
            self.wait()
            self.seconds[part] += time.perf_counter() - begun
            return result

        return timed


def untrained_generators(labels: LabelSet, config: SynthesisConfig, kind: str) -> dict:
    """Pipelines on the miniature base with a ControlNet fresh from its U-Net."""
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(config.mixed_precision, torch.float32)
    base = StableDiffusionXLPipeline.from_pretrained(resolve_base("miniature"), use_safetensors=True, dtype=dtype)
    names = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "scheduler")
    components = {name: base.components[name] for name in names} | {"colormap": ColormapCodec(labels).to_dict()}
    channels = embedding_channels(base.vae_scale_factor)
    controlnet = ControlNetModel.from_unet(base.unet, conditioning_embedding_out_channels=channels).to(dtype)
    generators = {"mask2img": Mask2ImgPipeline(**components, controlnet=controlnet)}
    return generators | ({"text2mask": Text2MaskPipeline(**components)} if kind == "masksyn" else {})


def profile(config: SynthesisConfig, kind: str, samples: int, height: int | None, width: int | None) -> dict:
    """Seconds of each part, and samples a second."""
    records = scene_records("train", num_records=samples)
    none = {"imgsyn_variants": 0, "masksyn_variants": 0, f"{kind}_variants": 1}
    config = dataclasses.replace(config, shard_size=samples, **none)
    classes = {"mask2img": Mask2ImgPipeline} | ({"text2mask": Text2MaskPipeline} if kind == "masksyn" else {})
    if config.mask2img_model:
        generators = {name: open_pipeline(c, getattr(config, f"{name}_model"), config) for name, c in classes.items()}
    else:
        generators = untrained_generators(LabelSet.from_records(records), config, kind)
    accelerator = Accelerator()
    size = {"height": height, "width": width}

    def make(folder: Path, number: int) -> float:
        synthesize(records.select(range(number)), folder, config, **generators, **size, accelerator=accelerator)
        return json.loads((folder / "summary.json").read_text())["seconds_of_last_call"]

    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder, "warm"), min(samples, config.batch_size))
        seconds = make(Path(folder, "plain"), samples)
        clock = Clock(accelerator.device)
        with clock.timing(generators.values()):
            timed = make(Path(folder, "timed"), samples)
    parts = {part: clock.seconds[part] for part in ("networks", "autoencoder", "text")}
    parts["host"] = timed - sum(parts.values())
    return {
        "kind": kind,
        "samples": samples,
        "seconds": round(seconds, 3),
        "samples_per_second": round(samples / seconds, 3),
        "timed_seconds": round(timed, 3),
        "parts": {name: round(value, 3) for name, value in parts.items()},
        "times_the_networks": round(timed / max(parts["networks"], 1e-9), 3),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("imgsyn", "masksyn"), default="imgsyn")
    parser.add_argument("--samples", type=int, default=32, help="Records, and samples of the shard.")
    parser.add_argument("--height", type=int, help="Of the samples; what Mask2Img was trained at if not given.")
    parser.add_argument("--width", type=int)
    arguments, rest = parser.parse_known_args(argv)
    (config,) = parse_or_exit(SynthesisConfig, argv=rest)
    found = profile(config, **vars(arguments))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
