"""What the documentation names is there, and what scripts write of it is as they would write it now."""

import pkgutil
import re
from pathlib import Path

import pytest
import yaml

from seggen_hf.config.values import builtin_recipes

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "src" / "seggen_hf"
IN_RUNS = {
    "captions", "unlabelled", "adapted", "text2mask", "mask2img", "synthetic", "filtered", "pseudo", "renderer",
    "repainted", "replaced", "log",
}  # fmt: skip
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Of the repository; what is elsewhere is not asked. Those of docs/ stay there, since the site holds no more."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|mailto:|#", target):
            continue
        file = page.parent / target.partition("#")[0]
        assert file.exists(), target
        assert DOCS not in page.parents or DOCS in file.resolve().parents, target


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/results.md"])
def test_files_that_are_named_are_there(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    for name in re.findall(r"`((?:[\w-]+/)+(?:[\w-]+\.(?:py|yaml))?)`", text):
        if re.search("[A-Z]", name) or name.split("/")[0] in IN_RUNS:
            continue  # stands for something, or lies in a run folder
        places = [ROOT / name, PACKAGE / name, PACKAGE / "data" / name, DOCS / name]
        assert any(place.exists() for place in places), name


def test_the_architecture_has_a_line_for_every_room():
    """And for none that is not there: the first column of its table of rooms."""
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w.]+?)/?`", " ".join(re.findall(r"^\| (`[^|]*) \|", text, flags=re.MULTILINE))))
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.iterdir())} - {"__pycache__"}
    rooms |= {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    assert rooms <= named, rooms - named
    assert {name for name in named if name.endswith(".py")} <= rooms, named - rooms


def test_settings_are_those_of_the_code(load_script):
    script = load_script(ROOT / "benchmarks" / "write_settings.py")
    stale = "docs/settings.md is stale; run python benchmarks/write_settings.py"
    assert script.PAGE.read_text(encoding="utf-8") == script.describe_settings(), stale


def test_every_recipe_has_its_part_of_the_page():
    text = (DOCS / "recipes.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## (\w+)$", text, flags=re.MULTILINE)) == set(builtin_recipes())
    for name, path in builtin_recipes().items():
        assert f'--8<-- "{path.relative_to(path.parents[2])}"' in text, name


@pytest.mark.parametrize("page", sorted(path.stem for path in (DOCS / "api").glob("*.md")))
def test_the_api_names_what_there_is(page):
    text = (DOCS / "api" / f"{page}.md").read_text(encoding="utf-8")
    for name, members in re.findall(r"^::: (\S+)\n(?:    options:\n      members: \[(.*)\]\n)?", text, re.MULTILINE):
        found = pkgutil.resolve_name(f"seggen_hf.{name}" if name.startswith("pipelines.") else name)
        for member in filter(None, members.split(", ")):
            assert hasattr(found, member), f"{name}.{member}"


def test_the_site_shows_every_page():
    class Loader(yaml.SafeLoader):
        """Passes over names of Python objects, which the tool resolves."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)
    site = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)

    def files(entry):
        if isinstance(entry, str):
            return [entry]
        return [file for part in (entry.values() if isinstance(entry, dict) else entry) for file in files(part)]

    assert sorted(files(site["nav"])) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_workflows_and_pages_call_targets_that_there_are():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    texts = [path.read_text(encoding="utf-8") for path in [*PAGES, *(ROOT / ".github").rglob("*.yml")]]
    called = set(re.findall(r"^(?: *- run: )?make ([\w-]+)", "\n".join(texts), flags=re.MULTILINE))
    assert {"quality", "test", "test-fast", "docs"} <= called <= targets
