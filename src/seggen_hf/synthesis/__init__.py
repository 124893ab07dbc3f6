"""Synthetic records from the trained generators."""

from .agreement_filter import filter_records
from .engine import synthesize
from .shards import load_synthetic, stream_synthetic

__all__ = ["filter_records", "load_synthetic", "stream_synthetic", "synthesize"]
