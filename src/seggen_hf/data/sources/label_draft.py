"""A label file to fill in, of the values that masks hold."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

READ = 20  # masks that are looked at
MOST = 40  # values that are written out: more are hardly labels
VOID = 255  # by custom, where other labels than two are there


def draft_label_file(masks: Sequence[Path]) -> str | None:
    """The text of a classes.json whose names are to be filled in, as the values of the first masks ask for it.

    Returns: None where they hold too many values for labels, or cannot be read.
    """
    ids: set[int] = set()
    colors: set[tuple[int, ...]] = set()
    for path in masks[:READ]:
        try:
            with Image.open(path) as mask:
                if mask.mode in ("1", "L", "P", "I", "I;16"):
                    ids.update(np.unique(np.asarray(mask).astype(np.int64)).tolist())
                else:
                    pixels = np.asarray(mask.convert("RGB")).reshape(-1, 3)
                    colors.update(map(tuple, np.unique(pixels, axis=0).tolist()))
        except (OSError, ValueError, Image.DecompressionBombError):
            return None
        if len(ids) + len(colors) > MOST:
            return None
    has_void = VOID in ids and len(ids) > 2
    facts = [{"id": value} for value in sorted(ids - ({VOID} if has_void else set()))]
    facts = facts or [{"id": number, "color": list(color)} for number, color in enumerate(sorted(colors))]
    if not facts or (ids and colors):
        return None
    categories = [{"id": fact["id"], "name": "?"} | fact for fact in facts]
    return json.dumps(({"ignore_index": VOID} if has_void else {}) | {"categories": categories})
