"""Readers against slow and simple ones, on whatever hypothesis makes up."""

import io
from pathlib import Path

import numpy as np
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as mask_utils

from seggen_hf.config import load_recipe
from seggen_hf.data.schema import encode_panoptic, read_panoptic
from seggen_hf.data.sources.coco_json import CocoImage, Notes, key_of
from seggen_hf.data.sources.folder import match_masks
from seggen_hf.data.sources.instance_painter import InstancePainter, read_mask
from seggen_hf.data.sources.map_decoder import MapDecoder

HEIGHT, WIDTH = 12, 17
IMAGE = CocoImage("0", "a.png", Path("nowhere/a.png"), "a", (HEIGHT, WIDTH))
MASKS = arrays(bool, (HEIGHT, WIDTH))


def runs(mask: np.ndarray) -> list[int]:
    """Uncompressed COCO counts, by hand."""
    counts, value, length = [], False, 0
    for pixel in mask.ravel(order="F"):
        if pixel != value:
            counts.append(length)
            value, length = bool(pixel), 0
        length += 1
    return [*counts, length]


def rle(mask: np.ndarray) -> dict:
    return {"size": [HEIGHT, WIDTH], "counts": runs(mask)}


@given(MASKS)
def test_both_forms_of_an_rle_are_the_mask(mask):
    compressed = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    text = compressed["counts"].decode()
    for counts in (runs(mask), text, compressed["counts"]):
        found = read_mask({"size": [HEIGHT, WIDTH], "counts": counts}, HEIGHT, WIDTH)
        assert (found is None) == (not mask.any())
        assert found is None or np.array_equal(mask_utils.decode(found).astype(bool), mask)


@given(st.lists(st.tuples(MASKS, st.sampled_from([3, 7]), st.booleans()), max_size=5))
def test_instances_are_painted_smaller_over_larger_and_all_over_crowds(given_masks):
    annotations = [
        {"id": i, "category_id": category, "iscrowd": int(crowd), "segmentation": rle(mask)}
        for i, (mask, category, crowd) in enumerate(given_masks)
    ]
    found, segments = InstancePainter({3: 0, 7: 1}, 2, {0, 1}).paint(IMAGE, annotations, Notes(Path("x.json")))
    expected = np.full((HEIGHT, WIDTH, 2), -1)  # (number of the annotation, label)
    expected[..., 1] = 2
    order = sorted(range(len(given_masks)), key=lambda i: (not given_masks[i][2], -given_masks[i][0].sum(), i))
    for i in order:
        mask, category, _ = given_masks[i]
        for y, x in np.argwhere(mask):
            expected[y, x] = i, {3: 0, 7: 1}[category]
    labels = {segment["id"]: segment["category_id"] for segment in segments}
    assert np.array_equal(np.vectorize(labels.get)(found), expected[..., 1])
    pairs = {(int(a), int(b)) for a, b in zip(found.ravel(), expected[..., 0].ravel(), strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})  # one segment an annotation


@given(arrays(np.int32, (HEIGHT, WIDTH), elements=st.sampled_from([0, 1, 9, 255, 256, 65535, 65536, 2**24 - 1])))
def test_panoptic_maps_are_read_as_a_loop_reads_them(ids):
    label_of = {1: 0, 9: 1, 255: 0, 256: 2, 65535: 1, 65536: 2, 2**24 - 1: 0}
    segments = [{"id": i, "category_id": label_of[i] + 10} for i in label_of]
    decoder = MapDecoder(3, {10: 0, 11: 1, 12: 2}, panoptic=True, things=(2,))
    encoded = encode_panoptic(ids)
    assert np.array_equal(read_panoptic(encoded), ids)
    picture = Image.open(io.BytesIO(encoded["bytes"]))
    found = decoder.decode(picture, segments)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            assert found[y, x] == (255 if ids[y, x] == 0 else label_of[int(ids[y, x])])


STEMS = st.sets(st.text("abAB09", min_size=1, max_size=4), min_size=1, max_size=6)


@given(STEMS, st.sampled_from(["_mask", "_labelIds", "-seg", ".jpg", "_a", "_0"]))
def test_masks_with_one_ending_are_those_of_their_images(stems, ending):
    images = {stem: Path(f"images/{stem}.jpg") for stem in stems}
    masks = {stem + ending: Path(f"masks/{stem}{ending}.png") for stem in stems}
    found, notes, problems = match_masks(images, masks, Path("masks"), None)
    assert found == {stem: masks[stem + ending] for stem in stems} and len(notes) == 1 and not problems
    named, notes, problems = match_masks(images, masks | {"other": Path("o.png")}, Path("masks"), ending)
    assert named == found and not notes and not problems
    same, notes, _ = match_masks(images, images, Path("masks"), None)
    assert same == images and not notes


@given(st.integers(0, 2**40), st.sampled_from([int, float, str, lambda n: f" {n} "]))
def test_an_image_id_is_the_same_in_every_form(number, form):
    assert key_of(form(number)) == str(number)


@settings(max_examples=50)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "max_train_steps": st.integers(1, 10**6),
            "learning_rate": st.floats(1e-9, 1.0),
            "mixed_precision": st.sampled_from(["no", "bf16", "fp16"]),
            "random_flip": st.booleans(),
            "seed": st.integers(0, 2**32 - 1),
            "lora_targets": st.lists(st.text("abc_", min_size=1), min_size=1, max_size=3),
        },
    )
)
def test_a_recipe_holds_what_is_written(tmp_path_factory, values):
    file = tmp_path_factory.mktemp("recipe") / "mine.yaml"
    file.write_text(yaml.safe_dump({"text2mask": values}))
    recipe = load_recipe(file)
    assert {name: getattr(recipe.text2mask, name) for name in values} == values
    quoted = [f"text2mask.{name}='{value}'" for name, value in values.items() if type(value) in (int, float)]
    assert load_recipe(file, quoted) == recipe
