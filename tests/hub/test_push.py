"""`seggen push` against a server that speaks the Hub's protocol, with the real clients, each in its own process."""

import json
import random
import re
import shutil
import threading

import pytest
from hub_faults import Faults
from hub_server import OTHER, READER, WRITER

from seggen_hf.hub import Artifact
from seggen_hf.publish import plan_push, stage

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
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


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
        assert there == contents(run_copy / "hub" / repo_id.split("/")[1]) and len(there) == result["sent"] > 5
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


def test_data_of_the_users_own_is_private_and_stays_so(hub, run_client, run_copy, camvid_dir):
    recipe = run_copy / "recipe.yaml"
    recipe.write_text(re.sub(r"dataset_name: scenes", f"dataset_name: {camvid_dir}", recipe.read_text()))
    command = [*SEGGEN, "push", str(run_copy), "--namespace", "seggen", "--only", "dataset"]
    run_client(command)
    assert hub.store.repo("datasets", "seggen/tiny-synthetic").meta["private"]
    assert str(camvid_dir).encode() not in stored(hub, "datasets", "seggen/tiny-synthetic")["README.md"]
    load = """
        from datasets import load_dataset
        print(len(load_dataset("seggen/tiny-synthetic", split="train")))
    """
    assert int(run_client(load).stdout) == 16
    refused = run_client(load, token=None, check=False)
    assert refused.returncode and "DatasetNotFoundError" in refused.stderr
    hub.store.repo("datasets", "seggen/tiny-synthetic").change(private=False)
    result = run_client(command, check=False)
    assert result.returncode == 1 and "is public, and this push is private" in result.stderr
    run_client([*command, "--public"])


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
        assert plan.run == tiny_run and plan.kinds == kinds
        assert of is None or (plan.arm, plan.seed) == of
    assert plan_push(tiny_run, "seggen", ["dataset", "dataset"]).kinds == ("dataset",)
    with pytest.raises(ValueError, match="one artefact of a run"):
        plan_push(tiny_run / "text2mask", "seggen", ["dataset"])
    with pytest.raises(ValueError, match="is no run folder"):
        plan_push(tiny_run / "captions", "seggen")
