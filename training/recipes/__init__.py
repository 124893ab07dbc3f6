"""Recipes of `seggen run`, one YAML file each; installed as `seggen_hf.recipes`."""
