"""`uv run` and `hf jobs uv run` find in a script's own header what it needs, and that is what the package says."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "training").glob("*.py"))
# Of the standard (PEP 723, inline script metadata).
HEADER = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")


def header(script: Path) -> dict:
    (found,) = HEADER.finditer(script.read_text(encoding="utf-8"))
    assert found["type"] == "script"
    return tomllib.loads("".join(line[2:] for line in found["content"].splitlines(keepends=True)))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_header_names_this_package_at_its_place(script):
    package = importlib.metadata.metadata("seggen_hf")
    (place,) = [url.split(", ")[1] for url in package.get_all("Project-URL") if url.startswith("Issues, ")]
    repository = place.removesuffix("/issues")
    assert header(script) == {
        "requires-python": package["Requires-Python"],
        # By address: the registry may have another package under this name.
        "dependencies": [f"{package['Name']} @ git+{repository}"],
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_imports_nothing_that_the_package_does_not_bring(script):
    tree = ast.parse(script.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    required = importlib.metadata.requires("seggen_hf") or []
    brought = {re.match(r"[\w.-]+", line)[0] for line in required if "extra ==" not in line}
    found = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"seggen_hf"}
    assert found <= brought


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_that_is_called_runs(script):
    last = ast.parse(script.read_text(encoding="utf-8")).body[-1]
    assert isinstance(last, ast.If) and ast.unparse(last.test) == "__name__ == '__main__'"
