"""What the image is built of is what the package is built of, and it starts a command that there is."""

import json
import re
import tomllib
from pathlib import Path

from typer.testing import CliRunner

from seggen_hf.cli import app

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_context_holds_what_packaging_reads_and_no_more():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines and all((ROOT / name).exists() for name in kept)
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    mapped = re.search(r"package_dir=\{(.*?)\}", setup, flags=re.DOTALL)[1]
    folders = {path.split("/")[0] for path in re.findall(r': "([^"]+)"', mapped)}
    read = set(re.findall(r'open\("([^"]+)"', setup)) | {"setup.py", "pyproject.toml", "constraints.txt"}
    assert folders | read <= kept and not kept & {"tests", "docs", "benchmarks", ".git"}


def test_the_image_starts_the_quickstart_on_a_python_that_the_package_takes():
    version = re.search(r"^FROM python:(\d+\.\d+)-slim$", DOCKERFILE, flags=re.MULTILINE)[1]
    target = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pyright"]["pythonVersion"]
    assert version == target
    assert json.loads(re.search(r"^ENTRYPOINT (.+)$", DOCKERFILE, flags=re.MULTILINE)[1]) == ["seggen"]
    words = json.loads(re.search(r"^CMD (.+)$", DOCKERFILE, flags=re.MULTILINE)[1])
    assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0
