"""Synthetic records from the trained generators."""

from .engine import synthesize
from .filter import filter_records
from .shards import load_synthetic, stream_synthetic

__all__ = ["filter_records", "load_synthetic", "stream_synthetic", "synthesize"]
