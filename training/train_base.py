# /// script
# requires-python = ">=3.11"
# dependencies = ["seggen_hf @ git+https://github.com/seggen/seggen_hf"]
# ///
"""Train the miniature base that ships with the package: `python training/train_base.py` does everything.

Stages: `decoder` (the autoencoder's decoder over its closed-form patch encoder), `prior` (text-to-image), `ship` (fp16
copy into the package, with its figures, logs and card). Each continues from its own checkpoints; `--warm_start` begins
from an earlier base instead of random weights.

With a GPU, pictures and captions lie on it, batches are of 1,024 in bf16, and the prior's pictures are drawn while the
decoder trains: minutes on an H100 or H200. On a CPU it takes hours: `--threads 1` leaves other cores to other work.
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
from seggen_hf.hub.staging import without_origins
from seggen_hf.runs.cards import write_base_card
from seggen_hf.storage.files import write_json
from seggen_hf.storage.folders import BASE, claim_folder, hold_folder
from seggen_hf.trainers.checkpoints import list_checkpoints
from seggen_hf.trainers.loop import train
from seggen_hf.trainers.miniature_base import BaseTask, draw_samples
from seggen_hf.trainers.miniature_config import BaseConfig, to_pixels
from seggen_hf.trainers.miniature_decoder import DecoderTask
from seggen_hf.trainers.prior_pictures import PriorPictures
from seggen_hf.trainers.roundtrip import roundtrip_report

ASSETS = Path(__file__).parents[1] / "src" / "seggen_hf" / "assets" / "miniature-base"
PICTURES = dict(num_palettes=12_000, num_drawings=4_000)
NUM_SCENES = {"cpu": 40_000, "cuda": 240_000}
# Batch, steps and learning rate of both trainings, on a CPU and on a GPU of 80 GB. There a step of 1,024 takes no
# longer than one of 256: so small a network is bound by the launching of its kernels.
DECODER = {"cpu": (16, 6_000, 1.5e-3), "cuda": (256, 4_000, 9e-4)}
PRIOR = {"cpu": (8, 24_000, 8e-4), "cuda": (1_024, 4_500, 1.2e-3)}


def build_config(output: Path, stage: str, device: str, steps: int | None) -> BaseConfig:
    batch, own_steps, rate = (DECODER if stage == "decoder" else PRIOR)[device]
    if stage == "decoder":
        average = 0.999
    else:
        average = 0.998 if device == "cuda" else 0.9995
    return BaseConfig(
        output_dir=str(output / stage),
        max_train_steps=own_steps if steps is None else steps,
        train_batch_size=batch,
        learning_rate=rate,
        # Hours on a CPU go on where they ended, so more steps can be added; what is kept is the weights' average.
        # Minutes on a GPU are planned, and end at rest.
        lr_scheduler="linear" if stage == "prior" and device == "cuda" else "constant_with_warmup",
        lr_warmup_steps=200,
        adam_beta2=0.99,
        ema_decay=average,
        logging_steps=20,
        checkpointing_steps=400,
        validation_steps=1_000,
        mixed_precision="bf16" if device == "cuda" else "no",
    )


def kept_history(folder: Path, earlier: Path | None) -> list[dict]:
    """What is shipped of a training's history: one line in 100 steps and all validations, each with the batch size.
    That of the base it began from comes first, and its steps are counted on."""
    batch_size = json.loads((folder / "run_config.json").read_text())["train_batch_size"]
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    last = lines[-1]["step"]
    kept = [n for n in lines if n["step"] % 100 == 0 or n["step"] == last or any("validation/" in key for key in n)]
    before = [json.loads(line) for line in earlier.read_text().splitlines()] if earlier else []
    done = before[-1]["step"] if before else 0
    return [*before, *(line | {"step": done + line["step"], "batch_size": batch_size} for line in kept)]


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


def ship(output: Path, warm_start: Path | None) -> None:
    """Copy the pipeline in fp16 with the decoder's newest weights, figures, logs and card; swapped in whole."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(str(output / "prior" / "pipeline"), use_safetensors=True)
    pipeline.register_modules(vae=AutoencoderKL.from_pretrained(output / "decoder" / "vae", use_safetensors=True))
    temporary = ASSETS.with_name(ASSETS.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    pipeline.to(dtype=torch.float16).save_pretrained(temporary)
    for path in (temporary / "model_index.json", *temporary.glob("*/config.json")):
        write_json(path, without_origins(json.loads(path.read_text())))
    for stage in ("decoder", "prior"):
        name = f"{stage}-history.jsonl"
        lines = kept_history(output / stage, warm_start and warm_start / name)
        (temporary / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    shipped = StableDiffusionXLPipeline.from_pretrained(str(temporary), use_safetensors=True, dtype=torch.float32)
    write_json(temporary / "figures.json", measure(shipped.vae))
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
    parser.add_argument("--warm_start", type=Path, help="Folder of an earlier base; its history goes along.")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        claim_folder(arguments.output_dir, BASE)
        with hold_folder(arguments.output_dir, BASE):
            run(arguments)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None


def run(arguments: argparse.Namespace) -> None:
    output, earlier = arguments.output_dir, None
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
        ship(output, arguments.warm_start)


if __name__ == "__main__":
    main()
