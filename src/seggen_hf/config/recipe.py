"""A recipe: the settings of a whole run, one flat section per stage, in one YAML file."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..storage.names import WrongName, check_name
from .data import CaptionConfig, DataConfig
from .evaluation import EvaluationConfig
from .presets import apply_preset
from .synthesis import FilterConfig, SynthesisConfig
from .training import AdaptConfig, Mask2ImgConfig, SegmenterConfig, Text2MaskConfig
from .values import build, find_recipe, nearest_name, parse_value, read_yaml, write_yaml

# Sections of a recipe, in the order of a run. Each is one flat dataclass.
SECTIONS = {
    "data": DataConfig,
    "caption": CaptionConfig,
    "adapt": AdaptConfig,
    "text2mask": Text2MaskConfig,
    "mask2img": Mask2ImgConfig,
    "synthesis": SynthesisConfig,
    "filter": FilterConfig,
    "segmenter": SegmenterConfig,
    "evaluation": EvaluationConfig,
}
GENERATORS = ("adapt", "text2mask", "mask2img")  # sections of trainings that start from an SDXL base
# Settings that change how a stage runs but not what it makes: changing them leaves a finished stage as it is, and a
# training that was begun continues. Fields say so themselves (`how_only` of `values.about`).
HOW_ONLY = {f.name for section in SECTIONS.values() for f in dataclasses.fields(section) if f.metadata.get("how_only")}
DEFAULTS = {
    f"{section}.{f.name}": getattr(default, f.name)
    for section, default in ((section, cls()) for section, cls in SECTIONS.items())
    for f in dataclasses.fields(default)
}


@dataclass(kw_only=True)
class Recipe:
    """The sections of a run. The generators work at the height and width of `data` unless their sections differ."""

    name: str
    data: DataConfig = field(default_factory=DataConfig)
    caption: CaptionConfig = field(default_factory=CaptionConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    text2mask: Text2MaskConfig = field(default_factory=Text2MaskConfig)
    mask2img: Mask2ImgConfig = field(default_factory=Mask2ImgConfig)
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self):
        check_name(self.name, "The recipe's name")

    def to_dict(self) -> dict:
        """Plain values in the order of a recipe file."""
        return dataclasses.asdict(self)


def load_recipe(path_or_name: str | os.PathLike, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path_or_name: a YAML file, or the name of a built-in recipe.
        overrides (`Sequence[str]`): `section.key=value`, `name=value` or `preset=value`, the value in YAML. A preset
            is laid over the file's settings, and the others over it.

    Raises: `ValueError`, one line that names the file or override: unknown section or key, wrong type, refused value.
    """
    path = find_recipe(path_or_name)
    # Overrides may set data.height: the rule about sizes comes after them, so they are laid over the raw sections.
    name, sections = read_sections(path, shared_size=False, preset=_preset_among(overrides))
    for override in overrides:
        key, equals, text = override.partition("=")
        section, dot, setting = key.strip().partition(".")
        if equals and not dot and section == "preset":
            continue
        if not equals or (not dot and section != "name"):
            raise ValueError(f"--set {override}: write section.key=value, such as data.height=128.")
        value = parse_value(text, f"--set {override}")
        if section == "name":
            name = str(value)
        elif section in sections:
            sections[section][setting] = value
        else:
            raise ValueError(f"--set {override}: there is no section {section!r}. {nearest_name(section, SECTIONS)}")
    for side in ("height", "width"):
        sections["data"].setdefault(side, getattr(DataConfig, side))
    share_size(sections)
    built = {key: build(cls, sections[key], f"{path}, section {key}") for key, cls in SECTIONS.items()}
    try:
        return Recipe(name=name, **built)
    except WrongName as error:
        raise WrongName(f"{path}: {error} Give another as `name:` in the file, or with --set name=NAME.") from None


def preset_of(path_or_name: str | os.PathLike, overrides: Sequence[str] = ()) -> str | None:
    """The preset with which `load_recipe` loads a recipe: the last of `overrides`, else the file's own."""
    return _preset_among(overrides) or _read_layers(find_recipe(path_or_name)).get("preset")


def _preset_among(overrides: Sequence[str]) -> str | None:
    names = [value.strip() for key, _, value in (o.partition("=") for o in overrides) if key.strip() == "preset"]
    return names[-1] if names else None


def list_overridden(recipe: Recipe, overrides: Sequence[str]) -> dict[str, object]:
    """`{section.key: value}` of what `overrides`, with which `recipe` was loaded, have set in it."""
    found = {}
    for override in overrides:
        section, _, setting = override.partition("=")[0].strip().partition(".")
        if section == "name":
            found["name"] = recipe.name
        elif section == "preset":
            found["preset"] = _preset_among([override])
        else:
            found[f"{section}.{setting}"] = getattr(getattr(recipe, section), setting)
    return found


def save_recipe(recipe: Recipe, path: str | os.PathLike) -> None:
    """Write every setting of `recipe`, defaults too; `load_recipe` reads the same recipe back.

    Sizes of the generators that are those of `data` are left out, so that they follow when data.height is overridden.
    """
    sections = recipe.to_dict()
    for name in GENERATORS:
        for side in ("height", "width"):
            if sections[name][side] == sections["data"][side]:
                del sections[name][side]
    write_yaml(sections, path)


def read_sections(
    path: str | os.PathLike, shared_size: bool = True, preset: str | None = None
) -> tuple[str, dict[str, dict]]:
    """Name and raw sections of a recipe file, over those of its `base:`; absent sections are empty.

    Args:
        shared_size (`bool`): apply `share_size`.
        preset (`str`): laid over the sections; the file's own `preset:` if it is not given.

    Raises: `ValueError` for another top-level key, with the nearest known one, for a preset or a base that there is
        not, and for a base that stands on itself.
    """
    content = _read_layers(path)
    sections = {name: content[name] for name in SECTIONS}
    if preset := preset or content.get("preset"):
        apply_preset(str(preset), sections, SECTIONS)
    if shared_size:
        share_size(sections)
    return str(content.get("name", Path(path).stem)), sections


def _read_layers(path: str | os.PathLike, above: tuple[Path, ...] = ()) -> dict:
    """What a recipe file holds, laid over what its `base:` holds; of every section a `dict`.

    Args:
        above: the files that stand on this one.
    """
    path, content, known = Path(path), read_yaml(path), [*SECTIONS, "name", "preset", "base"]
    if path.resolve() in above:
        raise ValueError(f"{path} stands on itself: follow its `base:`.")
    for key in content:
        if key not in known:
            raise ValueError(f"{path} has no section {key!r}. {nearest_name(str(key), known)}")
    layers: dict = {name: {} for name in SECTIONS}
    if base := content.get("base"):
        beside = path.parent / str(base)  # a file is found from the recipe's folder, wherever the command is given
        try:
            found = find_recipe(beside if beside.is_file() else str(base))
        except ValueError as error:
            raise ValueError(f"{path}, base: {error}") from None
        layers = _read_layers(found, (*above, path.resolve()))
        layers.pop("name", None)
    for name in SECTIONS:
        section = {} if content.get(name) is None else content[name]
        if not isinstance(section, dict):
            raise ValueError(f"{path}, section {name}, holds {section!r}; it must be `name: value` lines.")
        layers[name] |= section
    return layers | {key: content[key] for key in ("name", "preset") if key in content}


def share_size(sections: dict[str, dict]) -> None:
    """Give the generators' sections the height and width of `data` where they have none, and `adapt` what it does not
    say itself from `text2mask`, which trains the same network; in place."""
    known = {f.name for f in dataclasses.fields(AdaptConfig)}
    for name, value in (sections["mask2img"] | sections["text2mask"]).items():
        if name in known and (name in sections["text2mask"] or name in ("base_model", "revision", "image_gamma")):
            sections["adapt"].setdefault(name, value)
    for name in GENERATORS:
        for side in ("height", "width"):
            if side in sections["data"]:
                sections[name].setdefault(side, sections["data"][side])
