"""Text2Mask and Mask2Img on FLUX.2-klein's classes at unit size: calls, references, refusals, saving, remote code."""

import json
import textwrap

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from forked_python import client_environment, run_python
from PIL import Image

from seggen_hf import ColormapCodec, Flux2Mask2ImgPipeline, Flux2Text2MaskPipeline
from seggen_hf.hub.staging import stage_pipeline

PROMPTS = ["a road with two cars", "a house on a meadow"]
SIZE = {"height": 64, "width": 72}
KINDS = {"text2mask": Flux2Text2MaskPipeline, "mask2img": Flux2Mask2ImgPipeline}


@pytest.fixture(scope="module")
def codec():
    return ColormapCodec({i: f"label {i}" for i in range(7)})


@pytest.fixture(scope="module")
def base(flux2_dir):
    return quiet(Flux2KleinPipeline.from_pretrained(flux2_dir, use_safetensors=True))


@pytest.fixture(scope="module")
def text2mask(base, codec):
    return quiet(Flux2Text2MaskPipeline(**base.components, colormap=codec.to_dict()))


@pytest.fixture(scope="module")
def mask2img(flux2_dir, codec):
    base = Flux2KleinPipeline.from_pretrained(flux2_dir, use_safetensors=True)
    with torch.no_grad():
        base.vae.encoder.conv_out.weight *= (
            30  # random weights see little of a picture; these must be seen to follow it
        )
    return quiet(Flux2Mask2ImgPipeline(**base.components, colormap=codec.to_dict()))


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline, *args, seeds=(0,), **kwargs):
    generator = [torch.Generator().manual_seed(seed) for seed in seeds]
    kwargs = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "pt", **kwargs}
    return pipeline(*args, generator=generator if len(seeds) > 1 else generator[0], **kwargs)


def some_maps(count=2):
    rng = np.random.default_rng(0)
    return [np.kron(rng.integers(0, 7, (8, 9)), np.ones((8, 8), int)) for _ in range(count)]


def test_a_caption_becomes_a_segmentation_map(text2mask, base):
    output = draw(text2mask, PROMPTS, seeds=(0, 1), **SIZE)
    assert output.color_maps.shape == (2, 3, 64, 72)
    assert output.segmentation_maps.shape == output.distances.shape == (2, 64, 72)
    assert set(output.segmentation_maps.unique().tolist()) <= {*range(7), 255}
    stock = draw(base, seeds=(0, 1), prompt=PROMPTS, max_sequence_length=96, **SIZE).images
    assert torch.equal(output.color_maps, stock)
    pil = draw(text2mask, PROMPTS[0], output_type="pil", **SIZE)
    assert isinstance(pil.color_maps[0], Image.Image) and pil.segmentation_maps[0].shape == (64, 72)


@pytest.mark.parametrize("kind", ["text2mask", "mask2img"])
def test_encoded_captions_draw_what_the_captions_draw(kind, request):
    pipeline = request.getfixturevalue(kind)
    shown = {"segmentation_map": some_maps()} if kind == "mask2img" else {}
    whole = draw(pipeline, PROMPTS, seeds=(0, 1), **shown, **SIZE)[0]
    encoded = pipeline.encode_guided(PROMPTS)
    assert torch.equal(draw(pipeline, seeds=(0, 1), **encoded, **shown, **SIZE)[0], whole)
    # The empty caption is filled in where it is not given.
    embeds = {"prompt_embeds": encoded["prompt_embeds"]}
    assert torch.equal(draw(pipeline, seeds=(0, 1), **embeds, **shown, **SIZE)[0], whole)


def test_each_map_is_the_reference_of_its_own_caption(mask2img):
    """Two at once are drawn as each alone, and as the stock pipeline draws one with its color map as the image."""
    maps = some_maps()
    together = draw(mask2img, PROMPTS, maps, seeds=(0, 1)).images
    assert together.shape == (2, 3, 64, 72)
    for row in (0, 1):
        alone = draw(mask2img, PROMPTS[row], maps[row], seeds=(row,)).images
        assert torch.allclose(alone[0], together[row], atol=1e-5)
        picture = Image.fromarray(mask2img.codec.encode(maps[row]))
        stock = quiet(Flux2KleinPipeline(**mask2img.components))
        shown = draw(stock, picture, seeds=(row,), prompt=PROMPTS[row], max_sequence_length=96, **SIZE).images
        assert torch.allclose(alone, shown, atol=1e-5)
    swapped = draw(mask2img, PROMPTS, maps[::-1], seeds=(0, 1)).images
    assert (swapped - together).abs().max() > 1e-3


def test_one_map_serves_all_captions_and_all_images_of_a_caption(mask2img):
    maps = some_maps()
    one = draw(mask2img, PROMPTS, maps[0], seeds=(0, 1)).images
    assert torch.allclose(one, draw(mask2img, PROMPTS, [maps[0], maps[0]], seeds=(0, 1)).images, atol=1e-5)
    seeds = (0, 1, 2, 3)
    several = draw(mask2img, PROMPTS, maps, seeds=seeds, num_images_per_prompt=2).images
    doubled = draw(mask2img, [p for p in PROMPTS for _ in (0, 1)], [m for m in maps for _ in (0, 1)], seeds=seeds)
    assert torch.allclose(several, doubled.images, atol=1e-5)


def test_what_flux2_cannot_do_is_refused(text2mask, mask2img):
    maps = some_maps(1)
    with pytest.raises(ValueError, match="multiples of 8"):
        draw(text2mask, PROMPTS[0], height=68, width=64)
    with pytest.raises(ValueError, match="sides of at least 64 pixels"):
        draw(mask2img, PROMPTS[0], maps, height=56, width=64)
    with pytest.raises(ValueError, match="1,048,576 pixels at most"):
        draw(mask2img, PROMPTS[0], maps, height=1024, width=1032)
    with pytest.raises(ValueError, match="it must be 1"):
        draw(mask2img, PROMPTS[0], maps, controlnet_conditioning_scale=0.5)
    with pytest.raises(TypeError, match="no argument guidance_rescale"):
        draw(text2mask, PROMPTS[0], guidance_rescale=0.7, **SIZE)
    with pytest.raises(TypeError, match="no argument image"):
        draw(text2mask, PROMPTS[0], image=Image.new("RGB", (64, 64)), **SIZE)
    with pytest.raises(ValueError, match="2 maps for 1 captions"):
        draw(mask2img, PROMPTS[0], some_maps(2))


def test_the_size_of_the_training_is_that_of_a_call(base, codec):
    pipeline = quiet(Flux2Text2MaskPipeline(**base.components, colormap=codec.to_dict() | SIZE))
    assert pipeline.trained_size == (64, 72)
    assert draw(pipeline, PROMPTS[0]).color_maps.shape == (1, 3, 64, 72)
    bare = Flux2Text2MaskPipeline(**base.components, colormap=codec.to_dict())
    assert bare.trained_size == (512, 512)  # 128 latents of the unit-size autoencoder's factor 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_staged_folder_is_drawn_with_where_this_package_is_not(kind, request, tmp_path):
    pipeline = request.getfixturevalue(kind)
    shown = [some_maps(1)[0]] if kind == "mask2img" else []
    expected = draw(pipeline, PROMPTS[0], *shown, output_type="np", **SIZE)[0]
    pipeline.save_pretrained(tmp_path / "saved")
    again = quiet(KINDS[kind].from_pretrained(tmp_path / "saved"))
    assert np.array_equal(draw(again, PROMPTS[0], *shown, output_type="np", **SIZE)[0], expected)

    staged = stage_pipeline(tmp_path / "saved", tmp_path / "staged")
    names = json.loads((staged / "model_index.json").read_text())["_class_name"]
    assert names[1] == KINDS[kind].__name__ and names[0].startswith(f"pipeline_flux2_{kind}_")
    installed = quiet(KINDS[kind].from_pretrained(staged))
    assert np.array_equal(draw(installed, PROMPTS[0], *shown, output_type="np", **SIZE)[0], expected)
    np.save(tmp_path / "map.npy", some_maps(1)[0])
    code = f"""
        import sys, numpy as np, torch
        from diffusers import DiffusionPipeline
        pipe = DiffusionPipeline.from_pretrained({str(staged)!r}, trust_remote_code=True, use_safetensors=True)
        pipe.set_progress_bar_config(disable=True)
        shown = [np.load({str(tmp_path / "map.npy")!r})] if {kind == "mask2img"} else []
        drawn = pipe({PROMPTS[0]!r}, *shown, height=64, width=72, num_inference_steps=2, guidance_scale=3.0,
                     output_type="np", generator=torch.Generator().manual_seed(0))[0]
        assert not any(name.startswith("seggen_hf") for name in sys.modules)
        np.save({str(tmp_path / "drawn.npy")!r}, drawn)
    """
    run_python(["-c", textwrap.dedent(code)], client_environment(OMP_NUM_THREADS=1), tmp_path)
    assert np.array_equal(np.load(tmp_path / "drawn.npy"), expected)
