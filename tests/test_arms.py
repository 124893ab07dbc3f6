import pytest

from seggen_hf.arms import shown_arm
from seggen_hf.config import load_recipe


@pytest.mark.parametrize(
    ("arms", "shown"),
    [
        (["real", "imgsyn", "synthetic"], "synthetic"),
        (["real", "synthetic", "synthetic-copy-paste"], "synthetic-copy-paste"),
        (["real", "masksyn"], "masksyn"),
        (["real", "imgsyn-copy-paste", "imgsyn"], "imgsyn-copy-paste"),
        (["style-augmentation", "real"], "real"),
        (["renderer", "style-augmentation"], "renderer"),  # what there is
    ],
)
def test_a_segmenter_with_synthetic_data_is_shown_first(arms, shown):
    assert shown_arm(load_recipe("quickstart", [f"evaluation.arms={arms}"])) == shown
