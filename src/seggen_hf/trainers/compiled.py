"""Compilation of the blocks that a network repeats: one compilation serves them all."""

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.transformers.transformer_flux2 import Flux2SingleTransformerBlock, Flux2TransformerBlock

_BLOCKS = (BasicTransformerBlock, Flux2TransformerBlock, Flux2SingleTransformerBlock)


def compile_blocks(network: torch.nn.Module, **options) -> int:
    """Have each transformer block of `network` compiled when it first runs; `options` are those of `torch.compile`.

    The modules stay the same objects under the same names, so that checkpoints and artefacts do too. SDXL's residual
    blocks come in more shapes than the compiler keeps for one piece of code, its 70 transformer blocks in two.

    Returns: the number of blocks.
    """
    blocks = [module for module in network.modules() if isinstance(module, _BLOCKS)]
    for block in blocks:
        block.compile(**options)
    return len(blocks)
