"""Editable, wheel and sdist installs import from another folder and find what ships with the package."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGING_FILES = "setup.py pyproject.toml MANIFEST.in README.md LICENSE CITATION.cff Makefile constraints.txt".split()
PACKAGE_FOLDERS = {
    "seggen_hf": "src/seggen_hf",
    "seggen_hf.model_cards": "model_cards",
    "seggen_hf.recipes": "training/recipes",
}
CHECK = """
import importlib.metadata, importlib.util, pathlib, sys
from importlib.resources import files
import seggen_hf, seggen_hf.config, seggen_hf.data, seggen_hf.labels, seggen_hf.model_cards, seggen_hf.recipes
home = pathlib.Path(sys.argv[1])
assert home in pathlib.Path(seggen_hf.__file__).parents, seggen_hf.__file__
for name in ("pipelines.seggen_colormap", "pipelines.pipeline_text2mask", "trainers.loop", "synthesis", "cli"):
    spec = importlib.util.find_spec("seggen_hf." + name)
    assert spec and home in pathlib.Path(spec.origin).parents, (name, spec)
for package, name in (line.split(" ", 1) for line in sys.stdin.read().splitlines()):
    assert files(package).joinpath(name).is_file(), (package, name)
import seggen_hf.metric_modules
assert seggen_hf.metric_modules.names() == ["boundary_iou", "mean_iou", "panoptic_quality"]
assert seggen_hf.LabelSet.builtin("coco").num_labels == 133
distribution = importlib.metadata.distribution("seggen_hf")
assert seggen_hf.__version__ == distribution.version
assert "seggen_hf.cli:main" in [point.value for point in distribution.entry_points]
"""


def run(*command, **kwargs):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, **kwargs)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def copy_source(folder: Path) -> Path:
    """A copy of what packaging reads, so that builds leave nothing in the working tree."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.tmp")
    for name in ("src", "metrics", "pipelines", "model_cards", "training", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in PACKAGING_FILES:
        shutil.copy(ROOT / name, folder / name)
    return folder


def data_files(source: Path) -> list[str]:
    """`package relative/path` of every file that must ship beside the code."""
    return [
        f"{package} {file.relative_to(source / folder).as_posix()}"
        for package, folder in PACKAGE_FOLDERS.items()
        for file in sorted((source / folder).rglob("*"))
        if file.is_file() and file.suffix not in (".py", ".pyc") and ".egg-info" not in str(file)
    ]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return copy_source(tmp_path_factory.mktemp("install") / "source")


@pytest.fixture(scope="module")
def archives(source, tmp_path_factory) -> dict[str, Path]:
    """The sdist, and the wheel that is made from it."""
    folder = tmp_path_factory.mktemp("archives")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source)
    return {kind: next(folder.glob(f"*{kind}")) for kind in (".tar.gz", ".whl")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["editable", ".whl", ".tar.gz"])
def test_an_install_finds_all_its_parts_from_another_folder(kind, source, tmp_path, request):
    # A new environment that sees this one's packages, but none of its .pth files and so not its install of seggen_hf.
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = tmp_path / "venv" / "lib" / version / "site-packages"
    (packages / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n")

    if kind == "editable":
        home = source
        what = ["-e", source]
    else:
        home = packages
        what = [request.getfixturevalue("archives")[kind]]
    options = "--quiet --no-deps --no-index --no-build-isolation --ignore-installed".split()
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, *what)

    lines = data_files(source)
    assert len(lines) > 5
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    (tmp_path / "elsewhere").mkdir()
    run(python, "-c", CHECK, home, input="\n".join(lines), cwd=tmp_path / "elsewhere", env=environment)
    assert (tmp_path / "venv" / "bin" / "seggen").is_file()
