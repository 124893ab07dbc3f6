"""What was pushed, loaded with the libraries that people already use: with the package, and where it is absent."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from hub_clients import Clients
from PIL import Image

SEGGEN = ["-m", "seggen_hf.cli"]
KINDS = ("text2mask", "mask2img")
SNIPPET = re.compile(r"```python\n(.*?)```", re.DOTALL)
DRAW = """
    import sys
    import numpy as np, torch
    from diffusers import DiffusionPipeline
    def draw(pipe, *args, **kwargs):
        generator = torch.Generator().manual_seed(0)
        pipe.set_progress_bar_config(disable=True)
        settings = {"generator": generator, "num_inference_steps": 2, "output_type": "np"}
        return pipe(["a car", "a house"], *args, **settings, **kwargs)
    def check_refusal():
        try:
            DiffusionPipeline.from_pretrained("seggen/tiny-text2mask")
        except ValueError as error:
            assert "trust_remote_code=True" in str(error), error
        else:
            raise AssertionError("remote code ran without the flag")
    maps = np.zeros((2, 64, 64), dtype=np.int64)
    maps[:, 32:] = 2
"""


@pytest.fixture(scope="module")
def hub(module_hub):
    return module_hub


@pytest.fixture(scope="module")
def run_client(hub, tmp_path_factory):
    clients = Clients(hub, tmp_path_factory.mktemp("clients"))
    yield clients.run
    clients.stop()


@pytest.fixture(scope="module")
def pushed(run_client, tiny_run, tmp_path_factory):
    """The finished run, and its repositories on the Hub under seggen/tiny-*."""
    run = shutil.copytree(tiny_run, tmp_path_factory.mktemp("pushed") / "run")
    run_client([*SEGGEN, "push", str(run), "--namespace", "seggen"])
    return run


def test_pipelines_load_with_and_without_the_package(hub, run_client, pushed, tmp_path):
    bare = f"""{DRAW}
    for order in (["text2mask", "mask2img"], ["mask2img", "text2mask"]):
        for name in [name for name in sys.modules if name.startswith("diffusers_modules")]:
            del sys.modules[name]
        pipes = {{k: DiffusionPipeline.from_pretrained("seggen/tiny-" + k, trust_remote_code=True) for k in order}}
        drawn, images = draw(pipes["text2mask"]), draw(pipes["mask2img"], maps).images
        np.savez(sys.argv[1] + "/" + order[0], maps=drawn.segmentation_maps, colors=drawn.color_maps, images=images)
    assert drawn.segmentation_maps.shape == (2, 64, 64)
    check_refusal()
    try:
        import seggen_hf
    except ModuleNotFoundError:
        print("bare")
    """
    assert run_client(bare, tmp_path, bare=True).stdout.strip().endswith("bare")

    installed = f"""{DRAW}
    import seggen_hf
    from seggen_hf import Mask2ImgPipeline, Text2MaskPipeline
    text2mask = Text2MaskPipeline.from_pretrained("seggen/tiny-text2mask", use_safetensors=True)
    mask2img = Mask2ImgPipeline.from_pretrained("seggen/tiny-mask2img", use_safetensors=True)
    check_refusal()
    seggen_hf.register_pipelines()
    seggen_hf.register_pipelines()
    for kind, ours in (("text2mask", Text2MaskPipeline), ("mask2img", Mask2ImgPipeline)):
        pipe = DiffusionPipeline.from_pretrained("seggen/tiny-" + kind)
        assert type(pipe) is ours, type(pipe)
    drawn, images = draw(text2mask), draw(mask2img, maps).images
    np.savez(sys.argv[1] + "/installed", maps=drawn.segmentation_maps, colors=drawn.color_maps, images=images)
    assert not any(name.startswith("diffusers_modules") for name in sys.modules)
    """
    home = tmp_path / "home"
    run_client(installed, tmp_path, home=home)
    results = [np.load(tmp_path / f"{name}.npz") for name in ("installed", "text2mask", "mask2img")]
    for other in results[1:]:
        assert np.array_equal(results[0]["maps"], other["maps"])
        for name in ("colors", "images"):
            assert np.allclose(results[0][name], other[name], atol=1e-5)

    requests = len(hub.requests)
    offline = f"""{DRAW}
    from seggen_hf import Text2MaskPipeline
    drawn = draw(Text2MaskPipeline.from_pretrained("seggen/tiny-text2mask", use_safetensors=True))
    assert np.array_equal(drawn.segmentation_maps, np.load(sys.argv[1] + "/installed.npz")["maps"])
    """
    run_client(offline, tmp_path, home=home, env={"HF_HUB_OFFLINE": "1"})
    assert len(hub.requests) == requests


@pytest.mark.parametrize("bare", [True, False])
def test_a_loaded_pipeline_behaves_as_in_diffusers(run_client, pushed, bare):
    load = "DiffusionPipeline" if bare else "Text2MaskPipeline"
    flag = "trust_remote_code=True" if bare else "use_safetensors=True"
    code = f"""{DRAW}
    if {not bare}:
        from seggen_hf import Text2MaskPipeline
    pipe = {load}.from_pretrained("seggen/tiny-text2mask", {flag})
    pipe.set_progress_bar_config(disable=True)
    seen = []
    def look(pipe, step, timestep, values):
        seen.append((step, values["latents"].shape[0]))
        return values
    def call(pipe, **kwargs):
        settings = {{"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0)}}
        return pipe("a car", **settings, **kwargs)
    several = call(pipe, num_images_per_prompt=3, callback_on_step_end=look)
    assert seen == [(0, 3), (1, 3)], seen
    assert len(several.segmentation_maps) == len(several.color_maps) == 3
    whole = call(pipe)
    assert type(whole.color_maps[0]).__name__ == "Image"
    assert call(pipe, output_type="pt").color_maps.shape == (1, 3, 64, 64)
    again = type(pipe).from_pipe(pipe)
    assert again.unet is pipe.unet and np.array_equal(call(again).segmentation_maps, whole.segmentation_maps)
    pipe.to(torch.float64).to(torch.float32)
    assert np.array_equal(call(pipe).segmentation_maps, whole.segmentation_maps)
    # Offloading by layers needs no accelerator: the CPU computes, and weights wait where they are told to.
    pipe.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    assert np.array_equal(call(pipe).segmentation_maps, whole.segmentation_maps)
    """
    run_client(code, bare=bare)


def test_a_revision_can_be_pinned(hub, run_client, pushed, tmp_path):
    run = shutil.copytree(pushed, tmp_path / "run")
    command = [*SEGGEN, "push", str(run), "--namespace", "seggen", "--name", "pinned", "--only", "text2mask"]
    run_client(command)
    first = hub.store.repo("models", "seggen/pinned-text2mask").resolve("main")
    index = run / "text2mask" / "model_index.json"
    content = json.loads(index.read_text())
    content["colormap"]["categories"][0]["name"] = "heaven"
    index.write_text(json.dumps(content))
    run_client(command)
    run_client(
        """
        import sys
        from seggen_hf import Text2MaskPipeline
        names = {}
        for revision in (None, "main", sys.argv[1]):
            where = {"revision": revision, "use_safetensors": True}
            pipe = Text2MaskPipeline.from_pretrained("seggen/pinned-text2mask", **where)
            names[revision] = pipe.codec.id2label[0]
        assert names == {None: "heaven", "main": "heaven", sys.argv[1]: "sky"}, names
        """,
        first,
    )


def test_the_segmenter_loads_with_transformers_alone(run_client, pushed):
    run_client(
        """
        from huggingface_hub import hf_hub_download
        from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation, pipeline
        repo = "seggen/tiny-segmenter"
        model = AutoModelForUniversalSegmentation.from_pretrained(repo, use_safetensors=True)
        processor = AutoImageProcessor.from_pretrained(repo, backend="pil")
        assert model.config.id2label[0] == "sky" and len(model.config.id2label) == 15
        assert processor.ignore_index == 255 and processor.do_reduce_labels is False
        found = pipeline("image-segmentation", model=repo)(hf_hub_download(repo, "example.png"), subtask="semantic")
        assert found and {f["label"] for f in found} <= set(model.config.id2label.values())
        assert {f["mask"].size for f in found} == {(64, 64)}
        """,
        bare=True,
    )


def test_synthetic_records_load_and_train_by_their_hub_id(run_client, pushed, tmp_path):
    result = run_client(
        """
        import json, sys
        import numpy as np
        from datasets import load_dataset
        from seggen_hf import LabelSet, load_records, load_synthetic
        from seggen_hf.pipelines import ColormapCodec
        rows = load_dataset("seggen/tiny-synthetic", split="train")
        local = load_synthetic(sys.argv[1] + "/synthetic")
        ours = load_synthetic("seggen/tiny-synthetic")
        assert ours.column_names == local.column_names and ours["image_id"] == local["image_id"]
        assert len(load_synthetic("seggen/tiny-synthetic", kinds=["masksyn"])) == 8
        codec = ColormapCodec(LabelSet.from_records(ours))
        for row, known in zip(rows, local, strict=True):
            assert np.array_equal(row["image"], known["image"])
            assert np.array_equal(row["segmentation_map"], known["segmentation_map"])
            assert np.array_equal(codec.decode(np.array(row["color_map"])).segmentation_map, row["segmentation_map"])
        records = load_records("seggen/tiny-synthetic", split="train")
        assert LabelSet.from_records(records).id2label == LabelSet.from_records(local).id2label
        print(json.dumps(records["image_id"] == local["image_id"]))
        """,
        pushed,
    )
    assert result.stdout.splitlines()[-1] == "true"


@pytest.mark.parametrize("name", ["text2mask", "mask2img", "segmenter", "synthetic"])
def test_the_snippets_of_the_cards_run_as_printed(hub, run_client, pushed, name):
    kind = "datasets" if name == "synthetic" else "models"
    card = hub.store.repo(kind, f"seggen/tiny-{name}").read("README.md").decode()
    snippets = SNIPPET.findall(card)
    assert snippets and f"seggen/tiny-{name}" in snippets[0]
    for snippet in snippets:
        run_client(["-c", snippet], bare="seggen_hf" not in snippet)


def test_adapters_load_on_the_base_that_they_were_trained_from(
    hub, run_client, pushed, tiny_recipe, miniature_dir, tmp_path
):
    """LoRA, ControlNet and a ControlNet's LoRA alone, as their cards print it, draw what the whole pipelines draw."""
    run_client([*SEGGEN, "push", str(pushed), "--namespace", "seggen", "--only", "adapters"])
    with_lora = tmp_path / "lora"
    start = pushed / "mask2img" / "controlnet"
    settings = ["name=adapted", f"mask2img.controlnet_model={start}"]
    settings += [f"{kind}.{value}" for kind in KINDS for value in ("lora_rank=2", "learning_rate=0.02")]
    settings = [word for setting in settings for word in ("--set", setting)]
    run_client([*SEGGEN, "run", str(tiny_recipe), "--out", str(with_lora), "--until", "mask2img", *settings])
    run_client(
        [*SEGGEN, "push", str(with_lora), "--namespace", "seggen", "--only", "text2mask,mask2img,adapters", "--public"]
    )
    drawn = {}
    alone = {
        "adapted-text2mask-lora": "adapted-text2mask",
        "adapted-controlnet-lora": "adapted-mask2img",
        "tiny-controlnet": "tiny-mask2img",
    }
    for repo_id, whole in alone.items():
        card = hub.store.repo("models", f"seggen/{repo_id}").read("README.md").decode()
        (snippet,) = SNIPPET.findall(card)
        (tmp_path / repo_id).mkdir()
        snippet = snippet.replace("FOLDER_OF_THE_BASE", str(miniature_dir))
        snippet = snippet.replace("FOLDER_OF_THE_CONTROLNET", str(start))
        run_client(["-c", snippet], bare=True, cwd=tmp_path / repo_id)
        (picture,) = (tmp_path / repo_id).glob("*.png")
        drawn[whole] = np.array(Image.open(picture)).astype(int)
    code = f"""{DRAW}
    import re, torch
    from huggingface_hub import hf_hub_download
    from PIL import Image
    from seggen_hf import Mask2ImgPipeline, Text2MaskPipeline
    caption = sys.argv[2]
    settings = dict(height=64, width=64, num_inference_steps=1, guidance_scale=5.0)
    generator = lambda: torch.Generator().manual_seed(0)
    pipe = Text2MaskPipeline.from_pretrained("seggen/adapted-text2mask", use_safetensors=True)
    pipe(caption, generator=generator(), **settings).color_maps[0].save(sys.argv[1] + "/adapted-text2mask.png")
    whole = Text2MaskPipeline.from_pretrained("seggen/tiny-text2mask", use_safetensors=True)
    colors = lambda: draw(whole, height=64, width=64).color_maps
    before = colors()
    whole.load_lora_weights("seggen/adapted-text2mask-lora")  # on a pipeline of ours, as on any of diffusers
    assert np.abs(colors() - before).max() > 1e-3
    whole.unload_lora_weights()
    assert np.array_equal(colors(), before)
    for whole, repo in (("tiny-mask2img", "tiny-controlnet"), ("adapted-mask2img", "adapted-controlnet-lora")):
        pipe = Mask2ImgPipeline.from_pretrained("seggen/" + whole, use_safetensors=True)
        color_map = Image.open(hf_hub_download("seggen/" + repo, "color_map.png")).convert("RGB")
        segmentation_map = pipe.codec.decode(np.array(color_map)).segmentation_map
        image = pipe(caption, segmentation_map=segmentation_map, generator=generator(), **settings).images[0]
        image.save(sys.argv[1] + "/" + whole + ".png")
    """
    caption = re.search(r'pipe\(\n    "(.*)",\n', card)[1]  # the same in all
    run_client(code, tmp_path, caption)
    for whole, alone in drawn.items():
        assert np.abs(np.array(Image.open(tmp_path / f"{whole}.png")).astype(int) - alone).max() <= 1


def test_metrics_load_by_their_hub_id(run_client, pushed):
    run_client([*SEGGEN, "push", str(pushed), "--namespace", "seggen", "--only", "metrics"])
    run_client("""
        import evaluate, numpy as np
        from seggen_hf.metrics import MeanIoU
        target = np.kron(np.arange(6).reshape(2, 3) % 4, np.ones((4, 4), int))
        found = evaluate.load("seggen/mean_iou").compute(
            predictions=[np.roll(target, 1, 0)], references=[target], num_labels=4
        )
        metric = MeanIoU(4)
        metric.update(np.roll(target, 1, 0), target)
        assert found == metric.compute() and 0 < found["mIoU"] < 1
        for name in ("panoptic_quality", "boundary_iou"):
            assert "Returns" in evaluate.load("seggen/" + name).inputs_description
    """)
    snippets = []
    for name in ("mean_iou", "panoptic_quality", "boundary_iou"):
        (snippet,) = SNIPPET.findall((pushed / "hub" / name / "README.md").read_text(encoding="utf-8"))
        assert f"seggen/{name}" in snippet
        snippets.append(snippet)
    assert run_client(["-c", "\n".join(snippets)]).stdout.count("Returns") == 3


def test_the_hub_section_of_the_readme_runs_as_printed(run_client, tiny_run, tmp_path):
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    section = text.split("\n## The Hub\n")[1].split("\n## ")[0].replace("your-name", "seggen")
    shutil.copytree(tiny_run, tmp_path / "runs" / "quickstart")
    (commands,) = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    for line in commands.splitlines():
        words = shlex.split(line, comments=True)
        assert words[0] == "seggen"
        run_client([*SEGGEN, *words[1:]], cwd=tmp_path)
    (snippet,) = SNIPPET.findall(section)
    result = run_client(["-c", snippet], bare=True)
    assert "(64, 64)" in result.stdout
