"""Synthetic records from the trained generators."""

from .engine import synthesize
from .shards import load_synthetic, stream_synthetic

__all__ = ["load_synthetic", "stream_synthetic", "synthesize"]
