"""A run's artefacts as repositories: staged into RUN/hub, looked at or pushed."""

import ast
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import yaml
from datasets import Dataset
from huggingface_hub import HfApi

import seggen_hf.metric_modules as metric_modules

from ..data.captions import PREFIX, simple_name
from ..demo.models import models_of_run
from ..pictures.cards import NUM_SAMPLES, draw_legend, draw_samples
from ..pictures.spacing import spread
from ..runs.cards import RunCards, metric_card, write_card
from ..runs.privacy import why_private
from ..runs.stage_marker import read_marker
from ..storage.files import write_json
from ..storage.names import is_hub_id
from ..synthesis import load_synthetic
from ..synthesis.shards import dataset_configs
from .client import Artifact, Pushed, push
from .push_plan import PushPlan
from .rounds import merge_rounds
from .space import stage_space
from .staging import (
    empty_folder,
    save_color_map,
    stage_controlnet,
    stage_controlnet_lora,
    stage_lora,
    stage_metric,
    stage_pipeline,
    stage_segmenter,
    stage_shards,
)

ADAPTERS = (
    ("lora", "text2mask", stage_lora),
    ("mask2img-lora", "mask2img", stage_lora),
    ("controlnet", "mask2img", stage_controlnet),
    ("controlnet-lora", "mask2img", stage_controlnet_lora),
)
PICTURES = ("samples.png", "example.png", "color_map.png")  # may go when what they show is private
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.py", *PICTURES)


def stage(plan: PushPlan, private: bool = False, public: bool = False) -> list[Artifact]:
    """Fill RUN/hub with one folder a repository: what lies there is what is pushed.

    What was made from data that is not known to be public is private, and nothing of that data is in its cards: no
    pictures, no maps that people made, no captions. Metrics are of no run.

    Args:
        private (`bool`): every repository.
        public (`bool`): also what was made from other data, with such pictures.
    """
    staged = Staged(plan, private, public)
    artifacts: list[Artifact] = []
    for kind in plan.kinds:
        if kind == "dataset":
            artifacts.append(_stage_dataset(staged))
        elif kind == "segmenter":
            artifacts.append(_stage_segmenter(staged))
        elif kind == "adapters":
            artifacts += _stage_adapters(staged)
        elif kind == "metrics":
            artifacts += _stage_metrics(staged)
        elif kind == "space":
            artifacts.append(_stage_space(staged))
        else:
            folder = stage_pipeline(plan.run.stage(kind), staged.folder(kind))
            write_card(folder, staged.cards.pipeline(kind, _draw(staged, folder, kind)))
            artifacts.append(staged.artifact(plan.repos[kind], "model", folder, owned=WEIGHTS))
    return artifacts


class Staged:
    """What staging one run needs again and again."""

    def __init__(self, plan: PushPlan, private: bool, public: bool):
        self.plan, self.private, self.public = plan, private, public

    @cached_property
    def why_private(self) -> str | None:
        """Why the run's artefacts are private and its records are not shown; None if they may be seen by all."""
        if self.public:
            return None
        return why_private(self.plan.run.recipe(), self.plan.run.finished("captions")["facts"].get("source"))

    @cached_property
    def cards(self) -> RunCards:
        cards = RunCards(self.plan.run, self.plan.repos)
        if self.why_private:
            cards.shared["caption"] = PREFIX + ", ".join(map(simple_name, cards.shared["label_names"][:2]))
        return cards

    def artifact(self, repo_id: str, repo_type: str, folder: Path, **more) -> Artifact:
        """What was made by the run, private where it has to be."""
        private = self.private or self.why_private is not None
        return Artifact(repo_id, repo_type, folder, private, **more, why_private=self.why_private)

    @cached_property
    def synthetic(self) -> Dataset | None:
        """The synthetic records, opened once for the pictures of all cards; None before the synthesis is finished."""
        return load_synthetic(self.plan.run.synthetic) if self.plan.run.marker("synthetic") else None

    def folder(self, key: str) -> Path:
        return self.plan.run.staged / self.plan.repos[key].partition("/")[2]

    def drawn_map(self) -> np.ndarray:
        """A map that shows no record: two labels, one above the other."""
        height, width, number = (self.cards.shared["height"], self.cards.shared["width"], self.cards.codec.num_labels)
        segmentation_map = np.zeros((height, width), np.int64)
        segmentation_map[height // 2 :] = min(2, number - 1)
        return segmentation_map


def _stage_segmenter(staged: Staged) -> Artifact:
    plan = staged.plan
    assert plan.arm is not None  # there is one wherever there is a segmenter
    key = f"segmenter-{plan.arm}"
    folder = stage_segmenter(plan.run.segmenter(plan.arm, plan.seed), staged.folder(key))
    if results := staged.cards.eval_results(plan.arm, plan.seed):
        (folder / ".eval_results").mkdir()
        name = f"{staged.cards.task.hub_metric_type}.yaml"
        (folder / ".eval_results" / name).write_text(yaml.safe_dump(results, sort_keys=False))
    write_card(folder, staged.cards.segmenter(plan.arm, plan.seed, _draw(staged, folder, "segmenter")))
    return staged.artifact(plan.repos[key], "model", folder, owned=WEIGHTS)


def _stage_adapters(staged: Staged) -> list[Artifact]:
    """What was trained of a pipeline alone. Raises: `ValueError` if nothing can stand alone, with the reasons."""
    artifacts, reasons = [], []
    for key, kind, stage_one in ADAPTERS:
        folder = staged.folder(key)
        trained = staged.plan.run.stage(kind)
        if not read_marker(trained):
            reasons.append(f"{trained} is not finished.")
            continue
        try:
            stage_one(trained, folder)
        except ValueError as error:
            reasons.append(str(error))
            continue
        write_card(folder, staged.cards.pipeline(kind, _draw(staged, folder, key), key))
        artifacts.append(staged.artifact(staged.plan.repos[key], "model", folder, owned=WEIGHTS))
    if not artifacts:
        raise ValueError(" ".join(reasons))
    return artifacts


def _stage_metrics(staged: Staged) -> list[Artifact]:
    """The modules for `evaluate.load`, each a Space of its own name."""
    artifacts = []
    for name in metric_modules.names():
        repo_id = f"{staged.plan.namespace}/{name}"
        folder = stage_metric(metric_modules.folder(name), staged.plan.run.staged / name)
        source = (folder / f"{name}.py").read_text(encoding="utf-8")
        description = (ast.get_docstring(ast.parse(source)) or name).partition(", for ")[0] + "."
        write_card(folder, metric_card(name, description, repo_id))
        artifacts.append(Artifact(repo_id, "space", folder, staged.private, WEIGHTS, sdk="static"))
    return artifacts


def _stage_space(staged: Staged) -> Artifact:
    """The demo, which takes its models from where they are published. Raises: `ValueError` if one is not finished."""
    plan = staged.plan
    config = models_of_run(plan.run)[0]
    models = {}
    for name in ("text2mask", "mask2img"):
        model = getattr(config, f"{name}_model")
        if model is None:
            raise ValueError(f"{plan.run.stage(name)} is not finished; the demo needs it.")
        models[name] = model if is_hub_id(model) else plan.repo(name)
    if read_marker(plan.run.segmenter(plan.arm, plan.seed)):
        models["segmenter"] = plan.repo(f"segmenter-{plan.arm}")
    repo = plan.repo("space")
    folder = stage_space(staged.folder("space"), config, models, staged.cards.shared)
    owned = (*WEIGHTS, "*.dist-info/*")
    return staged.artifact(repo, "space", folder, owned=owned, sdk="gradio", needs=tuple(models.values()))


def push_all(api: HfApi, artifacts: Sequence[Artifact], revision: str | None = None, say=print) -> list[Pushed]:
    """Push one after the other, and say what was pushed."""
    results = []
    for artifact in artifacts:
        result = push(api, artifact, revision)
        say(
            f"{result.url}: {result.files} files, {result.size / 1e6:.1f} MB, {result.sent} sent, hashes equal, "
            f"{'private' if result.private else 'public'}, {result.seconds:.1f} s"
        )
        results.append(result)
    return results


def _stage_dataset(staged: Staged) -> Artifact:
    plan, cards, source = staged.plan, staged.cards, staged.plan.run.synthetic
    assert plan.round is not None  # there is one wherever there is a synthetic data set
    folder = empty_folder(staged.folder("dataset"), keep=(plan.round,))  # other rounds were made anew since
    stage_shards(source, folder / plan.round)
    write_json(folder / plan.round / "settings.json", cards.settings("synthetic"))
    for name in ("labels.json", "id2label.json"):
        (folder / name).write_text((source / name).read_text())
    kinds = sorted(json.loads((source / "summary.json").read_text())["kinds"])
    write_card(folder, cards.dataset(_draw(staged, folder, "dataset"), dataset_configs(plan.round, kinds)))
    return staged.artifact(
        plan.repos["dataset"],
        "dataset",
        folder,
        owned=(f"{plan.round}/*", *PICTURES),
        fixed=("labels.json",),
        merge_card=lambda text: merge_rounds(text, (folder / "README.md").read_text(encoding="utf-8")),
    )


def _draw(staged: Staged, folder: Path, kind: str) -> list[str]:
    """The pictures that a card can show: generated samples, never a real image.

    ImgSyn's maps, and images that follow them, were made by people: they are left out where the data is not public.
    """
    codec, records = staged.cards.codec, staged.synthetic
    drawn = [draw_legend(codec, folder / "labels.png").name]
    only_generated = staged.why_private is not None or kind in ("text2mask", "lora")
    kinds = [] if records is None else records["kind"][:]
    chosen = [i for i, k in enumerate(kinds) if k == "masksyn" or not only_generated]
    rows = [records[chosen[i]] for i in spread(len(chosen), NUM_SAMPLES)] if records is not None and chosen else []
    if kind in ("mask2img-lora", "controlnet", "controlnet-lora"):  # the snippet of its card shows it
        shown = rows[-1]["segmentation_map"] if rows else staged.drawn_map()
        save_color_map(shown, codec, folder / "color_map.png")
    if rows and kind == "segmenter":
        rows[0]["image"].convert("RGB").save(folder / "example.png", "PNG")
        drawn.append("example.png")
    elif rows:
        drawn.append(draw_samples(rows, codec, folder / "samples.png").name)
    return drawn
