"""Values of dataclass fields from YAML and `key=value` text: typed, checked; unknown names are refused."""

import dataclasses
import difflib
import math
import os
import re
import types
import typing
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path

import yaml

from ..storage.files import write_json, write_text

MOST_NODES = 20_000  # of a recipe's YAML, aliases written out
MOST_INT = 2**32 - 1  # that NumPy and PyTorch take as a seed


class RecipeLoader(yaml.SafeLoader):
    """Safe YAML, in which no name is given twice: the second would silently take the place of the first."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_yaml(text: str):
    """The value of a YAML text. Raises: `yaml.YAMLError`, for a name given twice and aliases that blow up too."""
    loader = RecipeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _count_nodes(node, {}) > MOST_NODES:
            raise yaml.YAMLError(f"its aliases make more than {MOST_NODES} values")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _count_nodes(node, counted: dict[int, int | None]) -> int:
    """Nodes below `node` if each alias were written out; one that holds itself has too many."""
    if id(node) in counted:
        known = counted[id(node)]
        return MOST_NODES + 1 if known is None else known
    counted[id(node)] = None
    inner = []
    if isinstance(node, yaml.MappingNode):
        inner = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        inner = node.value
    counted[id(node)] = 1 + sum(_count_nodes(part, counted) for part in inner)
    return counted[id(node)] or 1


def nearest_name(name: str, known: Iterable[str], listing: str | None = None) -> str:
    """`Did you mean 'x'?` for the closest of `known`, or the list of them (or what prints the list)."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"{listing} lists what there is." if listing else f"Known are: {', '.join(known)}."


def convert(value, wanted, name: str):
    """`value`, read from YAML, as the type that the field `name` has.

    YAML 1.1 reads `1e-5` as text and a commit such as `1234567` as a number; the field's type decides. It reads a
    bare `no` as False, which mixed_precision means as the word.

    Raises: `ValueError` naming the field, the value and what was expected.
    """
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (types.UnionType, typing.Union):
        if value is None or value == "null":
            return None
        return convert(value, next(a for a in arguments if a is not type(None)), name)
    if isinstance(value, str) and wanted is int and re.fullmatch(r"[+-]?\d{1,30}", value.strip()):
        return int(value)  # exactly: as a float it would be rounded
    if origin is list:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{name} is {value!r}; it must be a list, such as [{value}].")
        return [convert(item, arguments[0], name) for item in value]
    try:
        if wanted is bool and isinstance(value, bool):
            return value
        if wanted is int and not isinstance(value, bool) and float(value) == int(float(value)):
            return int(value) if isinstance(value, int) else int(float(value))
        if wanted is float and not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    if wanted is str and isinstance(value, (str, int)) and not isinstance(value, bool):
        return str(value)
    if name == "mixed_precision" and value is False:
        return "no"
    expected = {bool: "true or false", int: "a whole number", float: "a number", str: "text (in quotes)"}[wanted]
    raise ValueError(f"{name} is {value!r}; it must be {expected}.")


def check_fields(config) -> None:
    """Raise `ValueError` for a value that a settings dataclass does not take: a number that is not finite, negative,
    or too large for a seed, and what its field's metadata (`about`) rules out.

    No setting means anything below 0. What hangs on several fields, each class checks itself.
    """
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                continue
            check(math.isfinite(number), f.name, value, "a finite number")
            check(number >= 0, f.name, value, "0 or positive")
            check(isinstance(number, float) or number <= MOST_INT, f.name, value, f"at most {MOST_INT}")
        within, one_of = f.metadata.get("within"), f.metadata.get("one_of")
        if within is not None and value is not None:
            check(within.holds(value), f.name, value, within.rule)
        if one_of:
            check(value in one_of, f.name, value, f"one of {one_of}")


def build(cls, values: dict, where: str):
    """An instance of the dataclass `cls` from `values`; the rest are defaults.

    Raises: `ValueError`, one line that begins with `where`: an unknown name, a wrong type, or what `cls` refuses.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where} holds {values!r}; it must be `name: value` lines.")
    hints = typing.get_type_hints(cls)
    names = {f.name for f in dataclasses.fields(cls)}
    try:
        for name in values:
            if name not in names:
                raise ValueError(f"there is no setting {name!r}. {nearest_name(str(name), names)}")
        return cls(**{name: convert(value, hints[name], name) for name, value in values.items()})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def builtin_recipes() -> dict[str, Path]:
    """Names and files of the recipes that ship with the package."""
    folder = Path(str(resources.files("seggen_hf.recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(path_or_name: str | os.PathLike) -> Path:
    """A recipe's file: a path, or the name of a built-in one.

    Raises: `ValueError` if it is neither, with the nearest built-in name.
    """
    path = Path(path_or_name)
    if path.is_file():
        return path
    builtin = builtin_recipes()
    if str(path_or_name) in builtin:
        return builtin[str(path_or_name)]
    raise ValueError(f"There is no recipe {path_or_name}. {nearest_name(path.stem, builtin)}")


def read_yaml(path: str | os.PathLike) -> dict:
    """The mapping in a YAML file. Raises `ValueError` if it holds something else."""
    path = Path(path)
    try:
        content = load_yaml(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold `name: value` lines, not {type(content).__name__}.")
    return content


def parse_value(text: str, where: str):
    """One value in YAML, as typed after `=`. Raises `ValueError`, one line that begins with `where`."""
    try:
        return load_yaml(text) if text.strip() else ""
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{where}: {text!r} is not YAML: {' '.join(str(error).split())}") from None


def yaml_text(value) -> str:
    """`value` on one line, such that `parse_value` reads it again."""
    how = {"default_flow_style": True, "width": float("inf")}
    text = yaml.safe_dump(value, **how, allow_unicode=True).removesuffix("\n").removesuffix("\n...")
    if len(text.splitlines()) > 1:  # of a text with line breaks, which double quotes can hold as signs
        text = yaml.safe_dump(value, **how, default_style='"').strip()
    return text


def list_differing(config) -> dict:
    """`name: value` of the fields of a dataclass instance that differ from their defaults."""
    default = type(config)()
    return {name: value for name, value in dataclasses.asdict(config).items() if value != getattr(default, name)}


def write_yaml(content: dict, path: str | os.PathLike) -> None:
    """Write `content` as YAML, in its own order."""
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


@dataclasses.dataclass(frozen=True)
class Range:
    """What a number may be: the rule, as a message says it, and whether a value keeps it."""

    rule: str
    holds: Callable[[float], bool]


POSITIVE = Range("positive", lambda number: number > 0)
AT_LEAST_ONE = Range("at least 1", lambda number: number >= 1)
AT_LEAST_TWO = Range("at least 2", lambda number: number >= 2)
SHARE = Range("in [0, 1]", lambda number: 0 <= number <= 1)
PART = Range("in [0, 1)", lambda number: 0 <= number < 1)
SIDE = Range("a multiple of 8, at least 16", lambda number: number >= 16 and number % 8 == 0)  # pixels of latents


def about(text: str, how_only: bool = False, within: Range | None = None, one_of: tuple[str, ...] = ()) -> dict:
    """Metadata of a field: the help of its flag, whether it changes how a stage runs but not what it makes, and what
    it may be, which `check_fields` checks."""
    return {"help": text, "how_only": how_only, "within": within, "one_of": one_of}


def check(condition: bool, name: str, value, rule: str) -> None:
    """Raise `ValueError` with the flag, its value and the rule."""
    if not condition:
        raise ValueError(f"--{name} is {value!r}; it must be {rule}.")


def check_unique(name: str, values: list) -> None:
    check(len(set(values)) == len(values), name, values, "without repetitions")


def save_config(config, folder: str | Path) -> None:
    """Write `config` as run_config.json beside what it made."""
    write_json(Path(folder) / "run_config.json", dataclasses.asdict(config))
