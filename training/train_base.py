"""Train the miniature base that ships with the package: `python training/train_base.py` does everything.

Stages: `decoder` (the autoencoder's decoder over its closed-form patch encoder), `prior` (text-to-image), `ship` (fp16
copy with its card into the package). Each continues from its own checkpoints.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline

from seggen_hf.trainers.base import BaseConfig, BaseTask, DecoderTask, draw_prior
from seggen_hf.trainers.loop import train

ASSETS = Path(__file__).parents[1] / "src" / "seggen_hf" / "assets" / "miniature-base"
SHARED = dict(adam_beta2=0.99, ema_decay=0.999, lr_warmup_steps=200, lr_scheduler="constant", logging_steps=20)


def decoder_config(output: Path, steps: int) -> BaseConfig:
    return BaseConfig(
        output_dir=str(output / "decoder"), max_train_steps=steps, train_batch_size=16, learning_rate=1.5e-3,
        checkpointing_steps=200, validation_steps=400, **SHARED,
    )  # fmt: skip


def prior_config(output: Path, steps: int) -> BaseConfig:
    return BaseConfig(
        output_dir=str(output / "prior"), max_train_steps=steps, train_batch_size=24, learning_rate=8e-4,
        checkpointing_steps=200, validation_steps=400, **SHARED,
    )  # fmt: skip


def ship(output: Path) -> None:
    """Copy the pipeline in fp16 with the decoder's newest weights, its logs and its card; swapped in whole."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(output / "prior" / "pipeline", use_safetensors=True)
    pipeline.register_modules(vae=AutoencoderKL.from_pretrained(output / "decoder" / "vae", use_safetensors=True))
    temporary = ASSETS.with_name(ASSETS.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    pipeline.to(dtype=torch.float16).save_pretrained(temporary)
    for stage in ("decoder", "prior"):
        lines = (output / stage / "history.jsonl").read_text().splitlines()
        kept = [line for line in lines if "validation/" in line or json.loads(line)["step"] % 100 == 0]
        (temporary / f"{stage}-history.jsonl").write_text("\n".join(kept) + "\n")
    shutil.rmtree(ASSETS, ignore_errors=True)
    os.replace(temporary, ASSETS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=("all", "decoder", "prior", "ship"), default="all")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/miniature-base"))
    parser.add_argument("--decoder_steps", type=int, default=6_000)
    parser.add_argument("--prior_steps", type=int, default=8_000)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; all of them if 0.")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    output = arguments.output_dir

    if arguments.stage in ("all", "decoder", "prior"):
        config = decoder_config(output, arguments.decoder_steps)
        images, captions = draw_prior(output / "cache", config.num_scenes, config.num_drawings)
    if arguments.stage in ("all", "decoder"):
        train(DecoderTask(config, images), config)
    if arguments.stage in ("all", "prior"):
        # The encoder is fixed in closed form, so latents do not wait for the decoder; it only draws the samples.
        decoder = DecoderTask(config, images)
        vae = decoder.vae
        trained = output / "decoder" / "vae"
        if trained.is_dir():
            vae = AutoencoderKL.from_pretrained(trained, use_safetensors=True)
        config = prior_config(output, arguments.prior_steps)
        train(BaseTask(config, images, captions, vae, decoder.code, output / "cache" / "latents.npy"), config)
    if arguments.stage in ("all", "ship"):
        ship(output)


if __name__ == "__main__":
    main()
