"""Templates of model and data set cards; `seggen_hf.runs.cards` fills them from the facts of a run."""
