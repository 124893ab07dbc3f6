"""Synthetic records from the trained generators."""

from .engine import synthesize
from .shards import load_synthetic

__all__ = ["load_synthetic", "synthesize"]
