"""What results come from, told without naming a folder of the machine: versions, command, settings."""

import platform
import re
import shlex
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .config.values import yaml_text

LIBRARIES = (
    "seggen_hf", "torch", "diffusers", "transformers", "datasets", "accelerate", "peft", "huggingface_hub",
    "safetensors", "numpy", "pillow", "scipy",
)  # fmt: skip

# Where a path of this machine begins, in a text or as all of it.
LOCAL = re.compile(
    r"(?P<url>\b(?!file:)[a-z][a-z0-9+.-]+://\S*)"  # an address elsewhere
    r"|(?<![\w.~/\\-])(?:file:/*)?"
    r"(?:[a-z]:[\\/]|\\\\|/|~[\w.-]*[\\/]|\.{1,2}[\\/]|\$\w+[\\/]|\$\{\w+\}[\\/]|%\w+%[\\/])"
    r"[^\s'\"`\[\](){}<>,;=|]+",
    re.IGNORECASE,
)
WHOLE = re.compile(r"file:|[a-z]:[\\/]|\\|/|~|\.{1,2}([\\/]|$)|\$\w+[\\/]|\$\{\w+\}|%\w+%", re.IGNORECASE)
UPWARDS = re.compile(r"(^|[\\/])\.\.([\\/]|$)")


def library_versions() -> dict[str, str]:
    """Python and the installed libraries that decide results."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def join_versions(found: Iterable[dict[str, str]]) -> dict[str, str]:
    """One entry a library: its version, or all of them where what was made apart had different ones."""
    joined: dict[str, list[str]] = {}
    for versions in found:
        for name, number in versions.items():
            numbers = joined.setdefault(name, [])
            if number not in numbers:
                numbers.append(number)
    return {name: ", ".join(numbers) for name, numbers in joined.items()}


def public_value(value):
    """A setting as it may be published: of local paths the last parts; Hub ids and other values stay.

    A text that begins like a path is one, spaces and all; in another text every path is cut that a space, a quote, a
    bracket or the like sets apart.
    """
    if isinstance(value, dict):
        return {public_value(key): public_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [public_value(item) for item in value]
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str):
        return value
    text = value.strip()
    if WHOLE.match(text) or UPWARDS.search(text):
        return _last_part(text)
    return LOCAL.sub(lambda found: found["url"] or _last_part(found[0]), value)


def _last_part(path: str) -> str:
    name = re.split(r"[\\/]", path.rstrip("\\/"))[-1]
    is_name = name not in ("", ".", "..") and not re.match(r"~|\$|%|[a-z]:$|file:", name, re.IGNORECASE)
    return name if is_name and not LOCAL.search(name) else "local folder"


def public_command(
    *words: str, settings: Mapping[str, object] | None = None, options: Iterable[tuple[str, object]] = ()
) -> str:
    """A command line as it may be published, put together from what was understood: nothing is copied as it was typed.

    Args:
        words: program, command and arguments.
        settings: `{section.key: value}` that `--set` gave.
        options: `(flag, value)`; those without a value are left out, a list follows its flag.
    """
    parts = [str(public_value(word)) for word in words]
    for key, value in (settings or {}).items():
        parts += ["--set", f"{key}={yaml_text(public_value(value))}"]
    for flag, value in options:
        values = value if isinstance(value, (list, tuple)) else [value]
        given = [str(public_value(item)) for item in values if item is not None]
        parts += [flag, *given] if given else []
    return shlex.join(parts)


def public_settings(settings: dict) -> dict:
    """`name: value` of a stage marker's settings that are set, without their sections."""
    known = {name.partition(".")[2]: public_value(value) for name, value in settings.items() if value is not None}
    known.pop("format", None)
    return known
