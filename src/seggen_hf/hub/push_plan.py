"""Which artefacts of a run are pushed, and where to."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ..arms import ARMS, parse_segmenter_name, shown_arm
from ..runs.folder import RunFolder, find_stage
from ..runs.stage_marker import read_marker
from ..storage.names import check_name

# What a run makes; and what is pushed only where it is named.
KINDS = ("text2mask", "mask2img", "segmenter", "dataset")
NAMED = ("adapters", "metrics", "space")


@dataclass(frozen=True)
class PushPlan:
    """Which artefacts of a run go where.

    `name` is the part of every repository's name before the artefact's; `arm` and `seed` choose the segmenter.
    """

    run: RunFolder
    namespace: str
    name: str
    kinds: tuple[str, ...]
    arm: str
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
            "adapters": ("lora", "mask2img-lora", "controlnet", "controlnet-lora"),
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
    run: str | os.PathLike,
    namespace: str,
    only: Sequence[str] = (),
    name: str | None = None,
    arm: str | None = None,
    seed: int | None = None,
) -> PushPlan:
    """What of `run` can be pushed: everything that is finished, or what `only` names.

    `run` may also be the folder of one artefact in a run, which alone is pushed then.

    Raises: `ValueError` for an unknown artefact, one that is named and not finished, and a run with nothing to push;
        `WrongName` for a namespace or name that is none.
    """
    check_name(namespace, "--namespace")
    if name:
        check_name(name, "--name")
    run, only = RunFolder(run), list(dict.fromkeys(only))
    if found := _find_artifact(run):
        if only or arm is not None or seed is not None:
            raise ValueError(f"{run} is one artefact of a run; name the run's folder to choose with flags.")
        run, only, arm, seed = found
    recipe = run.recipe()
    unknown = [kind for kind in only if kind not in KINDS + NAMED]
    if unknown:
        raise ValueError(f"There is no artefact {unknown[0]!r}; there are {', '.join(KINDS + NAMED)}.")
    arm = arm or shown_arm(recipe)
    if arm not in ARMS:
        raise ValueError(f"There is no arm {arm!r}; there are {', '.join(ARMS)}.")
    seed = recipe.evaluation.seeds[0] if seed is None else seed
    folders = {
        "text2mask": run.text2mask,
        "mask2img": run.mask2img,
        "segmenter": run.segmenter(arm, seed),
        "dataset": run.synthetic,
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
    plan = PushPlan(run, namespace, recipe.name if name is None else name, kinds, arm, seed, round_name)
    for repo in plan.repos.values():
        check_name(repo.partition("/")[2], "A repository")
    return plan


def _find_artifact(folder: RunFolder) -> tuple[RunFolder, list[str], str | None, int | None] | None:
    """The run, artefact, arm and seed of a folder in a run; None for any other folder."""
    if not (found := find_stage(folder)):
        return None
    run, name = found
    if training := parse_segmenter_name(name):
        return run, ["segmenter"], *training
    kinds = {"text2mask": "text2mask", "mask2img": "mask2img", "synthetic": "dataset"}
    return (run, [kinds[name]], None, None) if name in kinds else None
