"""A run's artefacts as repositories: staged into RUN/hub, looked at or pushed."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from datasets import load_from_disk
from huggingface_hub import HfApi

from .arms import ARMS
from .card_pictures import draw_legend, draw_samples, spread
from .cards import RunCards, is_hub_id, write_card
from .data.schema import labels_of, write_json
from .hub import Artifact, Pushed, push
from .markers import read_marker
from .pipelines import ColormapCodec
from .recipe import Recipe, load_recipe
from .staging import stage_pipeline, stage_segmenter, stage_shards
from .synthesis import load_synthetic
from .synthesis.shards import dataset_configs

KINDS = ("text2mask", "mask2img", "segmenter", "dataset")
STAGED = "hub"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.py")
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
        prefix = f"{self.namespace}/{self.name}-" if self.name else f"{self.namespace}/"
        named = {"segmenter": f"segmenter-{self.arm}", "dataset": "dataset"}
        return {named.get(kind, kind): prefix + ("synthetic" if kind == "dataset" else kind) for kind in self.kinds}


def plan_push(
    run: str | Path,
    namespace: str,
    only: Sequence[str] = (),
    name: str | None = None,
    arm: str | None = None,
    seed: int | None = None,
) -> Plan:
    """What of `run` can be pushed: everything that is finished, or what `only` names.

    Raises: `ValueError` for an unknown artefact, one that is named and not finished, and a run with nothing to push.
    """
    run = Path(run)
    if not (run / "recipe.yaml").is_file():
        raise ValueError(f"{run} is no run folder: it has no recipe.yaml. Give the folder that `seggen run` filled.")
    recipe = load_recipe(run / "recipe.yaml")
    unknown = [kind for kind in only if kind not in KINDS]
    if unknown:
        raise ValueError(f"There is no artefact {unknown[0]!r}; there are {', '.join(KINDS)}.")
    arm = arm or next((a for a in ("synthetic", "imgsyn", "masksyn", "real") if a in recipe.evaluation.arms), None)
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
        if not done[kind]:
            raise ValueError(f"{folders[kind]} is not finished, so there is no {kind} to push; run the stage first.")
    kinds = tuple(kind for kind in KINDS if done[kind] and (not only or kind in only))
    if not kinds:
        raise ValueError(f"{run} holds nothing finished yet; `seggen run` makes what can be pushed.")
    round_name = f"round-{done['dataset']['fingerprint'][:8]}" if done["dataset"] else None
    return Plan(run, namespace, recipe.name if name is None else name, kinds, arm, seed, round_name)


def stage(plan: Plan, private: bool = False, public: bool = False) -> list[Artifact]:
    """Fill RUN/hub with one folder a repository: what lies there is what is pushed.

    Args:
        private (`bool`): every repository.
        public (`bool`): also a data set that was made from the user's own data, which is private otherwise.
    """
    recipe = load_recipe(plan.run / "recipe.yaml")
    cards = RunCards(plan.run, plan.repos)
    labels = labels_of(load_from_disk(plan.run / "captions"))
    codec = ColormapCodec(labels)
    root = plan.run / STAGED
    artifacts = []
    for kind in plan.kinds:
        key = f"segmenter-{plan.arm}" if kind == "segmenter" else kind
        repo_id = plan.repos[key]
        folder = root / repo_id.partition("/")[2]
        if kind == "dataset":
            artifacts.append(_stage_dataset(plan, recipe, cards, codec, repo_id, folder, private, public))
            continue
        if kind == "segmenter":
            stage_segmenter(plan.run / key / f"seed-{plan.seed}", folder)
            if results := cards.eval_results(plan.arm, plan.seed):
                (folder / ".eval_results").mkdir()
                (folder / ".eval_results" / "mean_iou.yaml").write_text(yaml.safe_dump(results, sort_keys=False))
        else:
            stage_pipeline(plan.run / kind, folder)
        pictures = _draw(plan, codec, folder, kind)
        card = (
            cards.segmenter(plan.arm, plan.seed, pictures) if kind == "segmenter" else cards.pipeline(kind, pictures)
        )
        write_card(folder, card)
        artifacts.append(Artifact(repo_id, "model", folder, private, WEIGHTS))
    return artifacts


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


def _stage_dataset(plan, recipe: Recipe, cards, codec, repo_id: str, folder: Path, private, public) -> Artifact:
    source = plan.run / "synthetic"
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.glob("round-*"):
        if other.name != plan.round:  # of a synthesis that has been made anew since
            shutil.rmtree(other)
    stage_shards(source, folder / plan.round)
    write_json(folder / plan.round / "settings.json", cards.settings("synthetic"))
    for name in ("labels.json", "id2label.json"):
        (folder / name).write_text((source / name).read_text())
    kinds = sorted(json.loads((source / "summary.json").read_text())["kinds"])
    configs = dataset_configs(plan.round, kinds)
    write_card(folder, cards.dataset(_draw(plan, codec, folder, "dataset"), configs))
    is_own = recipe.data.dataset_name != "scenes" and not is_hub_id(recipe.data.dataset_name)
    return Artifact(
        repo_id,
        "dataset",
        folder,
        private or (is_own and not public),
        owned=(f"{plan.round}/*",),
        fixed=("labels.json",),
        merge_card=lambda text: merge_rounds(text, (folder / "README.md").read_text(encoding="utf-8")),
    )


def _draw(plan: Plan, codec: ColormapCodec, folder: Path, kind: str) -> list[str]:
    """The pictures that a card can show; generated samples only, never a real image."""
    drawn = [draw_legend(codec, folder / "labels.png").name]
    if not read_marker(plan.run / "synthetic"):
        return drawn
    records = load_synthetic(plan.run / "synthetic")
    chosen = [i for i, k in enumerate(records["kind"]) if kind != "text2mask" or k == "masksyn"]
    rows = [records[chosen[i]] for i in spread(len(chosen))] if chosen else []
    if kind == "segmenter" and rows:
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
