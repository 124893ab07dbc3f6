"""The words that choose codings and conditions. Nothing is imported: settings are checked by them, without torch."""

CODINGS = ("shades", "edges")  # of segments in a color map; see `PanopticCodec`
CONDITIONINGS = ("rgb", "rgb_edges", "bits")  # of a ControlNet; see `encode_condition`
