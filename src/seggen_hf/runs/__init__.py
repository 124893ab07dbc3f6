"""A run: its recipe's stages, one after the other, their markers, scores, report and cards."""
