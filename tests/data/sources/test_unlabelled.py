"""Images without masks are read from wherever they lie, with the captions that lie beside them."""

import json

import pytest
import real_files as make

from seggen_hf.config import DataConfig
from seggen_hf.data.schema import read_image
from seggen_hf.data.sources.unlabelled import load_unlabelled


def read(name, source="scenes", **settings):
    return load_unlabelled(DataConfig(dataset_name=str(source), unlabelled=str(name), **settings))


def captions(records) -> dict[str, str | None]:
    return dict(zip(records["image_id"][:], records["caption"][:], strict=True))


@pytest.mark.parametrize(
    ("folder", "file", "text"),
    [
        ("images", "captions.json", json.dumps({"a": "one", "x/b.png": "two"})),
        ("images", "captions.jsonl", '{"image": "a.jpg", "caption": "one"}\n\n{"image": "x/b", "caption": "two"}\n'),
        (".", "metadata.jsonl", '{"file_name": "a.jpg", "text": "one"}\n{"file_name": "b.png", "text": "two"}'),
    ],
)
def test_a_folder_and_its_captions(tmp_path, folder, file, text):
    make.picture(tmp_path / folder / "a.jpg", 1)
    make.picture(tmp_path / folder / "x/b.png", 2)
    make.picture(tmp_path / folder / "x/c.png", 3)
    (tmp_path / file).write_text(text)
    records = read(tmp_path)
    assert captions(records) == {"a": "one", "x/b": "two", "x/c": None}
    assert read_image(records[1]["image"]).shape == (*make.SIZE, 3)
    assert list(captions(read(tmp_path, max_unlabelled=1))) == ["a"]


def test_a_split_of_the_data_set_and_its_masks_are_not_read(tmp_path):
    make.folder(tmp_path)
    make.folder(tmp_path, images=["u.jpg", "v.jpg"], masks=["u.png"], split="more")
    (tmp_path / "more/masks/u.png").write_bytes(b"none")
    assert captions(read("more", tmp_path)) == {"u": None, "v": None}


def test_scenes_have_a_split_for_it():
    records = read("unlabelled", max_unlabelled=3)
    assert (
        len(records) == 3 and all(records["caption"][:]) and records.column_names == ["image", "caption", "image_id"]
    )


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "holds no images"),
        ({"a.jpg": b""}, "a.jpg: the file is empty"),
        ({"a.jpg": b"text"}, "a.jpg: the file is not an image"),
        ({"a.jpg": None, "a.png": None}, "has the name of"),
        ({"a.jpg": None, "captions.jsonl": b'{"file_name": "a.jpg"}'}, "captions.jsonl, line 1: it must be"),
        ({"a.jpg": None, "captions.jsonl": b"nothing"}, "captions.jsonl, line 1: it must be"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path, files, told):
    for name, content in files.items():
        if content is None:
            make.picture(tmp_path / name)
        else:
            (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=told):
        read(tmp_path)


def test_links_that_lead_elsewhere_are_refused(tmp_path):
    make.picture(tmp_path / "elsewhere/a.jpg")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.jpg").symlink_to(tmp_path / "elsewhere/a.jpg")
    with pytest.raises(ValueError, match="a file outside the data set"):
        read(tmp_path / "images")
    assert len(read(tmp_path / "images", media_roots=[str(tmp_path / "elsewhere")])) == 1


def test_a_name_that_is_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no folder, no split of .* and no Hub id"):
        read("/no/such/folder")
