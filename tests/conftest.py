"""Fixtures that several folders of tests share."""

import atexit
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

import seggen_hf  # noqa: F401  before torch: it says how torch's threads wait

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_EVALUATE_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Code that evaluate and diffusers copy before they run it stays out of the user's own cache.
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="seggen-modules-")
atexit.register(shutil.rmtree, os.environ["HF_MODULES_CACHE"], ignore_errors=True)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers share the cores
    # What `datasets` converts stays out of the user's own cache.
    os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="seggen-tests-")
    atexit.register(shutil.rmtree, os.environ["HF_DATASETS_CACHE"], ignore_errors=True)


SLOW_FOLDERS = [Path(__file__).parent / name for name in ("demo", "hub")]  # servers and processes for every test


def pytest_collection_modifyitems(items) -> None:
    for item in items:
        if any(folder in item.path.parents for folder in SLOW_FOLDERS):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def load_script():
    """A function that loads a file of training/ or benchmarks/, which are no packages, as a module of its own."""

    def load(path: Path):
        spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """A function of a name and of what makes a file or folder: that is made by the first worker that needs it."""
    together = "PYTEST_XDIST_WORKER" in os.environ
    root = tmp_path_factory.getbasetemp().parent if together else tmp_path_factory.mktemp("shared")

    def made(name: str, make: Callable[[Path], object]) -> Path:
        place, done = root / name, root / f"{name}.done"
        with FileLock(root / f"{name}.lock"):
            if not done.is_file():
                make(place)
                done.touch()
        return place

    return made


@pytest.fixture(scope="session")
def miniature_dir(made_once) -> Path:
    """A unit-size SDXL folder with random weights, whose tokenizer knows the scenes' words."""
    from seggen_hf.data.scenes.records import SCENE_WORDS
    from seggen_hf.miniature.architecture import save_miniature

    return made_once("miniature", lambda place: save_miniature(place, "unit", SCENE_WORDS, seed=0))


@pytest.fixture(scope="session")
def flux2_dir(made_once) -> Path:
    """A unit-size FLUX.2-klein folder with random weights, whose tokenizer knows the scenes' words."""
    from seggen_hf.data.scenes.records import SCENE_WORDS
    from seggen_hf.miniature.flux2 import save_flux2_miniature

    return made_once("flux2", lambda place: save_flux2_miniature(place, SCENE_WORDS, seed=0))


@pytest.fixture(scope="session")
def scene_records():
    """Eight labelled scene records."""
    from seggen_hf.data.scenes.records import scene_records

    return scene_records("train", num_records=8)


@pytest.fixture(scope="session")
def generator_dirs(miniature_dir, scene_records, tmp_path_factory):
    """Folders of a Text2Mask and a Mask2Img pipeline for the scenes' labels, with random weights whose maps and images
    differ from sample to sample."""
    import torch
    from diffusers import ControlNetModel, StableDiffusionXLPipeline

    from seggen_hf import ColormapCodec, LabelSet, Mask2ImgPipeline, Text2MaskPipeline

    base = StableDiffusionXLPipeline.from_pretrained(miniature_dir, use_safetensors=True, add_watermarker=False)
    names = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "scheduler")
    components = {name: base.components[name] for name in names}
    colormap = ColormapCodec(LabelSet.from_records(scene_records)).to_dict()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        controlnet = ControlNetModel.from_unet(components["unet"], conditioning_embedding_out_channels=(8, 16, 32))
        for block in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
            block.weight.normal_(std=0.5)  # a fresh ControlNet adds nothing
        components["vae"].decoder.conv_out.weight *= 5  # colors far enough apart to be several labels
    folder = tmp_path_factory.mktemp("generators")
    Text2MaskPipeline(**components, colormap=colormap).save_pretrained(folder / "text2mask")
    Mask2ImgPipeline(**components, controlnet=controlnet, colormap=colormap).save_pretrained(folder / "mask2img")
    return folder / "text2mask", folder / "mask2img"


@pytest.fixture(scope="session")
def shared_data_dir() -> Path:
    """The real data sets; not part of the project."""
    folder = Path(os.environ.get("SEGGEN_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set SEGGEN_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def camvid_dir(shared_data_dir) -> Path:
    folder = shared_data_dir / "camvid"
    if not folder.is_dir():
        pytest.skip(f"no CamVid at {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_recipe(made_once, miniature_dir) -> Path:
    """A recipe file of the whole loop at unit size: 8 scenes, 2 steps a training."""
    training = f"base_model: {miniature_dir}, max_train_steps: 2, train_batch_size: 2, num_validation_images: 1"
    text = f"""name: tiny
data: {{max_train_records: 8, max_test_records: 4, test_splits: [test, unseen]}}
text2mask: {{{training}, validation_inference_steps: 1}}
mask2img: {{{training}, validation_inference_steps: 1}}
synthesis: {{text2mask_steps: 1, mask2img_steps: 1, max_color_distance: 500, max_ignored_share: 1.0,
  batch_size: 8, caption_styles: [at night, at sunset]}}
segmenter: {{model: unit, max_train_steps: 2, train_batch_size: 2, crop_height: 64, crop_width: 64}}
"""
    return made_once("tiny.yaml", lambda place: place.write_text(text))


@pytest.fixture(scope="session")
def tiny_run(made_once, tiny_recipe) -> Path:
    """The folder of a finished run of `tiny_recipe`; tests must not change it."""
    from seggen_hf.config import load_recipe
    from seggen_hf.runs.runner import run_stages

    return made_once("tiny", lambda place: run_stages(load_recipe(tiny_recipe), place, command="seggen run tiny.yaml"))
