"""Training on data sets of the Hub by their ids: downloaded, and streamed by row groups."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from datasets import load_from_disk
from hub_clients import Clients
from hub_faults import Faults
from huggingface_hub import ModelCard, parse_eval_result_entries

from seggen_hf import load_synthetic

TRAINING = Path(__file__).parents[2] / "training"
TRAIN = TRAINING / "train_seg.py"
SEGMENTER = ["--model", "unit", "--train_batch_size", "2", "--crop_height", "64", "--crop_width", "64"]
REAL = """
    import sys
    import pyarrow.parquet as pq
    from huggingface_hub import HfApi
    from seggen_hf.data.schema import labels_of
    from seggen_hf.data.scenes import scene_records
    for split, number in (("train", 8), ("test", 4)):
        records = scene_records(split, num_records=number)
        table = records.with_format("arrow")[:]
        table = table.replace_schema_metadata(records.features.arrow_schema.metadata)
        pq.write_table(table, f"{split}.parquet", row_group_size=2)
    labels_of(records).save(".")
    api = HfApi()
    api.create_repo("seggen/real", repo_type="dataset", private=True)
    api.upload_folder(folder_path=".", repo_id="seggen/real", repo_type="dataset")
"""


@pytest.fixture(scope="module")
def hub(module_hub):
    return module_hub


@pytest.fixture(scope="module")
def run_client(hub, tmp_path_factory, tiny_run):
    """Clients of a Hub that has `seggen/real`, which is private, and `seggen/tiny-synthetic`."""
    clients = Clients(hub, tmp_path_factory.mktemp("clients"))
    clients.run(REAL)
    run = shutil.copytree(tiny_run, tmp_path_factory.mktemp("pushed") / "run")
    push = ["-m", "seggen_hf.cli", "push", str(run), "--namespace", "seggen", "--only", "dataset"]
    clients.run(push)
    yield clients.run
    clients.stop()


def train_command(out, *more, steps=4):
    data = ["--dataset_name", "seggen/real", "--synthetic_dataset", "seggen/tiny-synthetic", "--p_aug", "0.5"]
    settings = ["--max_train_steps", str(steps), "--logging_steps", "1", "--checkpointing_steps", "2"]
    return [str(TRAIN), *data, *SEGMENTER, *settings, "--output_dir", str(out), *more]


def losses(folder):
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_a_segmenter_trains_by_hub_ids_alone(run_client, tmp_path):
    run_client(train_command(tmp_path / "out", steps=2))
    assert len(losses(tmp_path / "out")) == 2
    assert 0 <= json.loads((tmp_path / "out" / "results.json").read_text())["test"]["mIoU"] <= 1


def test_images_without_their_masks_are_read_from_the_hub(run_client):
    """The split `train` of another data set, or any split of the data set itself."""
    done = run_client("""
        from seggen_hf.config import DataConfig
        from seggen_hf.data.sources.unlabelled import load_unlabelled
        for names in (("scenes", "seggen/real"), ("seggen/real", "test")):
            records = load_unlabelled(DataConfig(dataset_name=names[0], unlabelled=names[1], max_unlabelled=6))
            print(len(records), records.column_names, records[0]["image"].size, records["caption"][0])
    """)
    first, second = done.stdout.strip().splitlines()
    assert first.startswith("6 ['image', 'caption', 'image_id'] (64, 64) a ")
    assert second.startswith("4 ['image', 'caption', 'image_id'] (64, 64) a ")


def test_a_streamed_training_downloads_no_shard_and_survives_faults(hub, run_client, tmp_path):
    start, home = len(hub.requests), tmp_path / "home"
    run_client(train_command(tmp_path / "whole", "--streaming", "true"), home=home)
    asked = [r for r in hub.requests[start:] if r.path.endswith(".parquet") and r.method == "GET"]
    whole = [r for r in asked if "range" not in r.headers]
    assert asked and not whole, whole
    assert not list(home.rglob("*.parquet"))

    hub.faults = Faults(0.3, kinds=("500", "503", "cut", "cut_body"), only=lambda method, path: ".parquet" in path)
    try:
        run_client(train_command(tmp_path / "faulty", "--streaming", "true"))
        assert hub.faults.count > 0
    finally:
        hub.faults = None
    assert losses(tmp_path / "faulty") == losses(tmp_path / "whole")


def test_a_streamed_training_resumes_where_it_was(run_client, tmp_path):
    run_client(train_command(tmp_path / "whole", "--streaming", "true"))
    command = train_command(tmp_path / "parts", "--streaming", "true")
    stop = """
        import sys, runpy
        from seggen_hf.trainers.checkpoint_writer import CheckpointWriter
        begin = CheckpointWriter.begin
        def save_and_die(self, *args):
            begin(self, *args)
            self.wait()
            import os
            os._exit(9)
        CheckpointWriter.begin = save_and_die
        sys.argv = sys.argv[1:]
        runpy.run_path(sys.argv[0], run_name="__main__")
    """
    assert run_client(stop, *command, check=False).returncode == 9
    run_client(command)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


@pytest.mark.parametrize("name", ["text2mask", "mask2img"])
def test_a_generator_trains_from_a_stream_as_from_a_copy(hub, run_client, miniature_dir, tmp_path, name):
    settings = ["--base_model", str(miniature_dir), "--max_train_steps", "2", "--train_batch_size", "2"]
    settings += ["--num_validation_images", "1", "--validation_inference_steps", "1", "--logging_steps", "1"]
    command = [str(TRAINING / f"train_{name}.py"), "--dataset_name", "seggen/real", *settings, "--output_dir"]
    run_client([*command, str(tmp_path / "copy")])
    start, home = len(hub.requests), tmp_path / "home"
    run_client([*command, str(tmp_path / "stream"), "--streaming", "true"], home=home)
    asked = [r for r in hub.requests[start:] if r.path.endswith(".parquet") and r.method == "GET"]
    assert asked and all("range" in r.headers for r in asked) and not list(home.rglob("*.parquet"))
    assert len(losses(tmp_path / "copy")) == 2 and losses(tmp_path / "stream") == losses(tmp_path / "copy")
    if name == "mask2img":  # without a cache each step fetches what it needs
        run_client([*command, str(tmp_path / "direct"), "--streaming", "true", "--no_cache_latents"])
        assert len(losses(tmp_path / "direct")) == 2


def test_several_data_sets_are_streamed_as_one(run_client, tmp_path):
    twice = "seggen/tiny-synthetic, seggen/tiny-synthetic"
    only = ["--synthetic_dataset", twice, "--synthetic_mode", "only", "--streaming", "true"]
    run_client(train_command(tmp_path / "out", *only, steps=2))
    assert len(losses(tmp_path / "out")) == 2


def test_a_private_stream_needs_its_token(run_client, tmp_path):
    result = run_client(train_command(tmp_path / "out", "--streaming", "true"), token=None, check=False)
    assert result.returncode == 1 and "error: seggen/real is no folder here" in result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "out").exists()


def test_a_run_on_a_data_set_of_the_hub_publishes_its_scores_in_both_forms(hub, run_client, tiny_recipe, tmp_path):
    run = tmp_path / "run"
    changes = ["name=onhub", "data.dataset_name=seggen/real", "data.test_splits=[test]", "evaluation.arms=[real]"]
    settings = [word for change in changes for word in ("--set", change)]
    run_client(["-m", "seggen_hf.cli", "run", str(tiny_recipe), "--out", str(run), *settings])
    run_client(["-m", "seggen_hf.cli", "push", str(run), "--namespace", "seggen", "--only", "segmenter"])
    score = json.loads((run / "results.json").read_text())["scores"][0]["mIoU"]
    repo = hub.store.repo("models", "seggen/onhub-segmenter")
    (entry,) = parse_eval_result_entries(yaml.safe_load(repo.read(".eval_results/mean_iou.yaml")))
    assert (entry.dataset_id, entry.value) == ("seggen/real", round(score, 4))
    assert entry.task_id == "test-mean_iou" and "real arm, seed 0" in entry.notes
    (result,) = ModelCard(repo.read("README.md").decode()).data.eval_results
    assert (result.dataset_type, result.dataset_split) == ("seggen/real", "test")
    assert (result.metric_type, result.metric_value) == ("mean_iou", round(score, 4))


def test_every_command_that_reads_data_takes_an_id(run_client, tiny_run, tmp_path):
    seggen = ["-m", "seggen_hf.cli"]
    found = run_client([*seggen, "doctor", "seggen/real", "--split", "train", "--json"])
    assert json.loads(found.stdout)["problems"] == []
    run_client([*seggen, "caption", "seggen/real", str(tmp_path / "captions"), "--recaption"])
    assert all(load_from_disk(tmp_path / "captions")["caption"])
    models = ["--mask2img", str(tiny_run / "mask2img"), "--set", "mask2img_steps=1"]
    run_client([*seggen, "synthesize", "seggen/real", str(tmp_path / "synthetic"), *models])
    assert len(load_synthetic(tmp_path / "synthetic")) == 8
    segmenter = tiny_run / "segmenter-real" / "seed-0"
    scored = run_client([*seggen, "evaluate", str(segmenter), "seggen/real", "--split", "test", "--json"])
    (row,) = json.loads(scored.stdout)
    assert row["num_images"] == 4 and 0 <= row["mIoU"] <= 1
