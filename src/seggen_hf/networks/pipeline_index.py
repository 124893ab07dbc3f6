"""What a diffusers pipeline says of itself, before any weights are read."""

import json
from pathlib import Path

from huggingface_hub import hf_hub_download


def read_index(name_or_path: str, revision: str | None = None) -> dict:
    """The model_index.json of a pipeline in a folder, on the Hub or in its cache.

    Raises: `OSError`, in one line, if there is none that can be read.
    """
    folder = Path(name_or_path)
    name = "model_index.json"
    try:
        path = folder / name if folder.is_dir() else Path(hf_hub_download(name_or_path, name, revision=revision))
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OSError(f"it has no {name} that can be read: {reason}") from error
