"""Torch modules: moved, made from a config, and whether a file holds all of their weights."""
