"""`seggen push` against a server that speaks the Hub's protocol, with the real clients, each in its own process."""

import json
import random
import re
import shutil
import threading

import numpy as np
import pytest
from datasets import load_from_disk
from hub_faults import Faults
from hub_server import OTHER, READER, WRITER
from PIL import Image

from seggen_hf.config import load_recipe
from seggen_hf.hub.client import Artifact
from seggen_hf.hub.publish import Staged, stage
from seggen_hf.hub.push_plan import plan_push
from seggen_hf.labels import LabelSet
from seggen_hf.pictures.cards import NUM_SAMPLES, draw_samples
from seggen_hf.pictures.spacing import spread
from seggen_hf.pipelines import ColormapCodec
from seggen_hf.runs.privacy import why_private
from seggen_hf.synthesis import load_synthetic

SEGGEN = ["-m", "seggen_hf.cli"]
PUSH = """
    import json, sys
    from pathlib import Path
    from seggen_hf.hub import Artifact, connect, push
    api = connect("seggen", first_wait=0.01)
    result = push(api, Artifact("seggen/toy", sys.argv[2], Path(sys.argv[1]), owned=("*.bin",)), wait=0.01)
    print(json.dumps(vars(result)))
"""


def stored(hub, kind, repo_id, revision="main"):
    """{path: content} of a repository, without what the Hub itself puts there."""
    repo = hub.store.repo(kind, repo_id)
    return {p: repo.read(p, revision) for p in repo.files(revision) if p != ".gitattributes"}


def contents(folder):
    """{path: content} of what of a staged folder is pushed: all but the sign that it was staged."""
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    files.pop(".seggen.json", None)
    return files


def make_folder(folder, files=6, size=40_000):
    (folder / "nested").mkdir(parents=True)
    (folder / "README.md").write_text("---\ntags: [toy]\n---\n# Toy\n")
    for i in range(files):
        (folder / "nested" / f"shard-{i}.parquet").write_bytes(random.Random(i).randbytes(size))
    return folder


@pytest.fixture
def run_copy(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "run")


def test_a_run_is_pushed_whole_and_a_second_push_sends_nothing(hub, run_client, run_copy):
    command = [*SEGGEN, "push", str(run_copy), "--namespace", "seggen", "--json"]
    first = run_client(command)
    pushed = {p["repo_id"]: p for p in json.loads(first.stdout)}
    assert {name: p["repo_type"] for name, p in pushed.items()} == {
        "seggen/tiny-text2mask": "model",
        "seggen/tiny-mask2img": "model",
        "seggen/tiny-segmenter": "model",
        "seggen/tiny-synthetic": "dataset",
    }
    commits = {}
    for repo_id, result in pushed.items():
        there = stored(hub, result["repo_type"] + "s", repo_id)
        folder = run_copy / "hub" / repo_id.split("/")[1]
        assert there == contents(folder) and len(there) == result["sent"] > 5
        assert (folder / ".seggen.json").is_file() and ".seggen.json" not in there
        assert result["url"] in first.stderr and not result["private"]
        commits[repo_id] = result["commit"]
        for path, content in there.items():
            for private in (str(run_copy), str(run_copy.parents[1]), WRITER, "/work/", "/root/"):
                assert private.encode() not in content, (repo_id, path, private)
    again = {p["repo_id"]: p for p in json.loads(run_client(command).stdout)}
    assert {name: p["commit"] for name, p in again.items()} == commits
    assert all(p["sent"] == 0 for p in again.values())


def test_what_would_be_pushed_can_be_looked_at(hub, run_client, run_copy):
    result = run_client(
        [*SEGGEN, "push", str(run_copy), "--namespace", "seggen", "--dry-run", "--only", "mask2img,dataset"],
        token=None,
    )
    assert not hub.requests and result.stderr.count("==") == 2
    assert sorted(p.name for p in (run_copy / "hub").iterdir()) == ["tiny-mask2img", "tiny-synthetic"]
    assert (run_copy / "hub" / "tiny-mask2img" / "unet" / "diffusion_pytorch_model.safetensors").stat().st_nlink > 1


@pytest.mark.parametrize(
    ("token", "told"),
    [
        (None, "There is no token for the Hub. Log in with `hf auth login`"),
        (READER, "The token may read only"),
        (OTHER, "The token belongs to eve, who may write under eve alone"),
    ],
)
def test_who_may_not_push_is_told(hub, run_client, token, told):
    connect = "from seggen_hf.hub import connect; connect('seggen')"
    result = run_client(connect, token=token, check=False)
    assert result.returncode == 1 and told in result.stderr.splitlines()[-1]


def test_a_wrong_token_is_told_in_one_line_before_anything_is_staged(hub, run_client, run_copy):
    result = run_client([*SEGGEN, "push", str(run_copy), "--namespace", "seggen"], token="hf_wrong", check=False)
    (line,) = result.stderr.splitlines()
    assert result.returncode == 1 and line.startswith("error: The Hub refuses the token as invalid")
    assert "hf_wrong" not in line and not (run_copy / "hub").exists()


def test_killed_at_ten_moments_and_run_again_the_content_is_the_same(hub, start_client, run_client, tmp_path):
    folder = make_folder(tmp_path / "artifact")
    (folder / "weights.bin").write_bytes(b"new" * 9)
    killed = 0
    for moment in range(3, 13):
        if repo := hub.store.repo("datasets", "seggen/toy"):
            hub.store.delete(repo)
        count, process, lock = 0, [], threading.Lock()

        def kill(method, path, number, moment=moment, process=process, lock=lock):
            nonlocal count
            with lock:
                count += 1
                if count == moment:
                    process[0].kill()
                    return "cut"

        hub.on_request = kill
        process.append(start_client(PUSH, folder, "dataset"))
        process[0].wait(60)
        killed += process[0].returncode == -9
        hub.on_request = None
        if hub.store.repo("datasets", "seggen/toy"):
            half = stored(hub, "datasets", "seggen/toy")
            assert half in ({}, contents(folder))  # never a part of it
        run_client(PUSH, folder, "dataset")
        assert stored(hub, "datasets", "seggen/toy") == contents(folder)
    assert killed == 10


@pytest.mark.parametrize("seed", [0, 1])
def test_a_push_completes_where_every_fifth_request_fails(hub, run_client, tmp_path, seed):
    folder = make_folder(tmp_path / "artifact")
    hub.faults = Faults(0.2, seed=seed)
    result = json.loads(run_client(PUSH, folder, "model").stdout.splitlines()[-1])
    assert hub.faults.count > 3
    hub.faults = None
    assert stored(hub, "models", "seggen/toy") == contents(folder) and result["files"] == 7


def test_files_that_are_gone_here_go_there_if_they_are_ours(hub, run_client, tmp_path):
    folder = make_folder(tmp_path / "artifact", files=2)
    (folder / "old.bin").write_bytes(b"old")
    (folder / "note.txt").write_text("kept")
    run_client(PUSH, folder, "model")
    (folder / "old.bin").unlink()
    (folder / "note.txt").unlink()
    (folder / "new.bin").write_bytes(b"new")
    result = json.loads(run_client(PUSH, folder, "model").stdout.splitlines()[-1])
    assert result["sent"] == 1
    assert stored(hub, "models", "seggen/toy") == contents(folder) | {"note.txt": b"kept"}


def read_from(run, name, source):
    """Let `run` be one of the data set `name`, which was a `folder` or on the `Hub` when it was read."""
    recipe, marker = run / "recipe.yaml", run / "captions" / "stage.json"
    recipe.write_text(re.sub(r"dataset_name: .*", f"dataset_name: {name}", recipe.read_text()))
    content = json.loads(marker.read_text())
    content["facts"]["source"] = source
    marker.write_text(json.dumps(content))


EVERYTHING = "text2mask,mask2img,segmenter,dataset,adapters,space"
MADE = {
    "models": ["text2mask", "mask2img", "segmenter", "controlnet"],
    "datasets": ["synthetic"],
    "spaces": ["demo"],
}  # fmt: skip


def test_what_is_made_of_the_users_own_data_is_private_and_stays_so(hub, run_client, run_copy, tmp_path):
    read_from(run_copy, tmp_path / "secret" / "street", "folder")
    command = [*SEGGEN, "push", str(run_copy), "--namespace", "seggen", "--only"]
    told = run_client([*command, f"{EVERYTHING},metrics"]).stderr
    for kind, names in MADE.items():
        for name in names:
            assert hub.store.repo(kind, f"seggen/tiny-{name}").meta["private"], name
            for path, content in stored(hub, kind, f"seggen/tiny-{name}").items():
                assert str(tmp_path).encode() not in content, (name, path)
    assert not hub.store.repo("spaces", "seggen/mean_iou").meta["private"]  # of no run
    (line,) = [line for line in told.splitlines() if line.startswith("== Private: ")]
    assert "seggen/tiny-segmenter" in line and "seggen/mean_iou" not in line
    assert line.endswith("since data.dataset_name is a folder, street; --public makes them public")
    load = """
        from datasets import load_dataset
        print(len(load_dataset("seggen/tiny-synthetic", split="train")))
    """
    assert int(run_client(load).stdout) == 16
    refused = run_client(load, token=None, check=False)
    assert refused.returncode and "DatasetNotFoundError" in refused.stderr
    hub.store.repo("models", "seggen/tiny-segmenter").change(private=False)
    result = run_client([*command, "segmenter"], check=False)
    assert result.returncode == 1
    assert "is public, and this push is private (data.dataset_name is a folder, street)" in result.stderr
    told = run_client([*command, "segmenter", "--public"]).stderr
    assert "Private:" not in told and "hashes equal, public" in told


ASK = """
    import sys
    from seggen_hf.runs.privacy import why_private
    from seggen_hf.config import load_recipe
    for name in sys.argv[1:]:
        print(why_private(load_recipe("quickstart", [f"data.dataset_name={name}"]), "Hub"))
"""


def test_what_is_made_of_a_data_set_of_the_hub_is_as_public_as_that(hub, run_client):
    for name, meta in {"open": {}, "closed": {"private": True}, "gated": {"gated": "auto"}}.items():
        hub.store.create("datasets", f"seggen/{name}", False, "seggen", b"").change(**meta)
    names = ["seggen/open", "seggen/closed", "seggen/gated", "seggen/absent", "quickstart", "../x"]
    assert run_client(ASK, *names).stdout.splitlines() == [
        "None",
        "data.dataset_name, seggen/closed, is not public on the Hub",
        "data.dataset_name, seggen/gated, is gated on the Hub",
        "data.dataset_name, seggen/absent, is not public on the Hub",
        "data.dataset_name is a folder, quickstart",
        "data.dataset_name is a folder, x",
    ]
    assert len(hub.requests) == 4  # asked once each, without the token that may see more


@pytest.mark.parametrize("env", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_without_an_answer_of_the_hub_nothing_is_public_and_nobody_waits(run_client, env):
    told = run_client(ASK, "seggen/open", env=env, timeout=60).stdout
    assert told.startswith("data.dataset_name, seggen/open, is not known to be public, since the Hub gave no answer")


def test_a_folder_stays_one_where_it_is_not(hub, run_client, run_copy):
    hub.store.create("datasets", "ada/street", False, "ada", b"")  # somebody else's, of the same name
    read_from(run_copy, "ada/street", "folder")
    command = [*SEGGEN, "push", str(run_copy), "--namespace", "seggen", "--only", "segmenter", "--dry-run"]
    assert "is a folder, ada/street" in run_client(command, token=None).stderr and not hub.requests
    card = (run_copy / "hub" / "tiny-segmenter" / "README.md").read_text()
    assert "huggingface.co/datasets/ada/street" not in card and "pushed as private" in card


def test_a_generator_that_was_trained_elsewhere_keeps_its_samples_private(run_copy):
    recipe = load_recipe(run_copy / "recipe.yaml", [f"synthesis.mask2img_model={run_copy / 'mask2img'}"])
    assert why_private(recipe, "scenes") == "synthesis.mask2img_model is a folder, mask2img"
    assert why_private(load_recipe(run_copy / "recipe.yaml"), "scenes") is None


@pytest.mark.parametrize("kinds", [("imgsyn", "masksyn"), ("imgsyn",)])
@pytest.mark.parametrize("public", [False, True])
def test_cards_of_private_data_show_nothing_of_it(run_copy, tmp_path, monkeypatch, kinds, public):
    """No image, map or caption of a real record: they stand in the synthetic data alone."""
    read_from(run_copy, tmp_path / "street", "folder")
    made = load_synthetic(run_copy / "synthetic", kinds=kinds)
    monkeypatch.setattr(Staged, "synthetic", made)
    wanted = ["text2mask", "mask2img", "segmenter", "dataset", "adapters"]
    plan = plan_push(run_copy, "seggen", wanted)
    stage(plan, public=True)  # what an earlier push showed goes
    artifacts = stage(plan, public=public)
    assert {artifact.private for artifact in artifacts} == {not public}
    folders = {artifact.repo_id.removeprefix("seggen/tiny-"): artifact.folder for artifact in artifacts}

    codec = ColormapCodec(LabelSet.from_records(made))
    seen = [row for row in made if public or row["kind"] == "masksyn"]
    rows = [seen[i] for i in spread(len(seen), NUM_SAMPLES)] if seen else []
    for name in ("mask2img", "synthetic"):
        assert (folders[name] / "samples.png").is_file() == bool(rows)
        if rows:
            expected = draw_samples(rows, codec, tmp_path / "expected.png").read_bytes()
            assert (folders[name] / "samples.png").read_bytes() == expected
    assert (folders["text2mask"] / "samples.png").is_file() == ("masksyn" in kinds)
    assert (folders["segmenter"] / "example.png").is_file() == bool(rows)
    real = load_from_disk(run_copy / "captions")
    color_map = np.array(Image.open(folders["controlnet"] / "color_map.png").convert("RGB"))
    decoded = codec.decode(color_map)
    assert decoded.distance.max() == 0 and color_map.shape == (64, 64, 3)
    maps = [np.array(row["segmentation_map"]) for row in real]
    assert public or not any(np.array_equal(decoded.segmentation_map, known) for known in maps)

    for name, folder in folders.items():
        card = (folder / "README.md").read_text()
        assert "is pushed as private" in card
        assert all((folder / picture).is_file() for picture in re.findall(r"!\[.*?\]\((.*?)\)", card)), name
        if name in ("text2mask", "mask2img", "controlnet"):
            assert any(caption in card for caption in real["caption"]) == public, name


def test_a_later_round_leaves_the_earlier_one(hub, run_client, run_copy):
    command = [*SEGGEN, "push", str(run_copy), "--namespace", "seggen", "--only", "dataset"]
    run_client(command)
    (first,) = (p.name for p in (run_copy / "hub" / "tiny-synthetic").glob("round-*"))
    before = stored(hub, "datasets", "seggen/tiny-synthetic")
    marker = run_copy / "synthetic" / "stage.json"  # a synthesis with other settings
    marker.write_text(marker.read_text().replace(first.removeprefix("round-"), "0123abcd"))
    run_client(command)
    after = stored(hub, "datasets", "seggen/tiny-synthetic")
    assert {p for p in after if p.startswith("round-")} == {p for p in before if p.startswith("round-")} | {
        p.replace(first, "round-0123abcd") for p in before if p.startswith("round-")
    }
    assert all(after[p] == before[p] for p in before if p.startswith("round-"))
    card = after["README.md"].decode()
    assert card.count("<!-- round ") == card.count("<!-- end of round ") == 2 and card.count("default: true") == 1
    printed = run_client("""
        import json
        from datasets import get_dataset_config_names, load_dataset
        names = get_dataset_config_names("seggen/tiny-synthetic")
        rows = [load_dataset("seggen/tiny-synthetic", name, split="train") for name in names]
        newest = load_dataset("seggen/tiny-synthetic", split="train", streaming=True)
        print(json.dumps([names, [len(r) for r in rows], [next(iter(newest))["image_id"], rows[0][0]["image_id"]]]))
    """)
    names, lengths, (streamed, loaded) = json.loads(printed.stdout.splitlines()[-1])
    assert names[0] == "round-0123abcd" and first in names and len(names) == 6
    assert lengths == [16, 8, 8] * 2 and streamed == loaded


def test_other_labels_under_the_same_name_are_refused(hub, run_client, run_copy):
    command = [*SEGGEN, "push", str(run_copy), "--namespace", "seggen", "--only", "dataset"]
    run_client(command)
    labels = run_copy / "synthetic" / "labels.json"
    labels.write_text(labels.read_text().replace('"sky"', '"heaven"'))
    result = run_client(command, check=False)
    assert result.returncode == 1 and "another labels.json" in result.stderr


def test_a_branch_is_made_for_a_revision(hub, run_client, run_copy):
    command = [*SEGGEN, "push", str(run_copy), "--namespace", "seggen", "--only", "segmenter", "--revision", "try"]
    run_client(command)
    assert "config.json" in stored(hub, "models", "seggen/tiny-segmenter", "try")
    assert stored(hub, "models", "seggen/tiny-segmenter") == {}


def test_what_cannot_be_pushed_is_refused_here(run_copy, tmp_path):
    with pytest.raises(ValueError, match="no artefact 'masks'"):
        plan_push(run_copy, "seggen", ["masks"])
    with pytest.raises(ValueError, match="no run folder"):
        plan_push(tmp_path, "seggen")
    (run_copy / "mask2img" / "stage.json").unlink()
    with pytest.raises(ValueError, match="mask2img is not finished"):
        plan_push(run_copy, "seggen", ["mask2img"])
    assert plan_push(run_copy, "seggen").kinds == ("text2mask", "segmenter", "dataset")
    artifacts = stage(plan_push(run_copy, "seggen", ["segmenter"], name=""), private=True)
    assert [(a.repo_id, a.private) for a in artifacts] == [("seggen/segmenter", True)]
    assert all(isinstance(a, Artifact) for a in artifacts)


def test_one_artefact_is_pushed_by_its_folder(tiny_run, tmp_path):
    for folder, kinds, of in (
        ("text2mask", ("text2mask",), None),
        ("synthetic", ("dataset",), None),
        ("segmenter-real/seed-0", ("segmenter",), ("real", 0)),
    ):
        plan = plan_push(tiny_run / folder, "seggen")
        assert plan.run.path == tiny_run and plan.kinds == kinds
        assert of is None or (plan.arm, plan.seed) == of
    assert plan_push(tiny_run, "seggen", ["dataset", "dataset"]).kinds == ("dataset",)
    with pytest.raises(ValueError, match="one artefact of a run"):
        plan_push(tiny_run / "text2mask", "seggen", ["dataset"])
    with pytest.raises(ValueError, match="is no run folder"):
        plan_push(tiny_run / "captions", "seggen")
