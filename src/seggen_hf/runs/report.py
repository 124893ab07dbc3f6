"""The report of a run folder: report.md and one self-contained report.html, from what the stages left there."""

import dataclasses
import json
import os
from importlib import resources
from pathlib import Path
from statistics import fmean

import jinja2
import numpy as np
from PIL import Image

from seggen_hf.pipelines import ColormapCodec

from ..arms import ARMS, list_folders, parse_segmenter_name
from ..config import SECTIONS, Recipe
from ..data.likeness import NEAR
from ..data.schema import labels_of, load_saved, read_image, read_map
from ..pictures.markdown import cell, code_span
from ..pictures.report import SIDE, PictureFolder, hex_color, line_chart
from ..pictures.segments import paint_record
from ..pictures.spacing import spread
from ..provenance import join_versions, public_value
from ..storage.files import write_text
from ..storage.folders import RUN, check_folder
from ..synthesis import load_synthetic
from ..tasks import TASKS, task_of
from .advice import what_next
from .dropped import count_made, describe_arms
from .folder import PREDICTIONS, RunFolder, read_history
from .missed import missed_by_all
from .neighbors import find_neighbors, show_neighbors
from .results import list_seeds, list_unfinished, percent, read_results, scores_by_arm
from .scores import NUM_SHOWN
from .verdict import BASELINE, CANDIDATES, write_verdict


def write_report(run: str | os.PathLike) -> Path:
    """Write report.md, report.html and the pictures of both; returns the HTML file.

    Whatever is finished is shown; what is not is left out.

    Raises: `ValueError` if `run` is no run folder.
    """
    run = RunFolder(run)
    recipe = run.recipe()
    check_folder(run, RUN)  # beside a recipe alone, report.md may be anybody's
    context = collect_facts(run, recipe)
    for path, escaped in ((run.report_text, False), (run.report, True)):
        source = resources.files("seggen_hf").joinpath("templates", path.name).read_text(encoding="utf-8")
        environment = jinja2.Environment(
            autoescape=escaped, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
        )
        environment.filters |= {"percent": percent, "cell": cell, "code": code_span}
        write_text(path, environment.from_string(source).render(context))
    return run.report


def collect_facts(run: RunFolder, recipe: Recipe) -> dict:
    """What both templates show, as plain values and pictures."""
    results = read_results(run)
    pictures = PictureFolder(run.pictures)
    rows = results["scores"] if results else []
    captions = load_saved(run.captions) if run.marker("captions") else None
    codec = ColormapCodec(labels_of(captions)) if captions is not None else None
    task = task_of(rows) if rows else TASKS[recipe.data.task]
    made = count_made(run)
    synthetic = load_synthetic(run.synthetic) if run.marker("synthetic") else None
    return {
        "name": recipe.name,
        "dataset": public_value(recipe.data.dataset_name),
        "num_records": len(captions) if captions is not None else None,
        "verdict": results["verdict"] if results else write_verdict({}, task.metric_name),
        "task": task,
        "legend": list_legend(codec) if codec else [],
        "made": show_samples(synthetic, captions, codec, pictures) if codec and synthetic else [],
        "predictions": show_predictions(run, rows, codec, pictures) if codec else [],
        "scores": list_scores(rows),
        "classes": list_classes(rows),
        "charts": draw_curves(run, recipe, pictures),
        "cost": list_costs(run),
        "settings": list_settings(recipe),
        "protocols": sorted({row["protocol"] for row in rows}),
        "versions": results["versions"]
        if results
        else join_versions(m["versions"] for m in list_markers(run, recipe)),
        "machine": results["machine"] if results else {},
        "command": results["command"] if results else None,
        "recipe_hash": results["recipe_hash"] if results else None,
        "seeds": list_seeds(rows),
        "has_seeds": any(len(seeds) > 1 for seeds in list_seeds(rows).values()),
        "not_trained": list_unfinished(recipe, run),
        "num_shown": NUM_SHOWN,
        "arms": describe_arms(made, recipe.evaluation.arms),
        "dropped": [row for entry in made for row in entry.to_rows()],
        "counts": made,
        "near": NEAR,
        "neighbors": _neighbors(synthetic, captions, codec, pictures) if codec and synthetic else [],
        "advice": what_next(recipe, scores_by_arm(rows), made, _real_history(run, recipe), missed_by_all(rows))
        if results
        else [],  # fmt: skip
    }


def _neighbors(synthetic, captions, codec: ColormapCodec, pictures: PictureFolder) -> list[dict]:
    return show_neighbors(find_neighbors(captions, synthetic), captions, synthetic, codec, pictures)


def _real_history(run: RunFolder, recipe: Recipe) -> list[dict]:
    return read_history(run.segmenter(BASELINE, recipe.evaluation.seeds[0]))


def list_legend(codec: ColormapCodec) -> list[dict]:
    """Name and color of each label, and of ignored pixels."""
    entries = [{"name": codec.id2label[i], "color": hex_color(codec.palette[i])} for i in range(codec.num_labels)]
    return [*entries, {"name": "ignored", "color": hex_color(codec.void_color)}]


def show_samples(made, captions, codec: ColormapCodec, pictures: PictureFolder) -> list[dict]:
    """Samples of each kind at even spacing: caption, map, image, and for ImgSyn the real image too."""
    groups = []
    place_of = {image_id: place for place, image_id in enumerate(captions["image_id"][:])}
    kinds = made["kind"][:]
    for kind, title in (
        ("imgsyn", "ImgSyn: a human-made map, a generated image"),
        ("masksyn", "MaskSyn: a generated map, a generated image"),
    ):
        of_kind = [index for index, found in enumerate(kinds) if found == kind]
        samples = []
        for place in spread(len(of_kind), 2 * NUM_SHOWN):
            record = made[of_kind[place]]
            shown = []
            if kind == "imgsyn" and record["source_id"] in place_of:
                real = captions[place_of[record["source_id"]]]
                shown.append(pictures.add(f"{kind}-{place}-real", read_image(real["image"]), "real image"))
            painted = paint_record(record, codec)
            smooth = record.get("panoptic_map") is not None and _is_reduced(painted)
            shown.append(pictures.add(f"{kind}-{place}-map", painted, "segmentation map", smooth))
            shown.append(pictures.add(f"{kind}-{place}-image", read_image(record["image"]), "generated image"))
            samples.append({"caption": record["caption"], "source": record["source_id"], "pictures": shown})
        if samples:
            columns = ["its map", "generated"] if kind == "imgsyn" else ["generated map", "generated image"]
            columns = ["real image", *columns] if kind == "imgsyn" else columns
            groups.append(
                {"kind": kind, "title": title, "count": len(of_kind), "columns": columns, "samples": samples}
            )
    return groups


def show_predictions(run: RunFolder, rows: list[dict], codec: ColormapCodec, pictures: PictureFolder) -> list[dict]:
    """For each test split a table: image, truth and each arm's prediction, of the first seed."""
    tables = []
    is_semantic = task_of(rows).name == "semantic"
    order = [name for name in (BASELINE, *CANDIDATES, *ARMS) if any(row["arm"] == name for row in rows)]
    arms = list(dict.fromkeys(order))
    for split in dict.fromkeys(row["split"] for row in rows):
        folder = run.predictions / split
        image_ids = json.loads((folder / "records.json").read_text())
        folders = {arm: next(r["folder"] for r in rows if (r["arm"], r["split"]) == (arm, split)) for arm in arms}
        lines = []
        for place, image_id in enumerate(image_ids):
            name = f"{split}-{place}"
            image = np.array(Image.open(folder / f"{place}-image.png").convert("RGB"))
            shown = [pictures.add(f"{name}-image", image, "image")]
            truth = "segmentation_map" if is_semantic else "segments"
            maps = [("truth", "truth", folder / f"{place}-{truth}.png")]
            for arm in arms:
                path = run.stage(folders[arm]) / PREDICTIONS / split / f"{place}.png"
                maps.append((arm, f"prediction of {arm}", path))
            for key, alt, path in maps:
                painted = codec.encode(read_map(path)) if is_semantic else np.array(Image.open(path).convert("RGB"))
                smooth = not is_semantic and _is_reduced(painted)
                shown.append(pictures.add(f"{name}-{key}", painted, alt, smooth))
            lines.append({"image_id": image_id, "pictures": shown})
        tables.append({"split": split, "columns": ["image", "truth", *arms], "rows": lines})
    return tables


def _is_reduced(painted: np.ndarray) -> bool:
    """Whether a thumbnail of painted segments is smaller: it is smoothed then, or thin outlines would have gaps."""
    return max(painted.shape[:2]) >= 1.5 * SIDE


def list_scores(rows: list[dict]) -> list[dict]:
    """For each test split: per arm the mean headline score over seeds, its difference to real-only, and every seed.

    Where there is no score, None stands in its place; `more` holds the means of the task's further scores.
    """
    tables, task = [], task_of(rows)
    for split in dict.fromkeys(row["split"] for row in rows):
        here = [row for row in rows if row["split"] == split]
        scored = {metric: scores_by_arm(here, metric) for metric in (task.metric, *task.more)}
        means = {
            metric: {arm: fmean(by_split[split].values()) for arm, by_split in by_arm.items()}
            for metric, by_arm in scored.items()
        }
        baseline = means[task.metric].get(BASELINE)
        lines = []
        for arm in dict.fromkeys(row["arm"] for row in here):
            mean = means[task.metric].get(arm)
            values = list(scored[task.metric][arm][split].values()) if mean is not None else []
            lines.append({
                "arm": arm,
                "mean": mean,
                "range": max(values) - min(values) if len(values) > 1 else None,
                "difference": None if mean is None or baseline is None or arm == BASELINE else mean - baseline,
                "seeds": {row["seed"]: row.get(task.metric) for row in here if row["arm"] == arm},
                "more": {metric: means[metric].get(arm) for metric in task.more},
            })  # fmt: skip
        tables.append({"split": split, "num_images": here[0]["num_images"], "rows": lines})
    return tables


def list_classes(rows: list[dict]) -> list[dict]:
    """For each test split: the headline score per class, arms side by side (mean over seeds), and the difference to
    real-only."""
    tables = []
    for split in dict.fromkeys(row["split"] for row in rows):
        here = [row for row in rows if row["split"] == split]
        arms = list(dict.fromkeys(row["arm"] for row in here))
        compared = next((arm for arm in CANDIDATES if arm in arms and BASELINE in arms), None)
        lines = []
        for name in here[0]["per_label"]:
            means, ranges = {}, {}
            for arm in arms:
                values = [v for row in here if row["arm"] == arm and (v := row["per_label"][name]) is not None]
                means[arm] = fmean(values) if values else None
                ranges[arm] = max(values) - min(values) if len(values) > 1 else None
            known = compared and means[compared] is not None and means[BASELINE] is not None
            difference = means[compared] - means[BASELINE] if known else None
            lines.append({"name": name, "means": means, "ranges": ranges, "difference": difference})
        tables.append({"split": split, "arms": arms, "compared": compared, "rows": lines})
    return tables


def list_markers(run: RunFolder, recipe: Recipe) -> list[dict]:
    """Markers of the finished stages that the recipe names; folders of arms that it no longer has stay out."""
    return [marker for name in list_folders(recipe) if (marker := run.marker(name))]


def draw_curves(run: RunFolder, recipe: Recipe, pictures: PictureFolder) -> list[dict]:
    """Losses over steps: each generator, and all arms of the segmenter (their first seed) in one chart."""
    charts = []
    finished = [marker["stage"] for marker in list_markers(run, recipe)]
    for name, place in (("adapt", "adapted"), ("text2mask", "text2mask"), ("mask2img", "mask2img")):
        history = read_history(run.stage(place)) if place in finished else []
        if points := [(line["step"], line["loss"]) for line in history]:
            title = f"{name}: training loss"
            charts.append(pictures.add_chart(f"loss-{name}", line_chart(title, {name: points}), title))
    series = {}
    for name in finished:
        if training := parse_segmenter_name(name):
            points = [(line["step"], line["loss"]) for line in read_history(run.stage(name))]
            if points:
                series.setdefault(training[0], points)
    if series:
        title = "segmenter: training loss of each arm"
        charts.append(pictures.add_chart("loss-segmenter", line_chart(title, series), title))
    return charts


def list_costs(run: str | os.PathLike) -> list[dict]:
    """Seconds and peak memory of every finished stage of the run's recipe."""
    rows, run = [], RunFolder(run)
    scored = run.marker(PREDICTIONS)
    for marker in (*list_markers(run, run.recipe()), *([scored] if scored else [])):
        rows.append({
            "stage": marker["stage"],
            "seconds": marker["seconds"],
            "peak_memory_gb": marker["peak_memory_gb"],
            "peak_gpu_memory_gb": marker.get("peak_gpu_memory_gb"),
            "resumed": marker["resumed"],
            "made": ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in marker["facts"].items()),
        })  # fmt: skip
    return rows


def list_settings(recipe: Recipe) -> list[dict]:
    """Sections with their settings, those that differ from the defaults marked."""
    sections = []
    for name, cls in SECTIONS.items():
        section = getattr(recipe, name)
        default = {f.name: getattr(cls(), f.name) for f in dataclasses.fields(cls)}
        settings = [
            {
                "name": key,
                "value": public_value(value),
                "is_default": value == default[key],
            }
            for key, value in dataclasses.asdict(section).items()
            if key != "output_dir"
        ]
        sections.append({"section": name, "settings": settings})
    return sections
