"""A page in the browser: caption, map, image, the segmenter's answer, and a data set of what people keep."""
