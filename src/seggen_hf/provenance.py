"""What results come from, told without naming a folder of the machine: versions, command, settings."""

import platform
import re
import shlex
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePosixPath, PureWindowsPath

LIBRARIES = (
    "seggen_hf", "torch", "diffusers", "transformers", "datasets", "accelerate", "peft", "huggingface_hub",
    "safetensors", "numpy", "pillow", "scipy",
)  # fmt: skip


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
    """A setting as it may be published: a local path is cut to its last part; Hub ids and other values stay."""
    if isinstance(value, list):
        return [public_value(item) for item in value]
    if not isinstance(value, str):
        return value
    text = value.removeprefix("file://")
    is_windows = re.match(r"[A-Za-z]:[\\/]|\\\\|\.{1,2}\\", text) is not None
    if not is_windows and not re.match(r"/|~|\.{1,2}(/|$)", text):
        return text
    name = (PureWindowsPath(text) if is_windows else PurePosixPath(text)).name
    return name if name not in ("", ".", "..") and not name.startswith("~") else "local folder"


def public_command(text: str) -> str:
    """A command line whose local paths, alone or after `=`, are cut to their last parts."""
    tokens = []
    for token in shlex.split(text):
        name, equals, value = token.partition("=")
        tokens.append(name + equals + _public_text(value) if equals else public_value(token))
    return shlex.join(tokens)


def _public_text(text: str) -> str:
    """A typed value, which may be a list in YAML."""
    if not (text.startswith("[") and text.endswith("]")):
        return public_value(text)
    parts = [part.strip().strip("\"'") for part in text[1:-1].split(",")]
    published = [public_value(part) for part in parts]
    return text if published == parts else f"[{', '.join(published)}]"


def public_settings(settings: dict) -> dict:
    """`name: value` of a stage marker's settings that are set, without their sections."""
    known = {name.partition(".")[2]: public_value(value) for name, value in settings.items() if value is not None}
    known.pop("format", None)
    return known
