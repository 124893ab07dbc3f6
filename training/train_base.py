"""Train the miniature base that ships with the package: `python training/train_base.py` does everything.

Stages: `decoder` (the autoencoder's decoder over its closed-form patch encoder), `prior` (text-to-image), `ship` (fp16
copy into the package, with its figures, logs and card). Each continues from its own checkpoints; `--warm_start` begins
from an earlier base instead of random weights.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline

from seggen_hf.cards import write_base_card
from seggen_hf.data.scenes import scene_records
from seggen_hf.folders import BASE, claim_folder
from seggen_hf.roundtrip import roundtrip_report
from seggen_hf.trainers.base import BaseConfig, BaseTask, DecoderTask, draw_prior, draw_samples
from seggen_hf.trainers.checkpoints import list_checkpoints
from seggen_hf.trainers.loop import train

ASSETS = Path(__file__).parents[1] / "src" / "seggen_hf" / "assets" / "miniature-base"
SHARED = dict(adam_beta2=0.99, ema_decay=0.999, lr_warmup_steps=200, logging_steps=20)


def decoder_config(output: Path, steps: int) -> BaseConfig:
    return BaseConfig(
        output_dir=str(output / "decoder"), max_train_steps=steps, train_batch_size=16, learning_rate=1.5e-3,
        lr_scheduler="linear", checkpointing_steps=200, validation_steps=400, **SHARED,
    )  # fmt: skip


def prior_config(output: Path, steps: int) -> BaseConfig:
    return BaseConfig(
        output_dir=str(output / "prior"), max_train_steps=steps, train_batch_size=24, learning_rate=8e-4,
        lr_scheduler="linear", checkpointing_steps=200, validation_steps=400, **SHARED,
    )  # fmt: skip


def measure(vae: AutoencoderKL) -> dict[str, float]:
    """What the autoencoder costs on validation scenes: PSNR of images in dB, mIoU and accuracy of color maps."""
    records = scene_records("val")
    squares = []
    for start in range(0, len(records), 20):
        images = np.stack([np.asarray(image) for image in records[start : start + 20]["image"]])
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
        squares.append(((decoded - pixels) / 2).square().mean((1, 2, 3)))
    report = roundtrip_report(vae, records)
    return {
        "image_psnr": float(-10 * torch.log10(torch.cat(squares).mean())),
        "color_map_mIoU": report["mIoU"],
        "color_map_pixel_accuracy": report["pixel_accuracy"],
        "num_images": len(records),
    }


def ship(output: Path) -> None:
    """Copy the pipeline in fp16 with the decoder's newest weights, figures, logs and card; swapped in whole."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(str(output / "prior" / "pipeline"), use_safetensors=True)
    pipeline.register_modules(vae=AutoencoderKL.from_pretrained(output / "decoder" / "vae", use_safetensors=True))
    temporary = ASSETS.with_name(ASSETS.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    pipeline.to(dtype=torch.float16).save_pretrained(temporary)
    for stage in ("decoder", "prior"):
        lines = (output / stage / "history.jsonl").read_text().splitlines()
        kept = [line for line in lines if "validation/" in line or json.loads(line)["step"] % 100 == 0]
        (temporary / f"{stage}-history.jsonl").write_text("\n".join(kept) + "\n")
    shipped = StableDiffusionXLPipeline.from_pretrained(str(temporary), use_safetensors=True, dtype=torch.float32)
    (temporary / "figures.json").write_text(json.dumps(measure(shipped.vae), indent=2) + "\n")
    draw_samples(shipped, temporary / "samples.png")
    write_base_card(temporary)
    shutil.rmtree(ASSETS, ignore_errors=True)
    os.replace(temporary, ASSETS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=("all", "decoder", "prior", "ship"), default="all")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/miniature-base"))
    parser.add_argument("--decoder_steps", type=int, default=6_100)
    parser.add_argument("--prior_steps", type=int, default=9_000)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; all of them if 0.")
    parser.add_argument("--warm_start", type=Path, help="Folder of an earlier base, such as the shipped one.")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    output = arguments.output_dir
    try:
        claim_folder(output, BASE)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    earlier = None
    if arguments.warm_start:
        earlier = StableDiffusionXLPipeline.from_pretrained(
            str(arguments.warm_start), use_safetensors=True, dtype=torch.float32
        )

    if arguments.stage in ("all", "decoder", "prior"):
        config = decoder_config(output, arguments.decoder_steps)
        images, captions = draw_prior(output / "cache", config.num_scenes, config.num_drawings)
        decoder = DecoderTask(config, images)
        if earlier is not None:
            decoder.start_from(earlier.vae)
    if arguments.stage in ("all", "decoder"):
        train(decoder, config)
    if arguments.stage in ("all", "prior"):
        # The encoder is fixed in closed form, so latents do not wait for the decoder; it only draws the samples.
        vae, trained = decoder.vae, output / "decoder" / "vae"
        if trained.is_dir():
            vae = AutoencoderKL.from_pretrained(trained, use_safetensors=True)
        config = prior_config(output, arguments.prior_steps)
        task = BaseTask(config, images, captions, vae, decoder.code, output / "cache" / "latents.npy")
        if earlier is not None and not list_checkpoints(output / "prior" / "checkpoints"):
            task.start_from(earlier)
        train(task, config)
    if arguments.stage in ("all", "ship"):
        ship(output)


if __name__ == "__main__":
    main()
