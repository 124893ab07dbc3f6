"""Train the miniature base that ships with the package: `python training/train_base.py` does everything.

Stages: `decoder` (the autoencoder's decoder over its closed-form patch encoder), `prior` (text-to-image), `ship` (fp16
copy into the package, with its figures, logs and card). Each continues from its own checkpoints; `--warm_start` begins
from an earlier base instead of random weights.

With a GPU, pictures and captions lie on it, batches are of 1,024 in bf16, and the prior's pictures are drawn while the
decoder trains. On a CPU it takes hours: `--threads 1` leaves the other cores to other work.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline

from seggen_hf.data.scenes.records import scene_records
from seggen_hf.folders import BASE, claim_folder
from seggen_hf.runs.cards import write_base_card
from seggen_hf.trainers.checkpoints import list_checkpoints
from seggen_hf.trainers.loop import train
from seggen_hf.trainers.miniature_base import BaseTask, draw_samples
from seggen_hf.trainers.miniature_config import BaseConfig, to_pixels
from seggen_hf.trainers.miniature_decoder import DecoderTask
from seggen_hf.trainers.prior_pictures import PriorPictures
from seggen_hf.trainers.roundtrip import roundtrip_report

ASSETS = Path(__file__).parents[1] / "src" / "seggen_hf" / "assets" / "miniature-base"
PICTURES = dict(num_palettes=12_000, num_drawings=4_000)
NUM_SCENES = {"cpu": 40_000, "cuda": 100_000}
# Batch and steps of both trainings, on a CPU and on a GPU of 80 GB.
DECODER = {"cpu": (16, 6_000), "cuda": (256, 4_000)}
PRIOR = {"cpu": (8, 24_000), "cuda": (1_024, 4_500)}
RATES = {"cpu": 1.0, "cuda": 2.0}  # factor of the learning rates


def build_config(output: Path, stage: str, device: str, steps: int | None) -> BaseConfig:
    batch, own_steps = (DECODER if stage == "decoder" else PRIOR)[device]
    steps = steps or own_steps
    return BaseConfig(
        output_dir=str(output / stage),
        max_train_steps=steps,
        train_batch_size=batch,
        learning_rate=RATES[device] * (1.5e-3 if stage == "decoder" else 8e-4),
        lr_scheduler="constant_with_warmup",  # more steps can be added; what is kept is the weights' average
        lr_warmup_steps=200,
        adam_beta2=0.99,
        ema_decay=0.999 if stage == "decoder" or device == "cuda" else 0.9995,
        logging_steps=20,
        checkpointing_steps=400,
        validation_steps=1_000,
        mixed_precision="bf16" if device == "cuda" else "no",
    )


def measure(vae) -> dict[str, float]:
    """What the autoencoder costs on validation scenes: PSNR of images in dB, mIoU and accuracy of color maps."""
    records = scene_records("val")
    squares = []
    for start in range(0, len(records), 20):
        images = np.stack([np.asarray(image) for image in records[start : start + 20]["image"]])
        pixels = to_pixels(torch.from_numpy(images))
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
    parser.add_argument("--decoder_steps", type=int, help="Default: 6,000 of 16 on a CPU, 4,000 of 256 on a GPU.")
    parser.add_argument("--prior_steps", type=int, help="Default: 24,000 of 8 on a CPU, 4,500 of 1,024 on a GPU.")
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

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.stage != "ship":
        pictures = PriorPictures(output / "cache", **PICTURES, num_scenes=NUM_SCENES[device])
        config = build_config(output, "decoder", device, arguments.decoder_steps)
        decoder = DecoderTask(config, pictures)
        if earlier is not None:
            decoder.start_from(earlier.vae)
        if arguments.stage != "prior":
            train(decoder, config)
        if arguments.stage != "decoder":
            # The encoder is fixed in closed form, so latents do not wait for the decoder; it only draws the samples.
            vae, trained = decoder.vae, output / "decoder" / "vae"
            if trained.is_dir():
                vae = AutoencoderKL.from_pretrained(trained, use_safetensors=True)
            config = build_config(output, "prior", device, arguments.prior_steps)
            task = BaseTask(config, pictures, vae, decoder.code)
            if earlier is not None and not list_checkpoints(output / "prior" / "checkpoints"):
                task.start_from(earlier)
            train(task, config)
    if arguments.stage in ("all", "ship"):
        ship(output)


if __name__ == "__main__":
    main()
