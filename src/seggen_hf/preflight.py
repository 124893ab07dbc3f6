"""What can be known to fail is found before the first costly stage."""

import os
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from .arms import ARMS, check_arms
from .data.schema import labels_of
from .miniature import resolve_base
from .pipelines import ColormapCodec
from .recipe import Recipe
from .segmenters import MINIATURES
from .stages import load_test_records, load_train_records


def check_run(recipe: Recipe, out: str | Path) -> dict:
    """Check that every stage of `recipe` has what it needs; nothing but the output folder is made.

    Returns: counts for a line of summary: `records`, `labels` and `tests` ({split: records}).

    Raises: `ValueError`, one line: arms that the data cannot serve, a source that cannot be read, broken records,
        labels that differ between splits, colors that collide, absent models, a folder without write access.
    """
    check_arms(recipe)
    _check_writable(Path(out))
    _check_models(recipe)
    data = recipe.data
    if data.train_split in data.test_splits:
        raise ValueError(
            f"data.test_splits names {data.train_split!r}, which is trained on; scores would say nothing."
        )
    records = load_train_records(recipe)
    labels = labels_of(records)
    tests = {}
    for split in data.test_splits:
        test_records = load_test_records(recipe, split)
        theirs = labels_of(test_records)
        if theirs.id2label != labels.id2label:
            differing = sorted(set(theirs.id2label.items()) ^ set(labels.id2label.items()))[:4]
            raise ValueError(
                f"{data.dataset_name}: the labels of {data.train_split!r} and {split!r} differ, in {differing}. Give "
                "both splits the same labels with data.labels."
            )
        tests[split] = len(test_records)
    ColormapCodec(labels)  # refuses two labels of one color, with their names
    return {"records": len(records), "labels": labels.num_labels, "tests": tests}


def _check_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"The output folder {out} cannot be made: {error.strerror}. Name another with --out."
        ) from error
    if not os.access(out, os.W_OK):
        raise ValueError(f"The output folder {out} cannot be written to. Name another with --out.")


def _check_models(recipe: Recipe) -> None:
    """The models that will be loaded: a folder with the right file, or a Hub id that has it."""
    synthesis, needs_synthesis = recipe.synthesis, any(ARMS[a].reads == "synthesize" for a in recipe.evaluation.arms)
    if needs_synthesis:
        for name in ("text2mask", "mask2img"):
            if name == "text2mask" and synthesis.masksyn_variants == 0:
                continue
            if given := getattr(synthesis, f"{name}_model"):
                _check_file(f"synthesis.{name}_model", given, "model_index.json", None)
                continue
            section = getattr(recipe, name)
            try:
                base = resolve_base(section.base_model)
            except FileNotFoundError as error:
                raise ValueError(str(error)) from error
            _check_file(f"{name}.base_model", base, "model_index.json", section.revision)
    model = recipe.segmenter.model
    if model not in MINIATURES and not model.endswith(".json"):
        _check_file("segmenter.model", model, "config.json", recipe.segmenter.model_revision)
    if recipe.caption.captioner != "template":
        _check_file("caption.captioner", recipe.caption.captioner, "config.json", None)


def _check_file(setting: str, name_or_path: str, file: str, revision: str | None) -> None:
    folder = Path(name_or_path)
    if folder.is_dir():
        if not (folder / file).is_file():
            raise ValueError(f"{setting} is {name_or_path}, a folder without {file}; it is no model of that kind.")
        return
    try:
        hf_hub_download(name_or_path, file, revision=revision)
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{setting} is {name_or_path!r}, which is neither a folder nor a Hub id that can be read now: {reason}"
        ) from error
