"""What the miniature base knows of its world, in figures and one picture: how it is chosen and shown.

    python benchmarks/measure_base.py
    python benchmarks/measure_base.py --base runs/miniature-base/prior/pipeline --out runs/measure-other

A judge, a panoptic segmenter trained once on 5,000 rendered scenes, looks at what is drawn for captions and maps of
scenes that no training has seen, half of them in seen and half in unseen styles. They are validation scenes, by which
recipes are chosen; with `--tested`, those of the test splits:

- Mask2Img: the judge's mIoU and PQ of things on images drawn for maps, as a share of its own on the rendered images;
- the prior and Text2Mask: the share of things that captions name and the judge (or the map) shows, and void in maps
  (of captions in the labelled records' styles: MaskSyn gives Text2Mask no others);
- KID (arXiv:1801.01401) of the judge's features against rendered scenes, beside that of two rendered sets;
- PSNR of the prior's x0 by noise level, beside that of its noisy input.

Text2Mask and Mask2Img are trained on `--base` as the recipe says (`--set` changes it); trainings that are done are
kept, in `--out`. Writes figures.json and grid.png there.
"""

import argparse
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline

from seggen_hf import ColormapCodec, Mask2ImgPipeline, Text2MaskPipeline
from seggen_hf.config import SegmenterConfig, load_recipe
from seggen_hf.data.scenes.records import (
    COUNTS,
    MIN_VISIBLE,
    PLURALS,
    SCENE_CATEGORIES,
    SEEN_STYLES,
    UNSEEN_STYLES,
    Scene,
    draw_scene,
    scene_index,
    scene_labels,
    scene_records,
)
from seggen_hf.metrics import MeanIoU, PanopticQuality
from seggen_hf.miniature.architecture import resolve_base
from seggen_hf.pictures.grid import save_grid
from seggen_hf.pictures.spacing import spread
from seggen_hf.pipelines.seggen_colormap import connected_regions
from seggen_hf.runs.runner import run_stages
from seggen_hf.segmenter.build import load_segmenter
from seggen_hf.segmenter.inference import normalize, predict_queries, semantic_map
from seggen_hf.segmenter.postprocessing import panoptic_segments
from seggen_hf.storage.files import write_json
from seggen_hf.trainers.loop import train
from seggen_hf.trainers.miniature_config import psnr, to_pixels
from seggen_hf.trainers.objective import DenoisingObjective
from seggen_hf.trainers.segmenter import SegmenterTask

NAMES = [category["name"] for category in SCENE_CATEGORIES]
THINGS = [category["id"] for category in SCENE_CATEGORIES if category["isthing"]]
BATCH = 25
SNRS = (565.0, 49.0, 15.0, 6.0, 2.0, 0.6)
SHOWN = 10  # columns of the picture


def judge_config(folder: Path, steps: int) -> SegmenterConfig:
    return SegmenterConfig(
        output_dir=str(folder), max_train_steps=steps, train_batch_size=16, learning_rate=2e-3, lr_warmup_steps=50,
        backbone_lr_multiplier=1.0, max_grad_norm=1.0, crop_height=64, crop_width=64, min_scale=1.0, max_scale=1.5,
        checkpointing_steps=250,
    )  # fmt: skip


def train_judge(folder: Path, steps: int, num_scenes: int):
    """The judge in `folder`, trained if it is not there: scenes in all styles, of no labelled and no test split."""
    if not (folder / "config.json").is_file():
        records, config = scene_records("unlabelled", num_scenes), judge_config(folder, steps)
        train(SegmenterTask.from_config(config, records, task="panoptic"), config)
    model, processor = load_segmenter(folder, scene_labels())
    return model.eval(), processor


def named_things(caption: str) -> Counter:
    """How many things of each kind a caption of the scenes names."""
    kinds = {NAMES[i]: NAMES[i] for i in THINGS}
    kinds |= {PLURALS.get(kind, kind + "s"): kind for kind in kinds}
    found, count = Counter(), 1
    for word in re.findall(r"[a-z]+", caption):
        count = COUNTS.index(word) + 1 if word in COUNTS else count
        if word in kinds:
            found[kinds[word]] += count
            count = 1
    return found


def share_shown(captions: list[str], shown: list[Counter]) -> float:
    """The share of named things that are shown; more of a kind than are named count as named."""
    named = [named_things(caption) for caption in captions]
    both = sum(sum((a & b).values()) for a, b in zip(named, shown, strict=True))
    return both / sum(sum(counter.values()) for counter in named)


def as_labelled(captions: list[str]) -> list[str]:
    """Captions in the styles of labelled records, as MaskSyn gives them to Text2Mask: a map has no weather."""
    ends = [SEEN_STYLES[i % len(SEEN_STYLES)] for i in range(len(captions))]
    return [f"{caption.rpartition(', ')[0]}, {end}" for caption, end in zip(captions, ends, strict=True)]


def things_of_map(segmentation_map: np.ndarray) -> Counter:
    """Connected regions of each thing's label that are large enough to be named."""
    found = Counter()
    regions = connected_regions(segmentation_map)
    for region, area in enumerate(np.bincount(regions.ravel())):
        if area >= MIN_VISIBLE * segmentation_map.size:
            label = int(segmentation_map.flat[int(np.argmax(regions.ravel() == region))])
            if label in THINGS:
                found[NAMES[label]] += 1
    return found


def kid(first: np.ndarray, second: np.ndarray) -> float:
    """Squared maximum mean discrepancy under the kernel (x.y / d + 1)^3, unbiased; features (N, d).

    By hand: torchmetrics' needs torch-fidelity and its Inception weights, or a module of its own around the judge.
    """
    first, second = first.astype(np.float64), second.astype(np.float64)
    kernel = lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3  # noqa: E731
    within = [
        (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel(first, first), kernel(second, second))
    ]
    return float(sum(within) - 2 * kernel(first, second).mean())


class Judge:
    """The segmenter, and what it says of pictures (uint8 `(64, 64, 3)`)."""

    def __init__(self, folder: Path, steps: int, num_scenes: int):
        self.model, self.processor = train_judge(folder, steps, num_scenes)

    def features(self, pictures: list[np.ndarray]) -> np.ndarray:
        """Means of the backbone's last feature map: `(N, channels)`."""
        backbone = self.model.model.pixel_level_module.encoder
        with torch.no_grad():
            maps = [backbone(normalize(np.stack(part), self.processor)).feature_maps[-1] for part in parts(pictures)]
        return torch.cat(maps).mean((2, 3)).numpy()

    def look(self, pictures: list[np.ndarray]) -> list["Seen"]:
        seen: list[Seen] = [None] * len(pictures)
        for index, output in predict_queries(self.model, self.processor, pictures, BATCH, THINGS):
            seen[index] = Seen(semantic_map(output), *panoptic_segments(output, THINGS))
        return seen


@dataclass
class Seen:
    """What the judge sees in one picture: label ids, and segments."""

    segmentation_map: np.ndarray
    panoptic_map: np.ndarray
    segments_info: list[dict]

    @property
    def things(self) -> Counter:
        least = MIN_VISIBLE * self.panoptic_map.size
        infos = [info for info in self.segments_info if info["category_id"] in THINGS and info["area"] >= least]
        return Counter(NAMES[info["category_id"]] for info in infos)


def score(seen: list[Seen], scenes: list[Scene]) -> dict[str, float]:
    """mIoU and PQ of things against the scenes' own maps."""
    miou, pq = MeanIoU(len(NAMES), 255), PanopticQuality(SCENE_CATEGORIES)
    for found, scene in zip(seen, scenes, strict=True):
        miou.update(found.segmentation_map, scene.segmentation_map)
        pq.update((found.panoptic_map, found.segments_info), (scene.panoptic_map, scene.segments_info))
    return {"mIoU": miou.compute()["mIoU"], "PQ_things": pq.compute()["things"]["pq"]}


def parts(items: list) -> list[list]:
    return [items[start : start + BATCH] for start in range(0, len(items), BATCH)]


def seeds(first: int, count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + i) for i in range(count)]


def draw(pipeline, captions: list[str], *columns: list, **settings) -> list:
    """Outputs of `pipeline` for the captions, and what belongs to each (`columns`), a part at a time."""
    pipeline.set_progress_bar_config(disable=True)
    outputs, done = [], 0
    for rows in zip(*map(parts, (captions, *columns)), strict=True):
        outputs.append(pipeline(*rows, generator=seeds(done, len(rows[0])), output_type="np", **settings))
        done += len(rows[0])
    return outputs


def pictures_of(outputs: list) -> list[np.ndarray]:
    return [picture for output in outputs for picture in np.rint(output.images * 255).astype(np.uint8)]


@torch.no_grad()
def psnr_by_noise(base: StableDiffusionXLPipeline, scenes: list[Scene]) -> dict[str, dict[str, float]]:
    """At each signal-to-noise ratio: PSNR (dB) of the decoded x0 that the prior predicts, and of its noisy input."""
    scale = base.vae.config.scaling_factor
    pixels = to_pixels(torch.from_numpy(np.stack([np.asarray(s.image) for s in scenes])))
    latents = base.vae.encode(pixels).latent_dist.mode() * scale
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    objective = DenoisingObjective(base.scheduler.config)
    ratios = objective.schedule.alphas_cumprod / (1 - objective.schedule.alphas_cumprod)
    embeds, _, pooled, _ = base.encode_prompt([s.caption for s in scenes], do_classifier_free_guidance=False)
    added = {"text_embeds": pooled, "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]]).repeat(len(scenes), 1)}

    def quality(x0: torch.Tensor) -> float:
        return round(psnr(base.vae.decode(x0 / scale).sample, pixels), 2)

    found = {}
    for snr in SNRS:
        step = int((ratios - snr).abs().argmin())
        alpha = float(objective.schedule.alphas_cumprod[step])
        noisy = objective.add_noise(latents, noise, torch.full((len(scenes),), step))
        said = base.unet(noisy, step, encoder_hidden_states=embeds, added_cond_kwargs=added).sample
        if objective.prediction_type == "v_prediction":
            said = alpha**0.5 * noisy - (1 - alpha) ** 0.5 * said
        found[f"{snr:g}"] = {"prediction": quality(said), "input": quality(noisy / alpha**0.5)}
    return found


def draw_scenes(number: int, first: int, tested: bool) -> list[Scene]:
    """Scenes from number `first` on, half in seen and half in unseen styles: those of the validation split, by which
    recipes are chosen, or those of the test splits."""
    half = number // 2
    splits = ("test", "unseen") if tested else ("val", "val")
    parts_of = zip(splits, (SEEN_STYLES, UNSEEN_STYLES), (range(half), range(half, number)), strict=True)
    return [draw_scene(0, scene_index(split, first + i), styles) for split, styles, part in parts_of for i in part]


def measure(arguments: argparse.Namespace) -> tuple[dict, list[list[np.ndarray]]]:
    """The figures, and the rows of the picture."""
    out, base_folder = arguments.out, resolve_base(arguments.base)
    out.mkdir(parents=True, exist_ok=True)
    overrides = [f"{section}.base_model={base_folder}" for section in ("text2mask", "mask2img")]
    recipe = load_recipe(arguments.recipe, [*overrides, *arguments.set])
    settings = recipe.synthesis
    # Read before the judge is trained, which takes minutes.
    base = StableDiffusionXLPipeline.from_pretrained(base_folder, use_safetensors=True, dtype=torch.float32)
    judge = Judge(arguments.judge or out / "judge", arguments.judge_steps, arguments.judge_scenes)

    scenes = draw_scenes(arguments.number, 0, arguments.tested)
    others = draw_scenes(arguments.number, 10_000, arguments.tested)
    rendered = [np.asarray(scene.image) for scene in scenes]
    captions, maps = [s.caption for s in scenes], [s.segmentation_map for s in scenes]
    features = judge.features(rendered)
    codec = ColormapCodec(scene_labels())

    def shown(seen: list[Seen], pictures: list[np.ndarray]) -> dict[str, float]:
        share = share_shown(captions, [found.things for found in seen])
        return {"share_shown": share, "kid": kid(features, judge.features(pictures))}

    seen = judge.look(rendered)
    own = score(seen, scenes)
    by_maps = share_shown(captions, [things_of_map(m) for m in maps])
    rendered_again = [np.asarray(scene.image) for scene in others]
    figures = {"rendered": own | {"share_shown_by_maps": by_maps} | shown(seen, rendered_again)}
    sampling = {"num_inference_steps": arguments.prior_steps, "guidance_scale": arguments.prior_guidance}
    drawn = pictures_of(draw(base, captions, height=64, width=64, **sampling))
    figures["prior"] = shown(judge.look(drawn), drawn)
    figures["psnr_by_noise"] = psnr_by_noise(base, scenes[:BATCH])
    rows = [rendered, drawn]
    if not arguments.prior_only:
        run_stages(recipe, out / "generators", ("caption", "text2mask", "mask2img"), say=print)
        mask2img = Mask2ImgPipeline.from_pretrained(out / "generators" / "mask2img", dtype=torch.float32)
        text2mask = Text2MaskPipeline.from_pretrained(out / "generators" / "text2mask", dtype=torch.float32)
        painting = {
            "num_inference_steps": settings.mask2img_steps,
            "guidance_scale": settings.mask2img_guidance,
            "controlnet_conditioning_scale": settings.conditioning_scale,
        }
        images = pictures_of(draw(mask2img, captions, maps, **painting))
        seen = judge.look(images)
        scores = score(seen, scenes)
        shares = {f"{name}_share": scores[name] / own[name] if own[name] else None for name in scores}
        figures["mask2img"] = scores | shares | shown(seen, images)
        outputs = draw(
            text2mask, as_labelled(captions), height=64, width=64, num_inference_steps=settings.text2mask_steps,
            guidance_scale=settings.text2mask_guidance, max_color_distance=settings.max_color_distance,
            min_region_area=settings.min_region_area, fill_distance=settings.fill_distance,
        )  # fmt: skip
        made = [made_map for output in outputs for made_map in output.segmentation_maps]
        figures["text2mask"] = {
            "share_shown": share_shown(captions, [things_of_map(m) for m in made]),
            "void": float(np.mean([m == codec.ignore_index for m in made])),
        }
        painted = pictures_of(draw(mask2img, captions, made, **painting))
        figures["masksyn"] = shown(judge.look(painted), painted)
        rows += [images, [codec.encode(m) for m in maps], [codec.encode(m) for m in made], painted]
    places = spread(len(scenes), SHOWN)
    return _rounded(figures), [[row[i] for i in places] for row in rows]


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return value if value is None else float(f"{value:.4g}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="miniature", help="Folder of the base; the shipped one by default.")
    parser.add_argument("--out", type=Path, default=Path("runs/measure-base"))
    parser.add_argument("--judge", type=Path, help="Folder of a judge that another measurement trained.")
    parser.add_argument("--judge_steps", type=int, default=3000)
    parser.add_argument("--judge_scenes", type=int, default=5000)
    parser.add_argument("--number", type=int, default=200, help="Scenes that are drawn.")
    parser.add_argument("--tested", action="store_true", help="Of the test splits; of validation scenes otherwise.")
    parser.add_argument("--recipe", default="quickstart", help="Says how the generators are trained and sampled.")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--prior_only", action="store_true", help="Train no generators.")
    parser.add_argument("--prior_steps", type=int, default=20)
    parser.add_argument("--prior_guidance", type=float, default=2.0)
    arguments = parser.parse_args(argv)
    try:
        figures, rows = measure(arguments)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    write_json(arguments.out / "figures.json", figures)
    save_grid(rows, arguments.out / "grid.png")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
