"""The unit-size FLUX.2-klein: stock classes, the layout of the published base, the same weights of the same seed."""

import torch
from diffusers import DiffusionPipeline, Flux2KleinPipeline

from seggen_hf.miniature.flux2 import build_flux2_miniature, build_qwen_tokenizer


def test_the_folder_is_read_by_the_stock_pipeline_and_draws(flux2_dir):
    pipeline = DiffusionPipeline.from_pretrained(flux2_dir, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    assert type(pipeline) is Flux2KleinPipeline
    images = pipeline(
        prompt=["a road with two cars", "a house"],
        height=64,
        width=80,
        num_inference_steps=1,
        max_sequence_length=32,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).images
    assert images.shape == (2, 3, 64, 80) and images.isfinite().all()
    assert (images[0] - images[1]).abs().max() > 0.01


def test_the_same_seed_makes_the_same_weights_and_leaves_the_caller_s_random_state():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (build_flux2_miniature(["road"], seed=seed)["transformer"] for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.proj_out.weight, again.proj_out.weight)
    assert not torch.equal(first.proj_out.weight, other.proj_out.weight)


def test_its_words_are_one_token_each_and_a_message_has_the_chat_s_form():
    tokenizer = build_qwen_tokenizer(["road", "cars"])
    assert len(tokenizer(" road cars")["input_ids"]) == 2 and len(tokenizer(" xyz")["input_ids"]) == 4
    message = [{"role": "user", "content": "a road"}]
    text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert text == "<|im_start|>user\na road<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
