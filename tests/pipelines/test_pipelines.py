"""Text2Mask and Mask2Img on real classes at unit size: calls, refusals, saving, loading, remote code."""

import json
import textwrap

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, DiffusionPipeline, StableDiffusionXLPipeline
from forked_python import client_environment, run_python
from PIL import Image

from seggen_hf import ColormapCodec, Mask2ImgPipeline, Text2MaskPipeline
from seggen_hf.hub.staging import stage_pipeline
from seggen_hf.pipelines import encode_condition

PROMPTS = ["a road with two cars", "a house on a meadow"]
NUM_LABELS = 7


@pytest.fixture(scope="module")
def codec():
    return ColormapCodec({i: f"label {i}" for i in range(NUM_LABELS)})


@pytest.fixture(scope="module")
def components(miniature_dir):
    base = StableDiffusionXLPipeline.from_pretrained(miniature_dir, use_safetensors=True, add_watermarker=False)
    names = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "scheduler")
    return {name: base.components[name] for name in names}


@pytest.fixture(scope="module")
def text2mask(components, codec):
    return quiet(Text2MaskPipeline(**components, colormap=codec.to_dict()))


@pytest.fixture(scope="module")
def mask2img(components, codec):
    torch.manual_seed(0)
    controlnet = ControlNetModel.from_unet(components["unet"], conditioning_embedding_out_channels=(8, 16, 32)).eval()
    with torch.no_grad():  # a fresh ControlNet adds nothing; this one must be seen to follow its map
        for block in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
            block.weight.normal_(std=0.5)
        controlnet.controlnet_cond_embedding.conv_out.weight.normal_(std=0.5)
    return quiet(Mask2ImgPipeline(**components, controlnet=controlnet, colormap=codec.to_dict()))


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline, *args, seed=0, **kwargs):
    kwargs = {"num_inference_steps": 2, "output_type": "pt", **kwargs}
    return pipeline(*args, generator=torch.Generator().manual_seed(seed), **kwargs)


def some_maps(codec, count=2, size=(32, 32), seed=0):
    rng = np.random.default_rng(seed)
    maps = np.kron(rng.integers(0, codec.num_labels, (count, 4, 4)), np.ones((size[0] // 4, size[1] // 4), dtype=int))
    maps[:, 0, 0] = codec.ignore_index
    return maps


def stage(pipeline, folder):
    """What a repository on the Hub holds."""
    pipeline.save_pretrained(folder.with_name(f"{folder.name}-saved"))
    return stage_pipeline(folder.with_name(f"{folder.name}-saved"), folder)


# Text2Mask


def test_text2mask_draws_maps_and_reads_them(text2mask, codec):
    out = draw(text2mask, PROMPTS, output_type="pil", max_color_distance=None)
    assert [image.mode for image in out.color_maps] == ["RGB", "RGB"] and out.color_maps[0].size == (32, 32)
    expected = codec.decode(out.color_maps)  # what is saved as an image reads the same
    for i in range(2):
        assert out.segmentation_maps[i].shape == (32, 32) and out.segmentation_maps[i].dtype == np.int64
        assert np.array_equal(out.segmentation_maps[i], expected.segmentation_map[i])
        assert np.array_equal(out.distances[i], expected.distance[i])


def test_text2mask_output_types_agree(text2mask):
    pil, arrays, tensors = (draw(text2mask, PROMPTS, output_type=kind) for kind in ("pil", "np", "pt"))
    assert arrays.color_maps.shape == (2, 32, 32, 3) and tensors.color_maps.shape == (2, 3, 32, 32)
    assert np.array_equal(np.stack(pil.segmentation_maps), arrays.segmentation_maps)
    assert np.array_equal(tensors.segmentation_maps.numpy(), arrays.segmentation_maps)
    assert np.array_equal(np.stack([np.asarray(image) for image in pil.color_maps]), np.rint(arrays.color_maps * 255))
    latents = draw(text2mask, PROMPTS, output_type="latent")
    assert latents.color_maps.shape[0] == 2 and latents.segmentation_maps is None and latents.distances is None
    as_tuple = draw(text2mask, PROMPTS, return_dict=False)
    assert torch.equal(as_tuple[0], tensors.color_maps) and torch.equal(as_tuple[1], tensors.segmentation_maps)


def test_distant_pixels_and_small_regions_are_cleaned(text2mask, codec):
    out = draw(text2mask, PROMPTS[0], max_color_distance=30.0)
    far = out.distances > 30
    assert far.any() and (out.segmentation_maps[far] == codec.ignore_index).all()
    merged = draw(text2mask, PROMPTS[0], max_color_distance=None, min_region_area=5).segmentation_maps
    expected = codec.decode(out.color_maps, None, 5).segmentation_map
    assert torch.equal(merged, expected)
    filled = draw(text2mask, PROMPTS[0], max_color_distance=30.0, fill_distance=2).segmentation_maps
    assert torch.equal(filled, codec.decode(out.color_maps, 30.0, 0, 2).segmentation_map)
    assert (filled != out.segmentation_maps).any() and (filled == out.segmentation_maps)[~far].all()


def test_stock_arguments_pass_through(text2mask):
    steps = []

    def watch(pipeline, step, timestep, inputs):
        steps.append(inputs["latents"].shape)
        return inputs

    out = draw(
        text2mask,
        PROMPTS,
        height=16,
        width=24,
        num_images_per_prompt=2,
        num_inference_steps=3,
        guidance_scale=3.0,
        guidance_rescale=0.7,
        negative_prompt="fog",
        callback_on_step_end=watch,
    )
    assert out.segmentation_maps.shape == (4, 16, 24) and len(steps) == 3
    channels, factor = text2mask.unet.config.in_channels, text2mask.vae_scale_factor
    latents = torch.randn(1, channels, 32 // factor, 32 // factor, generator=torch.Generator().manual_seed(1))
    one, two = (draw(text2mask, PROMPTS[0], latents=latents, seed=seed).color_maps for seed in (0, 1))
    assert torch.equal(one, two)
    guided, plain = (draw(text2mask, PROMPTS[0], guidance_scale=scale).color_maps for scale in (6.0, 1.0))
    assert not torch.allclose(guided, plain)


def test_prompt_embeddings_stand_for_the_prompt(text2mask):
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    embeddings = dict(zip(names, text2mask.encode_prompt(PROMPTS, device="cpu"), strict=True))
    assert torch.equal(draw(text2mask, **embeddings).color_maps, draw(text2mask, PROMPTS).color_maps)


def test_seeds_make_samples_whatever_the_batch(text2mask):
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    both = text2mask(PROMPTS, generator=generators, num_inference_steps=2, output_type="pt").color_maps
    second = draw(text2mask, PROMPTS[1], seed=6).color_maps
    assert torch.allclose(both[1], second[0], atol=1e-4)


def test_the_size_of_the_training_travels_with_the_codec(components, codec):
    pipeline = quiet(Text2MaskPipeline(**components, colormap=codec.to_dict() | {"height": 16, "width": 24}))
    assert pipeline.codec == codec and pipeline.trained_size == (16, 24)
    assert draw(pipeline, PROMPTS[0]).segmentation_maps.shape == (1, 16, 24)
    assert draw(pipeline, PROMPTS[0], height=32).segmentation_maps.shape == (1, 32, 24)


def test_pixels_that_are_no_numbers_are_ignored_at_distance_infinity(text2mask, codec, monkeypatch):
    whole = draw(text2mask, PROMPTS, max_color_distance=None)
    decode = text2mask.vae.decode

    def broken(*args, **kwargs):
        image = decode(*args, **kwargs)[0]
        image[1, 0, 2, 3] = float("nan")
        return (image,)

    monkeypatch.setattr(text2mask.vae, "decode", broken)
    out = draw(text2mask, PROMPTS, max_color_distance=None)
    assert out.segmentation_maps[1, 2, 3] == codec.ignore_index and out.distances[1, 2, 3] == torch.inf
    assert torch.equal(out.segmentation_maps[0], whole.segmentation_maps[0]) and out.color_maps.isfinite().all()
    assert out.distances.isinf().sum() == 1


def test_text2mask_refuses_before_it_draws(text2mask, components):
    for wrong, message in (
        ({"output_type": "image"}, "pil, np, pt or latent"),
        ({"max_color_distance": -1}, "max_color_distance"),
        ({"min_region_area": -1}, "min_region_area"),
        ({"fill_distance": -1}, "fill_distance"),
    ):
        with pytest.raises(ValueError, match=message):
            draw(text2mask, PROMPTS, **wrong)
    with pytest.raises(TypeError, match="num_inference_step"):
        text2mask(PROMPTS, num_inference_step=2)
    with pytest.raises(ValueError, match="colormap=codec.to_dict"):
        draw(Text2MaskPipeline(**components), PROMPTS)


# Mask2Img


def test_mask2img_follows_its_map(mask2img, codec):
    first, second = some_maps(codec)
    images = [draw(mask2img, PROMPTS[0], one).images for one in (first, second)]
    assert images[0].shape == (1, 3, 32, 32)
    assert not torch.allclose(images[0], images[1], atol=1e-3)


def test_every_form_of_a_map_makes_the_same_image(mask2img, codec):
    segmentation_map = some_maps(codec, 1)[0]
    expected = draw(mask2img, PROMPTS[0], segmentation_map).images
    palette = Image.fromarray(segmentation_map.astype(np.uint8), mode="P")
    palette.putpalette([255 - value // 3 for value in range(768)])  # colors that mean nothing: the indices count
    rgb = codec.encode(segmentation_map)
    forms = {
        "uint8": segmentation_map.astype(np.uint8),
        "tensor": torch.from_numpy(segmentation_map),
        "batch": segmentation_map[None],
        "list": [segmentation_map],
        "L": Image.fromarray(segmentation_map.astype(np.uint8)),
        "I;16": Image.fromarray(segmentation_map.astype(np.uint16)),
        "P": palette,
        "RGB": Image.fromarray(rgb),
        "color array": rgb,
        "color tensor": torch.from_numpy(rgb).permute(2, 0, 1).float() / 255,
        "LA": Image.fromarray(segmentation_map.astype(np.uint8)).convert("LA"),
        "PA": palette.convert("PA"),
        "RGBA": Image.fromarray(rgb).convert("RGBA"),
        "encoded tensor": codec.encode(torch.from_numpy(segmentation_map)),
        "color batch": torch.from_numpy(rgb[None]).permute(0, 3, 1, 2),
    }
    for name, form in forms.items():
        assert torch.equal(draw(mask2img, PROMPTS[0], form).images, expected), name


def test_the_controlnet_sees_what_training_sees(mask2img, codec):
    """The stock image processor must not touch the condition on its way."""
    segmentation_map = some_maps(codec, 1, (48, 40))[0]
    seen = []
    hook = mask2img.controlnet.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["controlnet_cond"]), with_kwargs=True
    )
    draw(mask2img, PROMPTS[0], segmentation_map, height=32, width=24, guidance_scale=1.0)
    hook.remove()
    assert torch.equal(seen[0], encode_condition(codec, segmentation_map, 32, 24))


def test_one_map_serves_many_captions_and_many_maps_many(mask2img, codec):
    maps = some_maps(codec)
    assert draw(mask2img, PROMPTS, maps[0], output_type="np").images.shape == (2, 32, 32, 3)
    assert len(draw(mask2img, PROMPTS, maps, num_images_per_prompt=2, output_type="pil").images) == 4
    resized = draw(mask2img, PROMPTS, [maps[0], maps[1][:20, :28]], height=16, width=16).images
    assert resized.shape == (2, 3, 16, 16)
    assert draw(mask2img, PROMPTS[0], maps[0][:27, :30]).images.shape == (1, 3, 24, 28)
    assert draw(mask2img, PROMPTS[0], maps[0], return_dict=False)[0].shape == (1, 3, 32, 32)
    with pytest.raises(ValueError, match="give the height and width"):
        draw(mask2img, PROMPTS, [maps[0], maps[1][:16]])


def test_what_text2mask_drew_can_be_passed_on(text2mask, mask2img):
    drawn = draw(text2mask, PROMPTS, output_type="pil")
    assert draw(mask2img, PROMPTS, drawn.segmentation_maps).images.shape == (2, 3, 32, 32)
    with pytest.raises(ValueError, match="allow noise with max_color_distance"):
        draw(mask2img, PROMPTS, drawn.color_maps)
    by_ids, by_colors = (
        draw(mask2img, PROMPTS, maps, **more).images
        for maps, more in ((drawn.segmentation_maps, {}), (drawn.color_maps, {"max_color_distance": 40.0}))
    )
    assert torch.equal(by_ids, by_colors)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, "needs segmentation_map"),
        (np.full((32, 32), NUM_LABELS), rf"ids \[{NUM_LABELS}\]"),
        (np.zeros((32, 32)), "neither label ids"),
        (np.zeros((32, 32, 4), dtype=int)[0, 0], "neither label ids"),
        (np.full((32, 32, 3), 77, dtype=np.uint8), "none of this pipeline's colors"),
        (np.zeros((32, 32), dtype=bool), "neither label ids"),
        (Image.new("1", (32, 32)), "PIL mode 1"),
        (torch.zeros(3, 32, 32, dtype=torch.uint8) + 1, "maps of label ids as a list"),
        ([], "empty list"),
        (np.zeros((2, 32, 32), dtype=int), "2 maps for 1 captions"),
        (np.zeros((3, 3), dtype=int), "height and width are 0 and 0"),
    ],
)
def test_what_is_no_map_is_refused(mask2img, wrong, message):
    with pytest.raises(ValueError, match=message):
        draw(mask2img, PROMPTS[0], wrong)


def test_sizes_that_the_vae_cannot_make_are_refused(mask2img, codec):
    with pytest.raises(ValueError, match="height and width are 30 and 32; Mask2ImgPipeline makes multiples of 4"):
        draw(mask2img, PROMPTS[0], some_maps(codec, 1)[0], height=30, width=32)


def test_mask2img_refuses_arguments_that_would_be_swallowed(mask2img, codec):
    for name in ("guidance_rescale", "image", "num_inference_step"):
        with pytest.raises(TypeError, match=name):
            draw(mask2img, PROMPTS[0], some_maps(codec, 1)[0], **{name: 1})


# Saving, loading, converting


@pytest.mark.parametrize("kind", ["text2mask", "mask2img"])
def test_a_saved_pipeline_is_the_same_and_saves_the_same(kind, codec, tmp_path, request):
    pipeline = request.getfixturevalue(kind)
    args = (PROMPTS,) if kind == "text2mask" else (PROMPTS, some_maps(codec))
    pipeline.save_pretrained(tmp_path / "one")
    again = quiet(type(pipeline).from_pretrained(tmp_path / "one", use_safetensors=True))
    assert again.codec == codec and again.watermark is None
    assert torch.equal(draw(again, *args)[0], draw(pipeline, *args)[0])
    again.save_pretrained(tmp_path / "two")
    indices = [json.loads((tmp_path / name / "model_index.json").read_text()) for name in ("one", "two")]
    for index in indices:
        index.pop("_name_or_path", None)
        assert not any(
            isinstance(v, list) and (not v or not isinstance(v[0], (str, type(None)))) for v in index.values()
        )
    assert indices[0] == indices[1]
    assert not list(tmp_path.rglob("*.bin"))


@pytest.mark.parametrize("kind", ["text2mask", "mask2img"])
def test_an_installed_class_loads_our_repositories_without_remote_code(kind, codec, tmp_path, request):
    pipeline = request.getfixturevalue(kind)
    folder = stage(pipeline, tmp_path / "repo")
    loaded = type(pipeline).from_pretrained(folder, use_safetensors=True)
    assert type(loaded) is type(pipeline) and loaded.codec == codec
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(folder)


@pytest.mark.slow
def test_staged_folders_run_where_seggen_hf_is_not_importable(text2mask, mask2img, codec, tmp_path):
    """Both in one process, in either order, with output equal to the installed classes'."""
    stage(text2mask, tmp_path / "text2mask")
    stage(mask2img, tmp_path / "mask2img")
    maps = some_maps(codec)
    np.save(tmp_path / "maps.npy", maps)
    script = """
        import shutil, sys
        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "seggen_hf":
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, Absent())
        import numpy as np, torch
        from diffusers import DiffusionPipeline
        for order in (["text2mask", "mask2img"], ["mask2img", "text2mask"]):
            shutil.rmtree(".hf-home", ignore_errors=True)
            for name in [name for name in sys.modules if name.startswith("diffusers_modules")]:
                del sys.modules[name]
            pipes = {kind: DiffusionPipeline.from_pretrained(kind, trust_remote_code=True) for kind in order}
            def draw(kind, *args):
                generator = torch.Generator().manual_seed(0)
                return pipes[kind](PROMPTS, *args, generator=generator, num_inference_steps=2, output_type="pt")
            out = draw("text2mask")
            images = draw("mask2img", np.load("maps.npy")).images
            np.savez(order[0] + ".npz", maps=out.segmentation_maps, colors=out.color_maps, images=images)
        assert not any(name.split(".")[0] == "seggen_hf" for name in sys.modules)
    """.replace("PROMPTS", repr(PROMPTS))
    run_python(["-c", textwrap.dedent(script)], client_environment(OMP_NUM_THREADS=1), tmp_path)
    drawn, images = draw(text2mask, PROMPTS), draw(mask2img, PROMPTS, maps).images
    for first in ("text2mask", "mask2img"):
        result = np.load(tmp_path / f"{first}.npz")
        assert np.array_equal(result["maps"], drawn.segmentation_maps)
        assert np.allclose(result["colors"], drawn.color_maps, atol=1e-5)
        assert np.allclose(result["images"], images, atol=1e-5)


def test_from_pipe_shares_weights_and_keeps_their_dtype(components, codec):
    base = StableDiffusionXLPipeline(**components, add_watermarker=False)
    pipeline = Text2MaskPipeline.from_pipe(base, colormap=codec.to_dict())
    assert pipeline.unet is base.unet and pipeline.codec == codec
    half = StableDiffusionXLPipeline.from_pipe(base, unet=type(base.unet).from_config(base.unet.config)).to(
        torch.float32
    )
    try:
        half.to(torch.bfloat16)
        assert Text2MaskPipeline.from_pipe(half, colormap=codec.to_dict()).unet.dtype == torch.bfloat16
        assert half.unet.dtype == torch.bfloat16
    finally:
        half.to(torch.float32)
    assert set(Text2MaskPipeline(**pipeline.components).components) == set(pipeline.components)


def test_sdxl_sizes_are_read_from_the_components(text2mask):
    factor = 2 ** (len(text2mask.vae.config.block_out_channels) - 1)
    assert text2mask.vae_scale_factor == factor == 4
    assert draw(text2mask, PROMPTS[0]).color_maps.shape[-1] == text2mask.unet.config.sample_size * factor
