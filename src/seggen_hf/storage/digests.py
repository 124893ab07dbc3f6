"""Digests that tell settings apart: the same on every machine.

There are two of JSON values, since folders hold both: what is there already would be taken for another's.
"""

import hashlib
import json

_FORMAT = 1  # of what trainings keep beside their facts; raised when the layout of a cache's chunk changes


def json_digest(value, **options) -> str:
    """Sixteen hex digits that change with `value`; `options` are those of `json.dumps`. Of stages and syntheses."""
    text = json.dumps(value, sort_keys=True, **options)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of(facts: dict) -> str:
    """Sixteen hex digits that change with any value in `facts` (JSON values). Of trainings and their caches."""
    text = json.dumps(facts | {"format": _FORMAT}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
