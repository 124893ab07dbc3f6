import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel

from seggen_hf.miniature.architecture import build_miniature, build_tokenizer, resolve_base


def test_known_words_are_single_tokens_and_others_fall_apart_into_letters():
    tokenizer = build_tokenizer(["a red car", "two cars , and people"])
    assert tokenizer.convert_ids_to_tokens(tokenizer("Two red cars, zebra")["input_ids"])[1:-1] == [
        "two</w>", "red</w>", "cars</w>", ",</w>", "z", "e", "b", "r", "a</w>",
    ]  # fmt: skip


def test_the_tokenizer_depends_on_the_set_of_words_only():
    first, second = build_tokenizer(["car boat", "tree"]), build_tokenizer(["tree", "boat", "car", "car"])
    assert first.get_vocab() == second.get_vocab()


def test_a_saved_miniature_is_an_sdxl_pipeline_and_draws(miniature_dir):
    pipeline = StableDiffusionXLPipeline.from_pretrained(miniature_dir, use_safetensors=True)
    assert isinstance(pipeline.unet, UNet2DConditionModel) and isinstance(pipeline.vae, AutoencoderKL)
    assert pipeline.unet.config.addition_embed_type == "text_time"
    images = [
        pipeline(
            "a street", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="np"
        ).images
        for _ in range(2)
    ]
    assert images[0].shape == (1, 32, 32, 3)
    assert (images[0] == images[1]).all()


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (build_miniature("unit", seed=3)["unet"].state_dict() for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_an_unknown_size_is_refused_and_other_bases_pass_through():
    with pytest.raises(ValueError, match="quickstart"):
        build_miniature("huge")
    assert resolve_base("someone/sdxl") == "someone/sdxl"
