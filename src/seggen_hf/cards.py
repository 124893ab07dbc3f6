"""Cards of what a run made, filled from the run's own files: a fact that is not known is left out.

A card is the README.md of its artefact. Nothing here asks the network.
"""

import json
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import jinja2
from datasets import load_from_disk
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import DatasetCardData, EvalResult
from safetensors import safe_open

from .arms import ARMS, list_folders
from .data.schema import labels_of
from .markers import read_marker
from .provenance import join_versions, library_versions, public_settings, public_value
from .recipe import Recipe, load_recipe
from .results import SCORES, percent, recipe_hash


def fill_card(template: str, facts: Mapping, header: str = "") -> str:
    """The template `model_cards/TEMPLATE.md` filled with `facts`; `header` is its YAML block.

    Raises: `jinja2.UndefinedError` if a fact that the template needs is missing.
    """
    folder = resources.files("seggen_hf.model_cards")
    sources = {
        entry.name: entry.read_text(encoding="utf-8") for entry in folder.iterdir() if entry.name.endswith(".md")
    }
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(sources),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["percent"] = percent
    body = environment.get_template(f"{template}.md").render(facts)
    return f"---\n{header.strip()}\n---\n\n{body}" if header else body


def write_cards(run: str | Path) -> list[Path]:
    """Write README.md into every finished artefact that the run's recipe names; returns the files."""
    run = Path(run)
    recipe = load_recipe(run / "recipe.yaml")
    if not read_marker(run / "captions"):
        return []
    captions = load_from_disk(run / "captions")
    labels = labels_of(captions)
    shared = {
        "run": recipe.name,
        "dataset": public_value(recipe.data.dataset_name),
        "labels": list(labels.id2label.values()),
        "caption": captions[0]["caption"],
    }
    written, named = [], list_folders(recipe)
    for name, section in (("text2mask", recipe.text2mask), ("mask2img", recipe.mask2img)):
        if name in named and (marker := read_marker(run / name)):
            facts = shared | _training_facts(marker) | {"height": section.height, "width": section.width}
            facts["inference_steps"] = getattr(recipe.synthesis, f"{name}_steps")
            base = section.base_model if "/" in section.base_model and not Path(section.base_model).exists() else None
            data = ModelCardData(
                library_name="diffusers", base_model=base, tags=["seggen"], pipeline_tag="text-to-image"
            )
            written.append(_write(run / name, fill_card(name, facts, data.to_yaml())))
    for name in named:
        arm, slash, _ = name.removeprefix("segmenter-").partition("/")
        if slash and (marker := read_marker(run / name)):
            card = _segmenter_card(recipe, arm, run / name, shared | _training_facts(marker))
            written.append(_write(run / name, card))
    if "synthetic" in named and (marker := read_marker(run / "synthetic")):
        written.append(_write(run / "synthetic", _dataset_card(recipe, run, shared, marker)))
    return written


def _training_facts(marker: dict) -> dict:
    facts = marker["facts"]
    return {
        "steps": facts["steps"],
        "records": facts["records"],
        "synthetic_records": facts.get("synthetic_records", 0),
        "trained_parameters": facts["trained_parameters"],
        "seconds": marker["seconds"],
        "settings": public_settings(marker["settings"]),
        "versions": marker["versions"],
        "command": marker["command"],
    }


def _segmenter_card(recipe: Recipe, arm: str, folder: Path, facts: dict) -> str:
    path = folder / SCORES
    splits = json.loads(path.read_text()) if path.is_file() else {}
    scores = [{"split": split} | entry["scores"] for split, entry in splits.items()]
    results = [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=facts["dataset"],
            dataset_name=facts["dataset"],
            dataset_split=score["split"],
            metric_type="mean_iou",
            metric_name="mIoU",
            metric_value=round(score["mIoU"], 4),
        )
        for score in scores
        if score["mIoU"] is not None
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-segmentation",
        tags=["seggen", "mask2former"],
        model_name=f"{recipe.name}-{arm}-{folder.name}" if results else None,
        eval_results=results or None,
    )
    more = {"arm": arm, "seed": int(folder.name.split("-")[1]), "scores": scores}
    more["versions"] = join_versions([facts["versions"], *(entry["versions"] for entry in splits.values())])
    more["description"] = ARMS[arm].description.removeprefix("control: ")
    if not more["description"].startswith("with"):
        more["description"] = f"on {more['description']}"
    return fill_card("segmenter", facts | more, data.to_yaml())


def _dataset_card(recipe: Recipe, run: Path, shared: dict, marker: dict) -> str:
    summary = json.loads((run / "synthetic" / "summary.json").read_text())
    kinds = summary["kinds"]
    trained = f"{recipe.name}, recipe hash {recipe_hash(recipe)}"
    facts = shared | {
        "records": summary["num_kept"],
        "kinds": kinds,
        "reasons": summary["reasons"],
        "num_real": read_marker(run / "captions")["facts"].get("records"),
        "text2mask": public_value(recipe.synthesis.text2mask_model or "") or f"trained in this run ({trained})",
        "mask2img": public_value(recipe.synthesis.mask2img_model or "") or f"trained in this run ({trained})",
        "settings": public_settings(marker["settings"]),
        "versions": marker["versions"],
        "command": marker["command"],
    }
    # No `configs`: `datasets` would cache a local folder that has them by its last name, `synthetic`, as one for all.
    data = DatasetCardData(task_categories=["image-segmentation"], tags=["seggen", "synthetic"])
    return fill_card("synthetic_dataset", facts, data.to_yaml())


def write_base_card(folder: str | Path) -> Path:
    """Write the card of a miniature base: its parameters, and figures from the *-history.jsonl beside its weights."""
    folder = Path(folder)
    parameters = {}
    for component in ("unet", "vae", "text_encoder", "text_encoder_2"):
        total = 0
        for file in sorted((folder / component).glob("*.safetensors")):
            with safe_open(file, "numpy") as weights:
                for name in weights.keys():
                    size = 1
                    for side in weights.get_slice(name).get_shape():
                        size *= side
                    total += size
        parameters[component] = total
    stages = []
    for path in sorted(folder.glob("*-history.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        if lines:
            last: dict[str, float] = {}
            for line in lines:
                last |= {name: value for name, value in line.items() if name != "step"}
            stages.append({
                "name": path.name.removesuffix("-history.jsonl"), "steps": lines[-1]["step"], "last": last,
            })  # fmt: skip
    data = ModelCardData(library_name="diffusers", license="apache-2.0", tags=["seggen"], pipeline_tag="text-to-image")
    figures = folder / "figures.json"
    facts = {
        "parameters": parameters,
        "stages": stages,
        "figures": json.loads(figures.read_text()) if figures.is_file() else None,
        "versions": library_versions(),
    }
    return _write(folder, fill_card("base", facts, data.to_yaml()))


def _write(folder: Path, text: str) -> Path:
    ModelCard(text, ignore_metadata_errors=False)  # refuses a header that the Hub would refuse
    path = folder / "README.md"
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
    return path
