"""Synthetic records from the trained generators."""
