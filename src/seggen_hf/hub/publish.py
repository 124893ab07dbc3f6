"""A run's artefacts as repositories: staged into RUN/hub, looked at or pushed."""

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import yaml
from datasets import Dataset
from huggingface_hub import HfApi

from .. import metric_modules
from ..config import load_recipe
from ..data.captions import PREFIX, simple_name
from ..demo.models import models_of_run
from ..files import write_json
from ..names import check_name, is_hub_id
from ..pictures.cards import NUM_SAMPLES, draw_legend, draw_samples
from ..runs.arms import ARMS, shown_arm
from ..runs.cards import RunCards, metric_card, write_card
from ..runs.privacy import why_private
from ..runs.stage_marker import read_marker
from ..spacing import spread
from ..synthesis import load_synthetic
from ..synthesis.shards import dataset_configs
from .client import Artifact, Pushed, push
from .space import stage_space
from .staging import (
    empty_folder,
    save_color_map,
    stage_controlnet,
    stage_lora,
    stage_metric,
    stage_pipeline,
    stage_segmenter,
    stage_shards,
)

# What a run makes; and what is pushed only where it is named.
KINDS = ("text2mask", "mask2img", "segmenter", "dataset")
NAMED = ("adapters", "metrics", "space")
STAGED = "hub"
ADAPTERS = (
    ("lora", "text2mask", stage_lora),
    ("controlnet", "mask2img", stage_controlnet),
    ("controlnet-lora", "mask2img", stage_lora),
)
PICTURES = ("samples.png", "example.png", "color_map.png")  # may go when what they show is private
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.py", *PICTURES)
ROUND_MARK, ROUND_END = "<!-- round {} -->", "<!-- end of round {} -->"


@dataclass(frozen=True)
class Plan:
    """Which artefacts of a run go where.

    `name` is the part of every repository's name before the artefact's; `arm` and `seed` choose the segmenter.
    """

    run: Path
    namespace: str
    name: str
    kinds: tuple[str, ...]
    arm: str | None
    seed: int
    round: str | None

    @property
    def repos(self) -> dict[str, str]:
        """{artefact: Hub id}, the segmenter under `segmenter-ARM`."""
        keys = {
            "text2mask": ("text2mask",),
            "mask2img": ("mask2img",),
            "segmenter": (f"segmenter-{self.arm}",),
            "dataset": ("dataset",),
            "adapters": ("lora", "controlnet", "controlnet-lora"),
            "metrics": (),  # of no run
            "space": ("space",),
        }
        return {key: self.repo(key) for kind in self.kinds for key in keys[kind]}

    def repo(self, key: str) -> str:
        """Hub id of an artefact, whether or not it is pushed now."""
        names = {"dataset": "synthetic", "lora": "text2mask-lora", "space": "demo"}
        names[f"segmenter-{self.arm}"] = "segmenter"
        prefix = f"{self.namespace}/{self.name}-" if self.name else f"{self.namespace}/"
        return prefix + names.get(key, key)


def plan_push(
    run: str | Path,
    namespace: str,
    only: Sequence[str] = (),
    name: str | None = None,
    arm: str | None = None,
    seed: int | None = None,
) -> Plan:
    """What of `run` can be pushed: everything that is finished, or what `only` names.

    `run` may also be the folder of one artefact in a run, which alone is pushed then.

    Raises: `ValueError` for an unknown artefact, one that is named and not finished, and a run with nothing to push;
        `WrongName` for a namespace or name that is none.
    """
    check_name(namespace, "--namespace")
    if name:
        check_name(name, "--name")
    run, only = Path(run), list(dict.fromkeys(only))
    if found := _find_artifact(run):
        if only or arm is not None or seed is not None:
            raise ValueError(f"{run} is one artefact of a run; name the run's folder to choose with flags.")
        run, only, arm, seed = found
    if not (run / "recipe.yaml").is_file():
        raise ValueError(f"{run} is no run folder: it has no recipe.yaml. Give the folder that `seggen run` filled.")
    recipe = load_recipe(run / "recipe.yaml")
    unknown = [kind for kind in only if kind not in KINDS + NAMED]
    if unknown:
        raise ValueError(f"There is no artefact {unknown[0]!r}; there are {', '.join(KINDS + NAMED)}.")
    arm = arm or shown_arm(recipe)
    if arm is not None and arm not in ARMS:
        raise ValueError(f"There is no arm {arm!r}; there are {', '.join(ARMS)}.")
    seed = recipe.evaluation.seeds[0] if seed is None else seed
    folders = {
        "text2mask": run / "text2mask",
        "mask2img": run / "mask2img",
        "segmenter": run / f"segmenter-{arm}" / f"seed-{seed}",
        "dataset": run / "synthetic",
    }
    done = {kind: read_marker(folder) for kind, folder in folders.items()}
    for kind in only:
        if kind in KINDS and not done[kind]:
            raise ValueError(f"{folders[kind]} is not finished, so there is no {kind} to push; run the stage first.")
    kinds = tuple(only) if only else tuple(kind for kind in KINDS if done[kind])
    if not kinds:
        raise ValueError(f"{run} holds nothing finished yet; `seggen run` makes what can be pushed.")
    round_name = f"round-{done['dataset']['fingerprint'][:8]}" if done["dataset"] else None
    if round_name:
        check_name(round_name, f"The fingerprint in {folders['dataset']}")
    plan = Plan(run, namespace, recipe.name if name is None else name, kinds, arm, seed, round_name)
    for repo in plan.repos.values():
        check_name(repo.partition("/")[2], "A repository")
    return plan


def _find_artifact(folder: Path) -> tuple[Path, list[str], str | None, int | None] | None:
    """The run, artefact, arm and seed of a folder in a run; None for any other folder."""
    kinds = {"text2mask": "text2mask", "mask2img": "mask2img", "synthetic": "dataset"}
    segmenter = re.fullmatch(r"segmenter-([\w-]+)/seed-(\d+)", "/".join(folder.parts[-2:]))
    run = folder.parent.parent if segmenter else folder.parent
    if (folder / "recipe.yaml").is_file() or not (run / "recipe.yaml").is_file():
        return None
    if segmenter:
        return run, ["segmenter"], segmenter[1], int(segmenter[2])
    return (run, [kinds[folder.name]], None, None) if folder.name in kinds else None


def stage(plan: Plan, private: bool = False, public: bool = False) -> list[Artifact]:
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
            folder = stage_pipeline(plan.run / kind, staged.folder(kind))
            write_card(folder, staged.cards.pipeline(kind, _draw(staged, folder, kind)))
            artifacts.append(staged.artifact(plan.repos[kind], "model", folder, owned=WEIGHTS))
    return artifacts


class Staged:
    """What staging one run needs again and again."""

    def __init__(self, plan: Plan, private: bool, public: bool):
        self.plan, self.private, self.public = plan, private, public

    @cached_property
    def why_private(self) -> str | None:
        """Why the run's artefacts are private and its records are not shown; None if they may be seen by all."""
        if self.public:
            return None
        recipe, captions = load_recipe(self.plan.run / "recipe.yaml"), read_marker(self.plan.run / "captions")
        return why_private(recipe, captions["facts"].get("source"))

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
        folder = self.plan.run / "synthetic"
        return load_synthetic(folder) if read_marker(folder) else None

    def folder(self, key: str) -> Path:
        return self.plan.run / STAGED / self.plan.repos[key].partition("/")[2]

    def drawn_map(self) -> np.ndarray:
        """A map that shows no record: two labels, one above the other."""
        height, width, number = (self.cards.shared["height"], self.cards.shared["width"], self.cards.codec.num_labels)
        segmentation_map = np.zeros((height, width), np.int64)
        segmentation_map[height // 2 :] = min(2, number - 1)
        return segmentation_map


def _stage_segmenter(staged: Staged) -> Artifact:
    plan = staged.plan
    key = f"segmenter-{plan.arm}"
    folder = stage_segmenter(plan.run / key / f"seed-{plan.seed}", staged.folder(key))
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
        if not read_marker(staged.plan.run / kind):
            reasons.append(f"{staged.plan.run / kind} is not finished.")
            continue
        try:
            stage_one(staged.plan.run / kind, folder)
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
        folder = stage_metric(metric_modules.folder(name), staged.plan.run / STAGED / name)
        source = (folder / f"{name}.py").read_text(encoding="utf-8")
        description = ast.get_docstring(ast.parse(source)).partition(", for ")[0] + "."
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
            raise ValueError(f"{plan.run / name} is not finished; the demo needs it.")
        models[name] = model if is_hub_id(model) else plan.repo(name)
    if read_marker(plan.run / f"segmenter-{plan.arm}" / f"seed-{plan.seed}"):
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
    plan, cards, source = staged.plan, staged.cards, staged.plan.run / "synthetic"
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
    rows = [records[chosen[i]] for i in spread(len(chosen), NUM_SAMPLES)] if chosen else []
    if kind in ("controlnet", "controlnet-lora"):  # the snippet of its card shows it
        shown = rows[-1]["segmentation_map"] if rows else staged.drawn_map()
        save_color_map(shown, codec, folder / "color_map.png")
    if rows and kind == "segmenter":
        rows[0]["image"].convert("RGB").save(folder / "example.png", "PNG")
        drawn.append("example.png")
    elif rows:
        drawn.append(draw_samples(rows, codec, folder / "samples.png").name)
    return drawn


def merge_rounds(there: str, ours: str) -> str:
    """Our card with the configs and sections of the other rounds that the card on the Hub lists.

    Our configs come first, and our first one is the default: the newest round.
    """
    header, body = _split_card(ours)
    old_header, old_body = _split_card(there)
    own = {config["config_name"] for config in header.get("configs", [])}
    others = [config for config in old_header.get("configs", []) if config["config_name"] not in own]
    for config in others:
        config.pop("default", None)
    header["configs"] = [*header.get("configs", []), *others]
    sections = []
    for config in others:
        start, end = ROUND_MARK.format(config["config_name"]), ROUND_END.format(config["config_name"])
        if start in old_body and end in old_body:
            sections.append(old_body[old_body.index(start) : old_body.index(end) + len(end)])
    mark = ROUND_END.format(header["configs"][0]["config_name"])
    body = body.replace(mark, "\n\n".join([mark, *sections]))
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip()}\n---\n{body}"


def _split_card(text: str) -> tuple[dict, str]:
    if not text.startswith("---\n"):
        return {}, text
    header, _, body = text[4:].partition("\n---\n")
    return yaml.safe_load(header) or {}, body
