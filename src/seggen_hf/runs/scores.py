"""results.json: every arm, seed, test split and metric of a run, with protocol, settings and versions beside them."""

import json
import platform
import shutil
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from PIL import Image

from seggen_hf.pipelines import ColormapCodec

from ..arms import ARMS
from ..config import SECTIONS, EvaluationConfig, Recipe
from ..config.values import list_differing
from ..data.schema import encode_image, encode_map, labels_of, read_image, read_map
from ..labels import LabelSet, differing_labels
from ..networks.modules import move
from ..pictures.segments import paint_record, paint_segments
from ..pictures.spacing import spread
from ..provenance import join_versions, library_versions, public_value
from ..segmenter.build import load_segmenter
from ..segmenter.evaluation import evaluate_segmenter
from ..segmenter.inference import predict_panoptic, predict_semantic
from ..segmenter.postprocessing import MAX_INSTANCES
from ..storage.digests import json_digest
from ..storage.files import write_json
from ..tasks import TASKS
from ..trainers.trackers import report_scores
from .folder import PREDICTIONS, SCORES, RunFolder
from .missed import tell_missed
from .results import list_seeds, list_unfinished, percent, scores_by_arm
from .stage_marker import finished_marker, mark_stage, read_marker
from .stages import Segmenter
from .verdict import write_verdict

NUM_SHOWN = 6  # records of each test split whose predictions are kept as pictures


def describe_machine() -> dict:
    """What the run's seconds depend on; nothing that names the machine or its user."""
    found = {"system": platform.system(), "processor": platform.machine(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def recipe_hash(recipe: Recipe) -> str:
    """16 hex digits of all settings that differ from their defaults: a setting that is added changes no hash."""
    sections = {"name": recipe.name} | {name: list_differing(getattr(recipe, name)) for name in SECTIONS}
    if not sections["filter"]:  # came later than the hash
        del sections["filter"]
    if not recipe.data.unlabelled:  # no base is adapted
        del sections["adapt"]
    return json_digest(sections)


def shown_indices(num_records: int) -> list[int]:
    """Up to NUM_SHOWN record indices at even spacing: pictures are not chosen by their scores."""
    return spread(num_records, NUM_SHOWN)


def keep_test_pictures(records: Dataset, folder: Path, task: str = "semantic") -> None:
    """Write image and truth of the shown test records into `folder`, with their ids.

    The truth is the segmentation map; of other tasks the segments, painted.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    rows = [records[index] for index in shown_indices(len(records))]
    codec = None if task == "semantic" else ColormapCodec(labels_of(records))
    for place, row in enumerate(rows):
        Image.fromarray(read_image(row["image"])).save(temporary / f"{place}-image.png")
        if codec is None:
            segmentation_map = encode_map(read_map(row["segmentation_map"]))["bytes"]
            (temporary / f"{place}-segmentation_map.png").write_bytes(segmentation_map)
        else:
            segments = encode_image(paint_record(row, codec, things_only=task == "instance"))["bytes"]
            (temporary / f"{place}-segments.png").write_bytes(segments)
    write_json(temporary / "records.json", [row["image_id"] for row in rows])
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def read_scores(folder: Path) -> dict:
    """`{test split: scores and what they were made of}` of the segmenter in `folder`; empty before it is scored."""
    path = Path(folder) / SCORES
    return json.loads(path.read_text()) if path.is_file() else {}


def known_scores(segmenter: Segmenter, split: str, source: dict) -> dict | None:
    """The scores of this segmenter on this split of this source, if they were made before."""
    known = read_scores(segmenter.folder).get(split)
    made_of = {"fingerprint": segmenter.fingerprint, "source": source}
    return known["scores"] if known and known["made_of"] == made_of else None


def score_segmenter(
    segmenter: Segmenter,
    split: str,
    records: Dataset,
    source: dict,
    settings: EvaluationConfig,
    command: str | None = None,
    task: str = "semantic",
) -> dict:
    """Score one segmenter on one split, and keep scores and some predictions beside its weights; the scores."""
    labels = labels_of(records)
    model, processor = open_segmenter(segmenter.folder, labels)
    scores = _score(model, processor, records, labels, settings, task)
    images = [read_image(records[index]["image"]) for index in shown_indices(len(records))]
    pictures = segmenter.folder / PREDICTIONS / split
    pictures.mkdir(parents=True, exist_ok=True)
    for place, png in enumerate(_predict_pictures(model, processor, images, labels, settings, task)):
        (pictures / f"{place}.png").write_bytes(png)
    entry = {"made_of": {"fingerprint": segmenter.fingerprint, "source": source}, "scores": scores}
    entry |= {"versions": library_versions(), "command": command}
    write_json(segmenter.folder / SCORES, read_scores(segmenter.folder) | {split: entry})
    return scores


def score_folder(folder: Path, records: Dataset, settings: EvaluationConfig, task: str = "semantic") -> dict:
    """Scores of the segmenter in `folder` on any records with its labels; nothing is written."""
    labels = labels_of(records)
    names = json.loads((folder / "config.json").read_text()).get("id2label", {})
    if differences := differing_labels(names, labels):
        raise ValueError(f"{folder} was trained with other labels than the records have, such as {differences}.")
    return _score(*open_segmenter(folder, labels), records, labels, settings, task)


def open_segmenter(folder: Path, labels: LabelSet):
    """A trained segmenter and its processor, on the GPU if there is one."""
    model, processor = load_segmenter(folder, labels)
    return move(model, "cuda" if torch.cuda.is_available() else "cpu").eval(), processor


def _predict_pictures(
    model, processor, images: list[np.ndarray], labels: LabelSet, settings: EvaluationConfig, task: str
) -> list[bytes]:
    """PNGs of the predictions on `images`: maps of label ids, which are painted where they are shown; of other tasks
    the painted segments, since nothing reads their ids again."""
    if task == "semantic":
        predictions = predict_semantic(model, processor, images, settings.eval_batch_size)
        return [encode_map(prediction, labels.num_labels)["bytes"] for prediction in predictions]
    codec, things_only = ColormapCodec(labels), task == "instance"
    thresholds = (settings.object_threshold, settings.overlap_threshold)
    predictions = predict_panoptic(model, processor, images, labels.things, settings.eval_batch_size, *thresholds)
    return [encode_image(paint_segments(*prediction, codec, things_only))["bytes"] for prediction in predictions]


def _score(model, processor, records: Dataset, labels: LabelSet, settings: EvaluationConfig, task: str) -> dict:
    thresholds = (settings.object_threshold, settings.overlap_threshold)
    scores = evaluate_segmenter(
        model,
        processor,
        records,
        task=task,
        batch_size=settings.eval_batch_size,
        thresholds=thresholds,
        max_detections=settings.max_detections,
    )
    scores["per_label"] = {labels.id2label[i]: value for i, value in scores["per_label"].items()}
    del scores["labels"]
    return scores


def list_sources(recipe: Recipe, tests: Mapping[str, Dataset], digests: Mapping[str, str]) -> dict[str, dict]:
    """`{split: what scores on it are made of}` beside the segmenter: records, and the settings that decide."""
    made_with = {}
    if recipe.data.task == "panoptic":
        made_with["thresholds"] = [recipe.evaluation.object_threshold, recipe.evaluation.overlap_threshold]
    if recipe.data.task != "semantic" and recipe.evaluation.max_detections != MAX_INSTANCES:
        made_with["max_detections"] = recipe.evaluation.max_detections
    dataset = public_value(recipe.data.dataset_name)
    return {
        split: {"dataset_name": dataset, "records": len(records), "ids": ids_digest(records), "data": digests[split]}
        | made_with
        for split, records in tests.items()
    }


def score_splits(
    segmenter: Segmenter,
    tests: Mapping[str, Dataset],
    sources: Mapping[str, dict],
    recipe: Recipe,
    command: str | None = None,
) -> None:
    """Score one segmenter on the test splits on which it was not scored before, and tell its trackers."""
    for split, records in tests.items():
        if known_scores(segmenter, split, sources[split]) is None:
            how = (sources[split], recipe.evaluation, command, recipe.data.task)
            scores = score_segmenter(segmenter, split, records, *how)
            steps = finished_marker(segmenter.folder)["facts"]["steps"]
            report_scores(recipe.segmenter.report_to, segmenter.folder, split, scores, steps)


def evaluate_arms(
    recipe: Recipe,
    run: RunFolder,
    segmenters: list[Segmenter],
    tests: Mapping[str, Dataset],
    digests: Mapping[str, str],
    command: str | None = None,
    say=lambda line: None,
    score_all: Callable[[list[Segmenter]], None] | None = None,
) -> dict:
    """Score every segmenter on every test split and write results.json; what was scored before is not scored again.

    Args:
        tests: `{split: records}`.
        digests: `{split: digest of its files}`; a split whose files have changed is scored again.
        command: what the user typed, kept with the scores that it made; the run's command is that of its trainings.
        score_all: `score_splits` of all given segmenters; here one after the other if it is absent.
    """
    dataset, sources = public_value(recipe.data.dataset_name), list_sources(recipe, tests, digests)
    pending = [s for s in segmenters if any(known_scores(s, split, sources[split]) is None for split in tests)]
    if pending or read_marker(run.predictions) is None:
        task = recipe.data.task
        with mark_stage(run.predictions, "evaluate", {}, recipe_hash(recipe), command) as facts:
            for split, records in tests.items():
                keep_test_pictures(records, run.predictions / split, task)
            if score_all is not None:
                score_all(pending)
            else:
                for segmenter in pending:
                    score_splits(segmenter, tests, sources, recipe, command)
            facts["segmenters"] = len(pending)
    headline = TASKS[recipe.data.task]
    rows, markers, entries = [], [], []
    for segmenter in segmenters:
        markers.append(read_marker(segmenter.folder))
        made = markers[-1]["facts"]
        scored = read_scores(segmenter.folder)
        entries += [scored[split] for split in tests]
        for split in tests:
            scores = known_scores(segmenter, split, sources[split])
            assert scores is not None  # all are scored by now
            score = f"{headline.metric_name} {percent(scores[headline.metric])}"
            say(f"evaluate: {segmenter.arm}, seed {segmenter.seed}, {split}: {score}")
            place = {"folder": str(segmenter.folder.relative_to(run.path)), "steps": made["steps"]}
            place["synthetic_records"] = made["synthetic_records"]
            rows.append({"arm": segmenter.arm, "seed": segmenter.seed, "split": split} | place | scores)
    results = {
        "recipe": recipe.name,
        "recipe_hash": recipe_hash(recipe),
        "command": "; ".join(dict.fromkeys(marker["command"] for marker in markers if marker["command"])) or None,
        "dataset": dataset,
        "arms": {name: ARMS[name].description for name in dict.fromkeys(segmenter.arm for segmenter in segmenters)},
        "seeds": list_seeds(rows),
        "not_trained": list_unfinished(recipe, run),
        "verdict": write_verdict(scores_by_arm(rows), headline.metric_name) + tell_missed(rows),
        "scores": rows,
        "versions": join_versions(made["versions"] for made in (*markers, *entries)),
        "machine": describe_machine(),
    }
    write_json(run.results, results)
    return results


def ids_digest(records: Dataset) -> str:
    """16 hex digits of the records' ids, in order."""
    return sha256("\n".join(map(str, records["image_id"][:])).encode()).hexdigest()[:16]
