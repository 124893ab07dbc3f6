import numpy as np
from PIL import Image

from seggen_hf.labels import LabelSet
from seggen_hf.pipelines import ColormapCodec
from seggen_hf.synthesis.preview import preview, preview_early, shown_places


def test_samples_with_something_to_see_are_shown_from_all_places():
    counts = [1, 1, 3, 1, 2, 2, 1, 5, 1, 2]
    assert shown_places(counts, 3) == [2, 5, 9] and shown_places(counts, 9) == [2, 4, 5, 7, 9]
    assert shown_places([1, 1, 1], 2) == [0, 2] and shown_places([], 2) == []


def test_early_pictures_give_way_to_one_of_all(made, scene_records, tmp_path):
    rows, folder = made
    codec = ColormapCodec(LabelSet.from_file(folder / "labels.json"))
    imgsyn = [row for row in rows if row["kind"] == "imgsyn"]
    preview_early(tmp_path, "imgsyn", imgsyn, codec, scene_records)
    (early,) = tmp_path.iterdir()
    before = early.read_bytes()
    preview_early(tmp_path, "imgsyn", imgsyn[:1], codec, scene_records)
    assert early.name == "preview-imgsyn.png" and early.read_bytes() == before  # that of the first shard stays
    preview(tmp_path, ["imgsyn", "masksyn"], rows, codec, scene_records)
    assert [path.name for path in tmp_path.iterdir()] == ["preview.png"]
    assert np.asarray(Image.open(tmp_path / "preview.png")).std() > 10
