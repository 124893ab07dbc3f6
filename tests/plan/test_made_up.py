"""Models of a recipe's own sizes, and records for them."""

import torch

from seggen_hf.config import Text2MaskConfig
from seggen_hf.plan.made_up import random_family


def test_a_base_with_few_words_reads_every_caption(miniature_dir):
    """A card would not tell what is wrong with an id beyond the vocabulary: its process ends."""
    base = random_family(Text2MaskConfig(base_model=str(miniature_dir)), torch.device("cpu")).base
    assert base.text_encoder.get_input_embeddings().num_embeddings >= len(base.tokenizer)
    embeds, _, pooled, _ = base.encode_prompt(["a photo of a refrigerator", ""], do_classifier_free_guidance=True)
    assert embeds.isfinite().all() and pooled.isfinite().all()
