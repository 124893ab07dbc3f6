"""The demo as a Space: a folder that runs by itself, since a Space installs requirements.txt and nothing else.

This package goes along as source, without its weights and pictures; its requirements become requirements.txt.
"""

import re
import shutil
from collections.abc import Mapping
from importlib import resources
from importlib.metadata import requires, version
from pathlib import Path
from pprint import pformat

import yaml

from ..config import SynthesisConfig
from ..runs.cards import fill_card
from .staging import empty_folder

# What the page's generators need of a run's recipe; the rest of the section is about how many samples to make.
SAMPLING = (
    "mixed_precision", "text2mask_steps", "text2mask_guidance", "mask2img_steps", "mask2img_guidance",
    "conditioning_scale", "max_color_distance", "min_region_area", "fill_distance",
)  # fmt: skip
APP = '''"""SegGen's demo: see README.md. What visitors keep and reject goes to decisions/."""

from seggen_hf.config import SynthesisConfig
from seggen_hf.demo.models import load_models
from seggen_hf.demo.server import serve

config = SynthesisConfig(
{settings}
)
serve(load_models(config, {segmenter!r}), "decisions", caption={caption!r})
'''


def stage_space(target: Path, config: SynthesisConfig, models: Mapping[str, str], facts: Mapping) -> Path:
    """Fill `target` with app.py, requirements.txt, README.md and this package's source.

    Args:
        config: sampling settings of the generators.
        models: Hub ids under `text2mask`, `mask2img` and, if there is one, `segmenter`.
        facts: of the card: run, caption, label_names.
    """
    empty_folder(target)
    (target / "app.py").write_text(app_source(config, models, facts["caption"]), encoding="utf-8")
    (target / "requirements.txt").write_text("\n".join(requirements()) + "\n", encoding="utf-8")
    _copy_package(target)
    header = {
        "title": f"SegGen {facts['run']}",
        "sdk": "gradio",
        "sdk_version": _minimum("gradio"),
        "python_version": "3.11",
        "app_file": "app.py",
        "pinned": False,
        "models": list(models.values()),
        "tags": ["seggen", "image-segmentation", "synthetic-data"],
    }
    card = fill_card("space", {**facts, "models": models}, yaml.safe_dump(header, sort_keys=False))
    (target / "README.md").write_text(card, encoding="utf-8")
    return target


def app_source(config: SynthesisConfig, models: Mapping[str, str], caption: str) -> str:
    """app.py: the page with these models, and `caption` in its text box."""
    settings = {f"{name}_model": models[name] for name in ("text2mask", "mask2img")}
    settings |= {name: getattr(config, name) for name in SAMPLING}
    lines = "\n".join(f"    {name}={pformat(value)}," for name, value in settings.items())
    return APP.format(settings=lines, segmenter=models.get("segmenter"), caption=caption)


def requirements() -> list[str]:
    """What this package and its demo need, as its installation declares it."""
    found = []
    for line in requires("seggen_hf") or []:
        name, _, marker = (part.strip() for part in line.partition(";"))
        if not marker or marker.replace("'", '"') == 'extra == "demo"':
            found.append(name)
    return sorted(found)


def _minimum(name: str) -> str:
    (line,) = (line for line in requirements() if re.match(rf"{name}\b", line))
    return re.findall(r">=([\d.]+)", line)[0]


def _copy_package(target: Path) -> None:
    # The pipelines lie elsewhere in a checkout. The metadata tells the copy its version.
    for package in ("seggen_hf", "seggen_hf.pipelines"):
        folder = Path(str(resources.files(package)))
        for file in sorted(folder.rglob("*.py")):
            path = target.joinpath(*package.split("."), file.relative_to(folder))
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, path)
    number = version("seggen_hf")
    metadata = target / f"seggen_hf-{number}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: seggen_hf\nVersion: {number}\n")
