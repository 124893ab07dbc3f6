"""Templates of model and data set cards; `seggen_hf.cards` fills them from the facts of a run."""
