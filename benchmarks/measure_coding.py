"""Measure how well color maps carry segments: PQ of decode(encode(x)), clean, with noise, and through a VAE.

    python benchmarks/measure_coding.py --data ../shared/data            # writes docs/panoptic_coding.md
    python benchmarks/measure_coding.py --data FOLDER --vae stabilityai/sdxl-vae --sizes 768

FOLDER holds `nuclei` and `coco_sample`, both COCO panoptic; the built-in scenes need nothing. A data set that is not
there is left out. Maps are resized to squares by nearest neighbour, which no coding is charged for.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from tqdm.auto import tqdm

from seggen_hf.data.scenes.records import scene_records
from seggen_hf.data.schema import labels_of, read_panoptic
from seggen_hf.data.sources.load import load_records
from seggen_hf.metrics import PanopticQuality
from seggen_hf.miniature.architecture import resolve_base
from seggen_hf.pictures.markdown import table
from seggen_hf.pipelines import PanopticCodec, resize_nearest
from seggen_hf.provenance import library_versions, public_value
from seggen_hf.storage.files import write_text

CODINGS = {"edges": ("edges", 4), "3 shades": ("shades", 3), "4 shades": ("shades", 4)}
NOISES = (0, 5, 10)
MOST_LARGE = 6  # records of a data set at 512 pixels and above


def load_sources(data: Path | None, num_scenes: int) -> dict:
    """`{name: records}`."""
    sources = {"scenes val": scene_records("val", num_records=num_scenes)}
    for name, split in (("nuclei", "val"), ("coco_sample", "train")):
        if data is not None and (data / name).is_dir():
            sources[f"{name} {split}"] = load_records(data / name, split)
    return sources


def resized_segments(record: dict, size: int) -> tuple[np.ndarray, list[dict]]:
    """The record's segments at `size` x `size`; those that lost their last pixel are left out."""
    panoptic_map = resize_nearest(read_panoptic(record["panoptic_map"]), size, size)
    present = set(np.unique(panoptic_map).tolist())
    return panoptic_map, [segment for segment in record["segments_info"] if segment["id"] in present]


def through_vae(vae: AutoencoderKL, rgb: np.ndarray) -> np.ndarray:
    """A color map (H, W, 3) uint8 encoded (mode of the posterior) and decoded again."""
    pixels = torch.from_numpy(rgb).movedim(-1, 0)[None].float() / 127.5 - 1
    with torch.no_grad():
        decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample[0]
    return ((decoded.movedim(0, -1) + 1) * 127.5).round().clamp(0, 255).byte().numpy()


def measure(records, codec: PanopticCodec, size: int, vae: AutoencoderKL) -> list[dict]:
    """`PanopticQuality.compute()` of what is read from color maps with each noise, and through the VAE."""
    labels, rng = labels_of(records), np.random.default_rng(0)
    categories = [{"id": i, "name": name, "isthing": i in labels.things} for i, name in labels.id2label.items()]
    metrics = [PanopticQuality(categories) for _ in range(len(NOISES) + 1)]
    count = len(records) if size < 512 else min(len(records), MOST_LARGE)
    for index in range(count):
        target = resized_segments(records[index], size)
        painted = codec.encode(*target)
        drawn = [painted + rng.normal(0, noise, painted.shape) for noise in NOISES]
        drawn = [np.clip(np.rint(rgb), 0, 255).astype(np.uint8) for rgb in drawn]
        for metric, rgb in zip(metrics, [*drawn, through_vae(vae, painted)], strict=True):
            decoded = codec.decode(rgb)
            metric.update((decoded.panoptic_map, decoded.segments_info), target)
    return [metric.compute() for metric in metrics]


def percent(scores: dict) -> str:
    """PQ (SQ / RQ) of things."""
    pq, sq, rq = (100 * (scores["things"][name] or 0.0) for name in ("pq", "sq", "rq"))
    return f"{pq:.1f} ({sq:.1f} / {rq:.1f})"


def write_table(rows: list[list[str]], header: list[str], arguments: argparse.Namespace, notes: list[str]) -> None:
    """Write the Markdown file, whole or not at all."""
    lines = [
        "# How well color maps carry segments",
        "",
        "PQ (SQ / RQ) of things, %, of what is read from painted maps against what was painted. `edges` is the",
        "paper's coding, one color a class and outlines; `n shades` gives each thing class n colors, and touching",
        "instances different ones. Noise is Gaussian, in grey levels; VAE is one round trip through the autoencoder.",
        "All codings join the same small regions.",
        "",
        *table(header, rows),
        "",
        *notes,
        f"Written by `python benchmarks/measure_coding.py`, noise seed 0, VAE {public_value(arguments.vae)}; "
        + ", ".join(f"{name} {version}" for name, version in library_versions().items()),
        "",
    ]
    write_text(arguments.output, "\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of nuclei and coco_sample")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256, 512, 768])
    parser.add_argument("--num_scenes", type=int, default=60)
    parser.add_argument("--vae", default="miniature", help="folder or Hub id of an AutoencoderKL, or miniature")
    parser.add_argument("--output", default="docs/panoptic_coding.md")
    arguments = parser.parse_args()
    if arguments.vae == "miniature":
        vae = AutoencoderKL.from_pretrained(resolve_base("miniature"), subfolder="vae", use_safetensors=True)
    else:
        vae = AutoencoderKL.from_pretrained(arguments.vae, use_safetensors=True)
    sources = load_sources(arguments.data, arguments.num_scenes)
    cases = [(name, size, coding) for name in sources for size in arguments.sizes for coding in CODINGS]
    rows, notes = [], []
    for name, size, coding in tqdm(cases, "Codings"):
        records = sources[name]
        codec = PanopticCodec(labels_of(records), *CODINGS[coding])
        cells = [percent(scores) for scores in measure(records, codec, size, vae)]
        rows.append([name, str(size), coding, f"{codec.colors.least_distance:.0f}", *cells])
    for name, records in sources.items():
        large = min(len(records), MOST_LARGE)
        notes.append(f"{name}: {len(records)} records, {large} at 512 pixels and above.\n")
    header = ["data", "pixels", "coding", "least distance", *(f"noise {n}" if n else "clean" for n in NOISES), "VAE"]
    write_table(rows, header, arguments, notes)


if __name__ == "__main__":
    main()
