"""Write docs/settings.md, every setting with its help and the presets: python benchmarks/write_settings.py

Nothing is typed: all of it comes from the dataclasses of `seggen_hf.config`.
"""

import argparse
import dataclasses
import types
import typing
from pathlib import Path

from seggen_hf.config import SECTIONS, GeneratorConfig, ImageGeneratorConfig, TrainingConfig
from seggen_hf.config.presets import MEMORY, preset_lines
from seggen_hf.config.values import yaml_text
from seggen_hf.storage.files import write_text

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
BEGIN = """<!-- written by benchmarks/write_settings.py -->
# Settings

One flat section a stage. In a recipe (YAML) they stand under the section's name; `--set section.name=value` lays one
over it, `--preset` a list of them between the two. The scripts in `training/` take those of their sections as flags,
`--name value`. A name or value that is none is refused in one line, with the nearest known one.

Settings marked *how* change how a stage runs and not what it makes: with another value a finished stage stays
finished. Any other change is refused for a finished stage, unless it is made anew (`--redo`).
"""


def describe_type(hint) -> str:
    """`int`, `list of str`, `str or null`: as YAML has it."""
    arguments = typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return " or ".join("null" if part is type(None) else describe_type(part) for part in arguments)
    return f"list of {describe_type(arguments[0])}" if typing.get_origin(hint) is list else hint.__name__


def list_settings(cls: type) -> list[str]:
    """A table of the settings that `cls` adds, or gives another default or help than those that it builds upon."""
    hints, default = typing.get_type_hints(cls), cls()
    lines = ["| setting | type | default | |", "|---|---|---|---|"]
    for field in dataclasses.fields(cls):
        if field.name not in cls.__annotations__:
            continue
        text = field.metadata["help"].replace("|", "\\|") + (" *how*" if field.metadata["how_only"] else "")
        value = yaml_text(getattr(default, field.name)).replace("|", "\\|")
        lines.append(f"| `{field.name}` | {describe_type(hints[field.name])} | `{value}` | {text} |")
    return lines if len(lines) > 2 else []


def describe_settings() -> str:
    """The whole page."""
    parts = [BEGIN]
    for name, cls in SECTIONS.items():
        if name == "adapt":
            parts.append(
                _section("Every training", TrainingConfig, "Sections `adapt`, `text2mask`, `mask2img`, `segmenter`. ")
            )
            parts.append(_section("Generators", GeneratorConfig, "Sections `adapt`, `text2mask`, `mask2img`. "))
            parts.append(_section("Generators of images", ImageGeneratorConfig, "Sections `adapt`, `mask2img`. "))
        parts.append(_section(f"`{name}`", cls, _inherited(cls)))
    lines = [
        f"**{name}**, for cards of {size} GiB:\n\n" + "\n".join(f"- {line}" for line in preset_lines(name))
        for name, size in MEMORY.items()
    ]
    rule = "`train_batch_size` is the most that fits; `gradient_accumulation_steps` follow, for as many samples a step"
    return "\n".join([*parts, f"## Presets\n\n{rule}.\n", "\n\n".join(lines), ""])


def _inherited(cls: type) -> str:
    if issubclass(cls, ImageGeneratorConfig):
        return "Those of every training, of all generators and of those of images, and: "
    if issubclass(cls, GeneratorConfig):
        return "Those of every training and of all generators, and: "
    return "Those of every training, and: " if issubclass(cls, TrainingConfig) else ""


def _section(title: str, cls: type, before: str) -> str:
    table = list_settings(cls)
    if not table:
        before = before.replace(", and: ", ". ")
    text = " ".join((before + cls.__doc__).split())
    return "\n".join([f"## {title}", "", text, "", *table, *([""] if table else [])])


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    write_text(PAGE, describe_settings())


if __name__ == "__main__":
    main()
