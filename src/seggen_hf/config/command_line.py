"""Settings from a command line: a recipe, a preset, and flags."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from .data import DataConfig
from .presets import apply_preset
from .recipe import SECTIONS, read_sections, share_size
from .values import build, find_recipe, nearest_name


def parse_config(*classes, argv: Sequence[str] | None = None) -> tuple:
    """Instances of `classes` from the command line: a recipe (file or built-in name) if any, then `--name value`s.

    A flag that several of the classes have sets it in all of them. `--preset` lays one of `presets` over the recipe,
    and other flags over that. `--help` prints all names and leaves.

    Args:
        classes: dataclasses out of `SECTIONS`; each reads its own section of the recipe.
        argv (`Sequence[str]`): arguments without the program's name; those of the process if not given.

    Raises: `ValueError`, one clear line: unknown key or flag (with the nearest known one), wrong type, refused value.
    """
    from transformers import HfArgumentParser  # seconds to import, and only command lines need it

    class Parser(HfArgumentParser):
        def error(self, message):
            raise ValueError(message[:1].upper() + message[1:] + ".")

        def add_argument(self, *names, how_only=False, within=None, one_of=(), **options):
            return super().add_argument(*names, **options)  # fields say more than argparse takes

    argv = list(sys.argv[1:] if argv is None else argv)
    parser = Parser(
        classes,
        conflict_handler="resolve",
        allow_abbrev=False,
        usage="%(prog)s [RECIPE] [--name value ...]",
    )
    if {"-h", "--help"} & set(argv):
        parser.parse_args(["--help"])
    for action in parser._actions:
        action.default = argparse.SUPPRESS  # what was not said stays with the recipe, then with the dataclass
    path = find_recipe(argv.pop(0)) if argv and not argv[0].startswith("-") else None
    chooser = Parser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--preset")
    chosen, argv = chooser.parse_known_args(argv)
    sections = read_sections(path, preset=chosen.preset)[1] if path else {name: {} for name in SECTIONS}
    if chosen.preset and not path:
        apply_preset(chosen.preset, sections, SECTIONS)
    if not path:  # the built-in scenes are drawn, and trained on, at one size
        sections["data"] = {side: getattr(DataConfig, side) for side in ("height", "width")}
        share_size(sections)
    given, unknown = parser.parse_known_args(argv)
    if unknown:
        flags = [option for action in parser._actions for option in action.option_strings if "-" not in option[2:]]
        raise ValueError(f"There is no {unknown[0]}. {nearest_name(unknown[0].split('=')[0], flags, '`--help`')}")
    section_of = {cls: name for name, cls in SECTIONS.items()}
    built = []
    for cls in classes:
        names = {f.name for f in dataclasses.fields(cls)}
        flags = {name: value for name, value in vars(given).items() if name in names}
        where = f"{path}, section {section_of[cls]}" if path else "Command line"
        built.append(build(cls, sections[section_of[cls]] | flags, where))
    return tuple(built)


def parse_or_exit(*classes, argv: Sequence[str] | None = None) -> tuple:
    """`parse_config` for scripts: what the user got wrong becomes one line on stderr and exit status 2."""
    try:
        return parse_config(*classes, argv=argv)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
