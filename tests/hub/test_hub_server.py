"""The stand-in for the Hub, seen by the real clients: what they send it keeps.

What this checks is that tests of pushing and loading rest on a server that behaves; none of our own code is here.
"""

import random

from hub_files import make_folder, printed, stored
from hub_server import OTHER, READER

BIG = 25 << 20


API_CODE = """
    import hashlib, json, sys
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path
    from huggingface_hub import (
        CommitOperationAdd, CommitOperationDelete, HfApi, HfFileSystem, ModelCard, hf_hub_download, snapshot_download
    )
    from huggingface_hub.errors import (
        EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
    )

    def raises(kind, call, status=None):
        try:
            call()
        except kind as error:
            assert status is None or error.response.status_code == status, error
            return str(error)
        raise AssertionError(f"no {kind.__name__}")

    folder, big = Path(sys.argv[1]), Path(sys.argv[2])
    api, repo = HfApi(), "seggen/toy"
    me = api.whoami()
    assert me["name"] == "ada" and me["orgs"][0]["name"] == "seggen" and me["auth"]["accessToken"]["role"] == "write"

    # Repositories
    url = api.create_repo(repo, private=True)
    assert (url.repo_id, url.repo_type) == (repo, "model")
    assert api.create_repo(repo, private=True, exist_ok=True) == url
    raises(HfHubHTTPError, lambda: api.create_repo(repo), 409)
    raises(HfHubHTTPError, lambda: api.create_repo("eve/toy"), 403)
    assert api.repo_exists(repo) and not api.repo_exists("seggen/none")
    assert api.create_repo("seggen/data", repo_type="dataset").repo_type == "dataset"
    api.create_repo("ada/space", repo_type="space", space_sdk="static")
    assert api.model_info(repo).private and not api.dataset_info("seggen/data").private
    assert api.space_info("ada/space").sdk == "static"
    api.auth_check(repo, write=True)

    # Content
    first = api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Everything")
    again = api.upload_folder(repo_id=repo, folder_path=folder)
    assert again.oid == first.oid, "an upload without a change is no commit"
    tree = {entry.path: entry for entry in api.list_repo_tree(repo, recursive=True)}
    local = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert set(tree) == set(local) | {".gitattributes", "nested", "nested/deep"}
    for name, content in local.items():
        entry, sha256 = tree[name], hashlib.sha256(content).hexdigest()
        assert entry.size == len(content)
        if name.endswith(".safetensors"):
            assert entry.lfs.sha256 == sha256 and entry.lfs.size == len(content)
        else:
            assert entry.lfs is None
            assert entry.blob_id == hashlib.sha1(b"blob %d\\0" % len(content) + content).hexdigest()
    inside = {e.path: e for e in api.list_repo_tree(repo, "nested", expand=True)}
    assert "nested/deep" in inside and "config.json" not in inside
    assert {e.last_commit.oid for e in inside.values()} == {first.oid}
    some = api.get_paths_info(repo, ["config.json", "nested", "none"])
    assert [e.path for e in some] == ["config.json", "nested"]
    info = api.model_info(repo, files_metadata=True)
    assert info.sha == first.oid and info.card_data.license == "apache-2.0" and "toy" in info.tags
    assert {s.rfilename: s.size for s in info.siblings} == {e.path: e.size for e in tree.values() if "." in e.path}
    for name, content in local.items():
        assert Path(hf_hub_download(repo, name)).read_bytes() == content, name
    raises(EntryNotFoundError, lambda: hf_hub_download(repo, "none.txt"))
    raises(RepositoryNotFoundError, lambda: hf_hub_download("seggen/none", "config.json"))

    # References
    api.create_tag(repo, tag="v1")
    raises(HfHubHTTPError, lambda: api.create_tag(repo, tag="v1"), 409)
    api.create_branch(repo, branch="side/way")
    api.create_branch(repo, branch="side/way", exist_ok=True)
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=repo, revision="side/way")
    api.delete_files(repo, ["nested/*.safetensors"], commit_message="No weights")
    api.delete_folder("nested/deep", repo)
    assert sorted(api.list_repo_files(repo)) == [".gitattributes", "README.md", "config.json", "empty.txt"]
    raises(EntryNotFoundError, lambda: api.delete_file("none.txt", repo))
    assert len(api.list_repo_files(repo, revision="v1")) == len(local) + 1
    assert Path(hf_hub_download(repo, "config.json", revision="side/way")).read_bytes() == b"{}"
    assert Path(hf_hub_download(repo, "config.json", revision=first.oid)).read_bytes() == local["config.json"]
    raises(RevisionNotFoundError, lambda: hf_hub_download(repo, "config.json", revision="v9"))
    old = Path(snapshot_download(repo, revision="v1"))
    assert {n: (old / n).read_bytes() for n in local} == local
    titles = [commit.title for commit in api.list_repo_commits(repo)]
    assert titles[1:] == ["No weights", "Everything", "initial commit"], titles
    stale = [CommitOperationAdd("late.txt", b"late")]
    raises(HfHubHTTPError, lambda: api.create_commit(repo, stale, commit_message="x", parent_commit=first.oid), 412)
    pull = api.create_commit(repo, stale, commit_message="Please", create_pr=True)
    assert pull.pr_revision == "refs/pr/1" and pull.pr_url.endswith(f"/{repo}/discussions/1")
    assert "late.txt" in api.list_repo_files(repo, revision="refs/pr/1")
    assert "late.txt" not in api.list_repo_files(repo)
    refs = api.list_repo_refs(repo, include_pull_requests=True)
    assert {b.name for b in refs.branches} == {"main", "side/way"} and refs.tags[0].target_commit == first.oid
    assert refs.pull_requests[0].ref == "refs/pr/1"
    api.delete_branch(repo, branch="side/way")
    api.delete_tag(repo, tag="v1")
    refs = api.list_repo_refs(repo)
    assert [b.name for b in refs.branches] == ["main"] and not refs.tags

    # Cards
    bad = b"---\\nlicense: mine\\n---\\n"
    text = raises(ValueError, lambda: api.upload_file(path_or_fileobj=bad, path_in_repo="README.md", repo_id=repo))
    assert "license" in text
    raises(ValueError, lambda: ModelCard("---\\nlicense: mine\\n---\\n").push_to_hub(repo))
    ModelCard("---\\nlicense: mit\\npipeline_tag: image-segmentation\\n---\\n# Toy").push_to_hub(repo)
    assert api.model_info(repo).pipeline_tag == "image-segmentation"

    # A file in parts, and its way back over a connection that is cut once
    api.upload_file(path_or_fileobj=str(big), path_in_repo="big.bin", repo_id="seggen/data", repo_type="dataset")
    back = Path(hf_hub_download("seggen/data", "big.bin", repo_type="dataset"))
    assert hashlib.sha256(back.read_bytes()).digest() == hashlib.sha256(big.read_bytes()).digest()
    with HfFileSystem().open("datasets/seggen/data/big.bin", block_size=4096) as file:
        file.seek(10_000_000)
        assert file.read(100) == big.read_bytes()[10_000_000:10_000_100]

    # Many at once
    def add(i):
        return api.upload_file(path_or_fileobj=b"%d" % i, path_in_repo=f"many/{i}.txt", repo_id=repo).oid

    def race(i):
        addition = [CommitOperationAdd(f"race-{i}.txt", b"x")]
        try:
            return api.create_commit(repo, addition, commit_message="Race", parent_commit=head).oid
        except HfHubHTTPError as error:
            assert error.response.status_code == 412
    with ThreadPoolExecutor(8) as pool:
        count = len(api.list_repo_commits(repo))
        assert len(set(pool.map(add, range(24)))) == 24
        assert len(api.list_repo_commits(repo)) == count + 24
        assert len([n for n in api.list_repo_files(repo) if n.startswith("many/")]) == 24
        head = api.model_info(repo).sha
        assert len([oid for oid in pool.map(race, range(8)) if oid]) == 1

    # Visibility and names
    api.update_repo_settings(repo, private=False)
    assert not api.model_info(repo).private
    api.move_repo(repo, "seggen/moved")
    assert api.list_repo_files("seggen/moved") and not api.repo_exists(repo)
    api.delete_repo("seggen/moved")
    assert not api.repo_exists("seggen/moved")
    raises(RepositoryNotFoundError, lambda: api.delete_repo("seggen/moved"))
    api.delete_repo("seggen/moved", missing_ok=True)
"""


def test_the_calls_of_hfapi_do_what_they_say(hub, run_client, tmp_path):
    hub.page_size, hub.part_size = 4, 10 << 20
    big = tmp_path / "big.bin"
    big.write_bytes(random.Random(0).randbytes(BIG))

    def cut_once(method, path, number):
        gets = hub.seen("GET", "/resolve/main/big.bin$")
        return "cut_body" if method == "GET" and gets and gets[0].number == number else None

    hub.on_request = cut_once
    run_client(API_CODE, make_folder(tmp_path / "toy", 3), big)

    assert [request.query["cursor"] for request in hub.seen("GET", "/tree/") if "cursor" in request.query]
    assert len(hub.seen("PUT", "/lfs/datasets/seggen/data/", 200)) == 3
    assert len(hub.seen("PUT", "/lfs/models/")) == 3, "large files that were there were sent again"
    ranges = [request.headers.get("range") for request in hub.seen("GET", "/resolve/main/big.bin$")]
    assert ranges[:2] == [None, "bytes=10485760-"], "the second half was not resumed"
    assert len(ranges) == 3 and ranges[2].startswith("bytes=10000000-")
    assert not [r for r in hub.seen("PUT", "^/lfs/") if "authorization" in r.headers]


PUSH_DATASET = """
    import datasets
    datasets.disable_progress_bars()
    def records(n):
        image = datasets.Image().encode_example
        features = datasets.Features({"image": datasets.Image(), "id": datasets.Value("int64")})
        import numpy as np
        rows = [{"image": np.full((4, 4, 3), i, "uint8"), "id": i} for i in range(n)]
        return datasets.Dataset.from_list(rows, features=features)
    splits = datasets.DatasetDict({"train": records(10), "test": records(3)})
    splits.push_to_hub("seggen/masks", config_name="one", num_shards={"train": 3, "test": 1}, private=True)
    datasets.DatasetDict({"train": records(5)}).push_to_hub("seggen/masks", config_name="two")
    datasets.DatasetDict({"train": records(6)}).push_to_hub("seggen/masks", config_name="two")
"""
LOAD_DATASET = """
    import json, sys
    import datasets
    assert datasets.get_dataset_config_names("seggen/masks") == ["one", "two"]
    one = datasets.load_dataset("seggen/masks", "one")
    assert {name: len(split) for name, split in one.items()} == {"train": 10, "test": 3}
    assert one["train"][7]["image"].getpixel((0, 0)) == (7, 7, 7)
    before = datasets.load_dataset("seggen/masks", "two", split="train")
    assert before["id"][:] == list(range(6))
    streamed = list(datasets.load_dataset("seggen/masks", "one", split="train", streaming=True))
    assert [row["id"] for row in streamed] == list(range(10))
    assert streamed[9]["image"].getpixel((3, 3)) == (9, 9, 9)
"""
REFUSED = """
    import json
    import datasets
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    def told(call):
        try:
            call()
        except Exception as error:
            return [type(error).__name__, getattr(getattr(error, "response", None), "status_code", None), str(error)]
    api = HfApi()
    upload = dict(path_or_fileobj=b"x", path_in_repo="x.txt", repo_type="dataset")
    print(json.dumps({
        "load": told(lambda: datasets.load_dataset("seggen/masks", "one")),
        "info": told(lambda: api.dataset_info("seggen/masks")),
        "download": told(lambda: hf_hub_download("seggen/masks", "README.md", repo_type="dataset")),
        "snapshot": told(lambda: snapshot_download("seggen/masks", repo_type="dataset")),
        "public": told(lambda: api.list_repo_files("seggen/open", repo_type="dataset")),
        "upload": told(lambda: api.upload_file(repo_id="seggen/open", **upload)),
        "whoami": told(lambda: api.whoami()),
    }))
"""


def test_private_datasets_are_for_their_owners_alone(hub, run_client):
    hub.store.create("datasets", "seggen/open", False, "ada", b"")
    run_client(PUSH_DATASET)
    hub.restart()  # what follows is read from the disk
    assert hub.store.repo("datasets", "seggen/masks").meta["private"]
    files = stored(hub, "datasets", "seggen/masks")
    assert len([path for path in files if path.startswith("one/train-")]) == 3
    assert len([path for path in files if path.startswith("two/train-")]) == 1
    run_client(LOAD_DATASET, token=READER)
    assert hub.seen("GET", "/resolve/.*parquet$", 206), "nothing was read by ranges"

    nobody = printed(run_client(REFUSED, token=None))
    assert {name: error and error[:2] for name, error in nobody.items()} == {
        "load": ["DatasetNotFoundError", None],
        "info": ["RepositoryNotFoundError", 401],
        "download": ["RepositoryNotFoundError", 401],
        "snapshot": ["RepositoryNotFoundError", 401],
        "public": None,
        "upload": ["RepositoryNotFoundError", 401],
        "whoami": ["LocalTokenNotFoundError", None],
    }
    other = printed(run_client(REFUSED, token=OTHER))
    assert {name: error and error[:2] for name, error in other.items()} == {
        "load": ["DatasetNotFoundError", None],
        "info": ["RepositoryNotFoundError", 404],
        "download": ["RepositoryNotFoundError", 404],
        "snapshot": ["RepositoryNotFoundError", 404],
        "public": None,
        "upload": ["HfHubHTTPError", 403],
        "whoami": None,
    }
    wrong = printed(run_client(REFUSED, token="hf_nobody"))
    assert {error[0] for error in wrong.values()} == {"HfHubHTTPError"}, wrong
    assert "Invalid credentials in Authorization header" in wrong["public"][2]
    assert "Invalid user token. The token from HF_TOKEN environment variable is invalid" in wrong["whoami"][2]


LIBRARIES = """
import json, sys
from pathlib import Path
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DModel
from huggingface_hub import HfApi
from transformers import AutoConfig, AutoModel, BertConfig, BertModel
import evaluate

api, work = HfApi(), Path.cwd()
try:
    import seggen_hf
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("seggen_hf can be imported")

unet = UNet2DModel(
    sample_size=8, in_channels=3, out_channels=3, block_out_channels=(4, 4), norm_num_groups=2, layers_per_block=1,
    down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
)
(work / "toy_siblings.py").write_text("FACTOR = 3\\n")
(work / "toy_pipeline.py").write_text('''
from diffusers import DiffusionPipeline
from .toy_siblings import FACTOR
class ToyPipeline(DiffusionPipeline):
    def __init__(self, unet, scheduler, labels=None):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(labels=labels)
    def __call__(self):
        return FACTOR, self.config.labels
''')
unet.save_pretrained(work / "unet")
DDIMScheduler().save_pretrained(work / "scheduler")
(work / "model_index.json").write_text(json.dumps({
    "_class_name": ["toy_pipeline", "ToyPipeline"], "unet": ["diffusers", "UNet2DModel"],
    "scheduler": ["diffusers", "DDIMScheduler"], "labels": {"0": "wall"},
}))
api.create_repo("seggen/pipe", private=True)
api.upload_folder(repo_id="seggen/pipe", folder_path=work)
pipe = DiffusionPipeline.from_pretrained("seggen/pipe", trust_remote_code=True)
assert pipe() == (3, {"0": "wall"})
assert all(torch.equal(a, b) for a, b in zip(pipe.unet.parameters(), unet.parameters()))
try:
    DiffusionPipeline.from_pretrained("seggen/pipe")
except ValueError as error:
    assert "trust_remote_code" in str(error)
else:
    raise AssertionError("remote code ran without trust")

config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
bert = BertModel(config)
bert.push_to_hub("seggen/bert")
again = AutoModel.from_pretrained("seggen/bert")
assert all(torch.equal(a, b) for a, b in zip(again.parameters(), bert.parameters()))
assert api.model_info("seggen/bert").library_name == "transformers"

code = '''
import datasets
import evaluate
class Twice(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)
    def _compute(self, predictions, references):
        return {"twice": 2 * sum(predictions)}
'''
api.create_repo("seggen/twice", repo_type="space", space_sdk="static")
api.upload_file(
    path_or_fileobj=code.encode(), path_in_repo="twice.py", repo_id="seggen/twice", repo_type="space"
)
assert evaluate.load("seggen/twice").compute(predictions=[1, 2], references=[0, 0]) == {"twice": 6}
"""


def test_the_libraries_push_and_load_where_large_files_are_elsewhere(hub, run_client):
    hub.cdn = True
    run_client(LIBRARIES, bare=True)
    assert {request.status for request in hub.seen("HEAD", r"/pipe/resolve/[^/]+/unet/.*safetensors$")} == {302}
    assert hub.seen("GET", "^/cdn/", 200), "no large file came from the other origin"
    assert not [request for request in hub.seen(path="^/cdn/") if "authorization" in request.headers]
