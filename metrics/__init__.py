"""Modules for `evaluate.load`, one folder each, as they lie on the Hub: thin wrappers over `seggen_hf.metrics`."""

from pathlib import Path


def names() -> list[str]:
    """Names of the modules."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/*.py") if path.stem == path.parent.name)


def folder(name: str) -> Path:
    """The folder of a module, which `evaluate.load` takes. Raises: `ValueError` if there is none of that name."""
    if name not in names():
        raise ValueError(f"There is no metric module {name!r}; there are {', '.join(names())}.")
    return Path(__file__).parent / name
