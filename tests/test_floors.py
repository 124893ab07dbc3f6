"""Every file imports only lower floors and its own room; so each is read with only the floors below in mind."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import seggen_hf
import seggen_hf.pipelines

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "seggen_hf": ROOT / "src" / "seggen_hf",
    "seggen_hf.pipelines": ROOT / "pipelines",
    "seggen_hf.model_cards": ROOT / "model_cards",
    "seggen_hf.metric_modules": ROOT / "metrics",
    "seggen_hf.recipes": ROOT / "training" / "recipes",
}
# A folder is a room, with the folders in it: one floor for all its files. Loose files are rooms of their own.
FLOORS = {
    "pipelines": 0,
    "model_cards": 0,
    "recipes": 0,
    "storage": 0,
    "metrics": 0,
    "miniature": 0,
    "networks": 0,
    "process": 0,
    "segments": 0,
    "tasks": 0,
    "config": 1,
    "labels": 1,
    "metric_modules": 1,
    "arms": 2,
    "data": 2,
    "provenance": 2,
    "pictures": 3,
    "segmenter": 3,
    "synthesis": 4,
    "trainers": 4,
    "plan": 5,
    "runs": 6,
    "demo": 7,
    "hub": 8,
    "cli": 9,
}
SCRIPTS_FLOOR = 10


def module_files() -> dict[str, Path]:
    """{dotted name: file}; a package is its `__init__.py`."""
    files = {}
    for package, folder in FOLDERS.items():
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            files[".".join([package, *parts])] = file
    return files


FILES = module_files()
SCRIPTS = {
    f"{folder}.{file.stem}": file
    for folder in ("training", "benchmarks")
    for file in sorted((ROOT / folder).glob("*.py"))
}


def floor(name: str) -> int:
    if name in SCRIPTS:
        return SCRIPTS_FLOOR
    assert room(name) in FLOORS, f"{name} has no floor yet; give it one in tests/test_floors.py."
    return FLOORS[room(name)]


def room(name: str) -> str:
    return name.split(".")[1]


def imports(name: str) -> set[str]:
    """Our own modules that a file imports, anywhere in it: an import in a function would only hide a cycle."""
    file = FILES.get(name) or SCRIPTS[name]
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [base])])
            submodules = {f"{base}.{alias.name}" for alias in node.names}
            found.update(submodules & set(FILES))
            if submodules - set(FILES):
                found.add(base)
    return {module for module in found if module.split(".")[0] == "seggen_hf"} - {name}


IMPORTS = {name: imports(name) for name in [*FILES, *SCRIPTS]}
MODULES = [name for name in IMPORTS if name != "seggen_hf"]


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name):
    """Lower floors, and on the same floor files of the same room."""
    for other in sorted(IMPORTS[name] - {"seggen_hf"}):
        assert floor(other) <= floor(name), (
            f"{name} [{floor(name)}] imports {other} [{floor(other)}]: that is upwards."
        )
        assert floor(other) < floor(name) or room(other) == room(name), (
            f"{name} imports {other}, of the same floor but another room; move what they share down."
        )


def test_there_are_no_cycles():
    done, path = set(), []

    def visit(name):
        assert name not in path, " imports ".join([*path[path.index(name) :], name])
        if name not in done:
            path.append(name)
            for other in sorted(IMPORTS.get(name, ())):
                visit(other)
            done.add(path.pop())

    for name in IMPORTS:
        visit(name)


def test_the_root_imports_nothing_and_only_the_top_imports_it():
    """Its names are lazy: a file that took one from it would hide what it stands on."""
    assert not IMPORTS["seggen_hf"] and not IMPORTS["seggen_hf.pipelines"]
    lower = {name for name in MODULES if floor(name) < FLOORS["cli"]}
    assert {name for name in lower if "seggen_hf" in IMPORTS[name]} == set()


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("seggen_choices", set()),
        ("seggen_palette", {"numpy"}),
        ("seggen_colormap", {"numpy", "torch", ".seggen_palette"}),
        ("seggen_panoptic", {"numpy", ".seggen_choices", ".seggen_colormap", ".seggen_palette"}),
        ("seggen_pipeline", {"numpy", "torch", ".seggen_choices", ".seggen_colormap", ".seggen_panoptic"}),
        ("seggen_text2mask", {"numpy", "torch", "PIL", "diffusers", ".seggen_pipeline"}),
        ("seggen_mask2img", {"numpy", "torch", "PIL", "diffusers", ".seggen_pipeline"}),
        ("seggen_flux2", {"torch", ".seggen_pipeline"}),
        ("pipeline_text2mask", {"torch", "diffusers", "transformers", ".seggen_text2mask"}),
        ("pipeline_mask2img", {"torch", "diffusers", "transformers", ".seggen_mask2img", ".seggen_pipeline"}),
        ("pipeline_flux2_text2mask", {"torch", "diffusers", "transformers", ".seggen_flux2", ".seggen_text2mask"}),
        (
            "pipeline_flux2_mask2img",
            {"numpy", "torch", "PIL", "diffusers", "transformers"}
            | {".seggen_flux2", ".seggen_mask2img", ".seggen_pipeline"},
        ),
    ],
)
def test_what_travels_to_the_hub_stands_alone(name, allowed):
    """At the top of the files; diffusers finds siblings by `from .name import`, and nothing else of ours is there."""
    found = set()
    for node in ast.parse(FILES[f"seggen_hf.pipelines.{name}"].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add("." + node.module if node.level else node.module.split(".")[0])
    assert found - set(sys.stdlib_module_names) <= allowed


def test_importing_the_package_loads_nothing_heavy():
    heavy = "torch numpy transformers diffusers datasets huggingface_hub".split()
    script = f"import seggen_hf, seggen_hf.config, sys; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_public_name_resolves():
    for package in (seggen_hf, seggen_hf.pipelines):
        for name in package.__all__:
            assert getattr(package, name).__name__ == name
        assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = seggen_hf.no_such_name


@pytest.mark.parametrize("package", [seggen_hf, seggen_hf.pipelines], ids=lambda package: package.__name__)
def test_editors_see_the_same_names_at_the_same_places(package):
    stub = ast.parse(Path(package.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imported = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    places = {alias.asname: node.module.removeprefix("seggen_hf.") for node in imported for alias in node.names}
    assert places == package._MODULE_OF
