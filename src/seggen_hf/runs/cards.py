"""Cards of what a run made, filled from the run's own files: a fact that is not known is left out.

A card is the README.md of its artefact. Nothing here asks the network.
"""

import json
import os
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

import jinja2
from huggingface_hub import EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml
from huggingface_hub.repocard_data import DatasetCardData, EvalResult
from safetensors import safe_open

from seggen_hf.pipelines import ColormapCodec

from ..arms import ARMS, list_folders, parse_segmenter_name
from ..config import SCENES
from ..data.schema import labels_of, load_saved
from ..pictures.markdown import cell, code_span, literal
from ..provenance import join_versions, library_versions, public_settings, public_value
from ..segmenter.architectures import title_of
from ..segmenter.build import find_config
from ..segmenter.postprocessing import OBJECT_THRESHOLD, OVERLAP_THRESHOLD
from ..storage.files import write_text
from ..storage.names import is_hub_id
from ..tasks import TASKS, task_of
from .folder import RunFolder
from .results import percent
from .scores import read_scores, recipe_hash
from .stage_marker import finished_marker


def fill_card(template: str, facts: Mapping, header: str = "") -> str:
    """The template `model_cards/TEMPLATE.md` filled with `facts`; `header` is its YAML block.

    Raises: `jinja2.UndefinedError` if a fact that the template needs is missing.
    """
    body = _templates().get_template(f"{template}.md").render(facts)
    return f"---\n{header.strip()}\n---\n\n{body}" if header else body


@cache
def _templates() -> jinja2.Environment:
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
    environment.filters |= {"percent": percent, "cell": cell, "code": code_span, "literal": literal}
    return environment


class RunCards:
    """The cards of what a run made, from its recipe and the markers, scores and counts in its folder.

    Args:
        repos: Hub ids of what is or will be published, under `text2mask`, `mask2img`, `lora`, `mask2img-lora`,
            `controlnet`, `controlnet-lora`, `dataset` and `segmenter-ARM`; a card without its own id says PATH_OR_ID,
            and others are not linked.
    """

    def __init__(self, run: str | os.PathLike, repos: Mapping[str, str] | None = None):
        self.run, self.repos = RunFolder(run), dict(repos or {})
        self.recipe = self.run.recipe()
        captions = load_saved(self.run.captions)
        labels = labels_of(captions)
        self.codec = ColormapCodec(labels)
        data = self.recipe.data
        self.task, captioner = TASKS[data.task], self.recipe.caption.captioner
        # What the name was when it was read: from elsewhere, a folder's looks like an id.
        self.source = self.run.finished("captions")["facts"].get("source")
        self.source_id = data.dataset_name if is_hub_id(data.dataset_name) and self.source != "folder" else None
        self.shared = {
            "run": self.recipe.name,
            "dataset": public_value(data.dataset_name),
            "is_builtin": data.dataset_name == SCENES,
            "source_id": self.source_id,
            "source_revision": data.dataset_revision,
            "labels": self.codec.to_dict()["categories"],  # with the colors, where labels have none
            "label_names": list(labels.id2label.values()),
            "caption": captions[0]["caption"],
            "captioner": public_value(captioner),
            "captioner_id": captioner if is_hub_id(captioner) else None,
            "repos": self.repos,
            "height": data.height,
            "width": data.width,
            "pictures": (),
        }

    def pipeline(self, name: str, pictures: Sequence[str] = (), adapter: str | None = None) -> str:
        """The card of `text2mask` or `mask2img`, or of what was trained of it alone: the `lora`, `mask2img-lora`,
        `controlnet` or `controlnet-lora`.

        `pictures`: of `labels.png`, `samples.png`, those that lie beside it.
        """
        section = getattr(self.recipe, name)
        base = self._public_model(section.base_model)
        facts = self._facts(adapter or name, pictures) | _training_facts(self.run.finished(name))
        index = json.loads((self.run.stage(name) / "model_index.json").read_text())
        facts |= {
            "pipeline_class": index["_class_name"],
            "is_flux2": index["_class_name"].startswith("Flux2"),
            "inference_steps": getattr(self.recipe.synthesis, f"{name}_steps"),
            "guidance": getattr(self.recipe.synthesis, f"{name}_guidance"),
            "conditioning_scale": self.recipe.synthesis.conditioning_scale,
            "controlnet": self._public_model(getattr(section, "controlnet_model", None)),
            "base": "miniature" if section.base_model == "miniature" else base,  # a folder says nothing to others
        }
        data = ModelCardData(
            library_name="diffusers",
            base_model=base,
            datasets=self.source_id,
            tags=["seggen", "image-segmentation", "synthetic-data", *([adapter] if adapter else [])],
            pipeline_tag="text-to-image",
        )
        return fill_card(adapter or name, facts, data.to_yaml())

    @staticmethod
    def _public_model(name: str | None) -> str | None:
        return name if name and is_hub_id(name) else None

    def segmenter(self, arm: str, seed: int, pictures: Sequence[str] = ()) -> str:
        """The card of one training of one arm, with its scores if there are any."""
        folder = self.run.segmenter(arm, seed)
        config, _ = find_config(folder, None)
        facts = self._facts(f"segmenter-{arm}", pictures) | _training_facts(finished_marker(folder))
        splits = read_scores(folder)
        scores = [{"split": split} | entry["scores"] for split, entry in splits.items()]
        results = list_results(facts["dataset"], self.source_id, scores)
        dataset = self.repos.get("dataset") if facts["synthetic_records"] else None
        data = ModelCardData(
            library_name="transformers",
            pipeline_tag="image-segmentation",
            base_model=self.recipe.segmenter.model if is_hub_id(self.recipe.segmenter.model) else None,
            datasets=[name for name in (self.source_id, dataset) if name] or None,
            tags=[
                "seggen",
                config.model_type.replace("_", "-"),
                *([] if self.task.name == "semantic" else [f"{self.task.name}-segmentation"]),
            ],
            model_name=f"{self.recipe.name}-{arm}-seed-{seed}" if results else None,
            eval_results=results or None,
        )
        description = ARMS[arm].description.removeprefix("control: ")
        scored_with = (self.recipe.evaluation.object_threshold, self.recipe.evaluation.overlap_threshold)
        more = {
            "architecture": title_of(config),
            "arm": arm,
            "seed": seed,
            "task": self.task,
            "tiles": self.recipe.data.tiles,
            "thresholds": scored_with if scored_with != (OBJECT_THRESHOLD, OVERLAP_THRESHOLD) else (),
            "scores": scores,
            "versions": join_versions([facts["versions"], *(entry["versions"] for entry in splits.values())]),
            "description": description if description.startswith("with") else f"on {description}",
        }
        return fill_card("segmenter", facts | more, data.to_yaml())

    def dataset(self, pictures: Sequence[str] = (), configs: Sequence[dict] = ()) -> str:
        """The card of the synthetic records. `configs`: for `load_dataset`, where it is published.

        A local folder has none: `datasets` would cache it by its last name, `synthetic`, as one for all.
        """
        synthesis = self.recipe.synthesis
        summary = json.loads((self.run.synthetic / "summary.json").read_text())
        trained = f"{self.recipe.name}, recipe hash {recipe_hash(self.recipe)}"
        generators = {}
        for name in ("text2mask", "mask2img"):
            own = self.repos.get(name) or f"trained in this run ({trained})"
            generators[name] = public_value(getattr(synthesis, f"{name}_model") or "") or own
        facts = self._facts("dataset", pictures) | generators | self.settings("synthetic")
        facts |= {
            "records": summary["num_kept"],
            "kinds": summary["kinds"],
            "reasons": summary["reasons"],
            "num_real": self.run.finished("captions")["facts"].get("records"),
            "configs": [config["config_name"] for config in configs],
        }
        data = DatasetCardData(
            task_categories=["image-segmentation", "text-to-image"],
            tags=["seggen", "synthetic"],
            source_datasets=[self.source_id] if self.source_id else None,
            configs=list(configs) or None,
        )
        return fill_card("synthetic_dataset", facts, data.to_yaml())

    def settings(self, name: str) -> dict:
        """What made the stage `name`, fit for publishing: settings, versions and command."""
        return _made_by(self.run.finished(name))

    def eval_results(self, arm: str, seed: int) -> list[dict]:
        """Scores in the form of `.eval_results/*.yaml`, which names a data set of the Hub: none for other data."""
        if not self.source_id:
            return []
        splits = read_scores(self.run.segmenter(arm, seed))
        entries = [
            EvalResultEntry(
                dataset_id=self.source_id,
                task_id=f"{split}-{self.task.hub_metric_type}",
                value=round(entry["scores"][self.task.metric], 4),
                dataset_revision=self.recipe.data.dataset_revision,
                notes=f"{arm} arm, seed {seed}. {entry['scores']['protocol']}",
            )
            for split, entry in splits.items()
            if entry["scores"][self.task.metric] is not None
        ]
        return eval_result_entries_to_yaml(entries)

    def _facts(self, name: str, pictures: Sequence[str]) -> dict:
        return self.shared | {"repo": self.repos.get(name, "PATH_OR_ID"), "pictures": tuple(pictures)}


def metric_card(name: str, description: str, repo: str) -> str:
    """The card of a module for `evaluate.load`, which is a Space."""
    header = f"title: {name}\nsdk: static\npinned: false\ntags:\n- evaluate\n- metric\n- seggen"
    return fill_card("metric", {"name": name, "description": description, "repo": repo}, header)


def write_cards(run: str | os.PathLike) -> list[Path]:
    """Write README.md into every finished artefact that the run's recipe names; returns the files."""
    run = RunFolder(run)
    if not run.marker("captions"):
        return []
    cards = RunCards(run)
    written = []
    for name in list_folders(cards.recipe):
        if not run.marker(name):
            continue
        if training := parse_segmenter_name(name):
            written.append(write_card(run.stage(name), cards.segmenter(*training)))
        elif name in ("text2mask", "mask2img"):
            written.append(write_card(run.stage(name), cards.pipeline(name)))
        elif name == "synthetic":
            written.append(write_card(run.stage(name), cards.dataset()))
    return written


def list_results(dataset: str, source_id: str | None, scores: Sequence[Mapping]) -> list[EvalResult]:
    """The headline scores of one model as the Hub's model-index has them."""
    task = task_of(scores)
    return [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=source_id or dataset,
            dataset_name=dataset,
            dataset_split=score["split"],
            metric_type=task.hub_metric_type,
            metric_name=task.metric_name,
            metric_value=round(score[task.metric], 4),
        )
        for score in scores
        if score[task.metric] is not None
    ]


def _training_facts(marker: dict) -> dict:
    facts = marker["facts"]
    return {
        "steps": facts["steps"],
        "records": facts["records"],
        "synthetic_records": facts.get("synthetic_records", 0),
        "trained_parameters": facts["trained_parameters"],
        "seconds": marker["seconds"],
        **_made_by(marker),
    }


def _made_by(marker: dict) -> dict:
    settings = public_settings(marker["settings"])
    return {"settings": settings, "versions": marker["versions"], "command": marker["command"]}


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
            steps: dict[int, int] = {}  # by batch size: a base may be trained on, on another machine
            last: dict[str, float] = {}
            done = 0
            for line in lines:
                step, batch_size = line.pop("step"), line.pop("batch_size")
                steps[batch_size] = steps.get(batch_size, 0) + step - done
                done = step
                last |= line
            stages.append({"name": path.name.removesuffix("-history.jsonl"), "steps": steps, "last": last})
    data = ModelCardData(library_name="diffusers", license="apache-2.0", tags=["seggen"], pipeline_tag="text-to-image")
    figures = folder / "figures.json"
    facts = {
        "parameters": parameters,
        "stages": stages,
        "figures": json.loads(figures.read_text()) if figures.is_file() else None,
        "versions": library_versions(),
    }
    return write_card(folder, fill_card("base", facts, data.to_yaml()))


def write_card(folder: Path, text: str) -> Path:
    """Write README.md whole. Raises: `ValueError` for a header that the Hub would refuse."""
    ModelCard(text, ignore_metadata_errors=False)
    write_text(folder / "README.md", text)
    return folder / "README.md"
