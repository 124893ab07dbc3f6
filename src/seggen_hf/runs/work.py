"""How long the stages of a run take beside each other, by its plan: it tells what is left of those that wait."""

import contextlib
import json

from .folder import RunFolder
from .stages import Stage


def read_work(run: RunFolder) -> dict[str, float]:
    """How long each kind of stage takes beside the others, as the run was last planned; empty where it was not."""
    return read_planned(run).get("work", {})


def work_of(stage: Stage, work: dict[str, float]) -> float | None:
    """Of one stage; None where it is not known."""
    return None if stage.name == "renderer" else work.get(stage.kind)


def read_planned(run: RunFolder) -> dict:
    """What `preflight.plan_work` has written; empty if it has not."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads(run.work.read_text(encoding="utf-8"))
    return {}
