"""The Space of the demo: what is uploaded runs by itself, with the models that are on the Hub."""

import json
import re
import shutil
import uuid
from pathlib import Path

import httpx
import yaml
from packaging.requirements import Requirement

SEGGEN = ["-m", "seggen_hf.cli"]
# A checkout's own modules are found by a finder of its own: without it, seggen_hf is what lies in the Space alone.
ALONE = """
import sys
sys.meta_path = [f for f in sys.meta_path if "editable" not in f"{getattr(f, '__module__', '')} {f}"]
"""


def draw(url: str, caption: str) -> dict:
    session = uuid.uuid4().hex
    body = {"data": [caption, 1, False, 1], "fn_index": 0, "session_hash": session}
    assert httpx.post(f"{url}/gradio_api/queue/join", json=body, timeout=60).status_code == 200
    with httpx.stream("GET", f"{url}/gradio_api/queue/data?session_hash={session}", timeout=120) as stream:
        for line in stream.iter_lines():
            if line.startswith("data:") and (message := json.loads(line[5:]))["msg"] == "process_completed":
                return message
    raise AssertionError("no answer")


def test_a_space_is_pushed_after_its_models_and_runs_by_itself(hub, clients, tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    command = [*SEGGEN, "push", str(run), "--namespace", "seggen"]
    early = clients.run([*command, "--only", "space"], check=False)
    assert early.returncode == 1
    told = "error: seggen/tiny-demo loads seggen/tiny-text2mask, which is not on the Hub; push that first."
    assert early.stderr.splitlines()[-1] == told

    clients.run([*command, "--only", "text2mask,mask2img,segmenter,space"])
    repo = hub.store.repo("spaces", "seggen/tiny-demo")
    files = set(repo.files("main"))
    assert {
        "app.py",
        "requirements.txt",
        "README.md",
        "seggen_hf/__init__.py",
        "seggen_hf/pipelines/__init__.py",
    } <= files
    for name in files:
        for private in (str(run), str(Path.home()), "/work/"):
            assert private.encode() not in repo.read(name, "main"), name
    header = yaml.safe_load(repo.read("README.md", "main").decode().split("---\n")[1])
    assert header["sdk"] == "gradio" and header["app_file"] == "app.py"
    assert header["models"] == ["seggen/tiny-text2mask", "seggen/tiny-mask2img", "seggen/tiny-segmenter"]
    needed = {
        Requirement(line).name: Requirement(line) for line in repo.read("requirements.txt", "main").decode().split()
    }
    assert {"torch", "diffusers", "gradio"} <= set(needed) and not {"pytest", "evaluate"} & set(needed)
    assert header["sdk_version"] in needed["gradio"].specifier

    folder = tmp_path / "space"
    clients.run(f"""
        from huggingface_hub import snapshot_download
        snapshot_download("seggen/tiny-demo", repo_type="space", local_dir={str(folder)!r})
    """)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(ALONE)
    own = {"PYTHONPATH": tmp_path / "site", "GRADIO_ANALYTICS_ENABLED": "False"}
    found = clients.run(
        "import sys; sys.path.insert(0, ''); import seggen_hf.pipelines as p, seggen_hf as s;"
        "print(p.__file__, s.__file__, s.__version__)",
        env=own,
        cwd=folder,
    )
    assert found.stdout.count(str(folder)) == 2

    app = clients.start(["app.py"], env=own, cwd=folder)
    told = ""
    while "The demo is at" not in told:
        told = app.stdout.readline()
        assert told, app.stderr.read()
    url = re.search(r"(http://127\.0\.0\.1:\d+)/", told)[1]
    answer = draw(url, "a tree by the sea")
    assert answer["success"] and httpx.get(answer["output"]["data"][1]["url"]).content.startswith(b"\x89PNG")
    assert (folder / "decisions" / "labels.json").is_file()
    app.terminate()
    assert app.wait(30) == 0

    # The same page on a machine that has seggen_hf, as the card prints it.
    (line,) = re.findall(r"^seggen (demo .*)$", repo.read("README.md", "main").decode(), re.MULTILINE)
    app = clients.start([*SEGGEN, *line.split()])
    while "The demo is at" not in (told := app.stderr.readline()):
        assert told, app.stdout.read()
    app.terminate()
    assert app.wait(30) == 0
