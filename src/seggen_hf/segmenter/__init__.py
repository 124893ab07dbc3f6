"""The segmenter: built, trained with its loss, and asked for maps, segments and scores."""
