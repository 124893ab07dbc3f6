"""The demo as a person uses it, in headless Chromium."""

import json

import pytest
from datasets import load_dataset, load_from_disk

from seggen_hf import load_synthetic
from seggen_hf.data.schema import read_image, read_map

EVIL = "<img src=x onerror=\"document.title='owned'\"> a tree by the sea"


def changed(page, selector: str, before: str | None) -> str:
    """The address of a picture once it is another than `before`."""
    page.wait_for_function(
        "([s, b]) => { const i = document.querySelector(s + ' img'); return i && i.complete && i.src !== b }",
        arg=[selector, before],
    )
    return page.get_attribute(f"{selector} img", "src")


def test_from_a_caption_to_a_decision_in_the_data_set(demo, page, tiny_run, tmp_path):
    page.goto(demo.url)
    first_caption = page.input_value("#caption textarea")
    assert first_caption == load_from_disk(tiny_run / "captions")[0]["caption"]
    page.fill("#caption textarea", EVIL)
    page.click("#draw")
    drawn = changed(page, "#map", None)
    legend = page.inner_text("#legend")
    names = set(json.loads((demo.out / "id2label.json").read_text()).values()) | {"void"}
    shown = {line.rsplit(" ", 1)[0] for line in legend.splitlines() if line}
    assert shown and shown <= names

    # Repaint the region in the top left corner as something that is not there.
    label = sorted(names - shown - {"void"})[0]
    page.click("#label input")
    page.fill("#label input", label)
    page.keyboard.press("Enter")
    box = page.locator("#map img").bounding_box()
    page.mouse.click(box["x"] + 3, box["y"] + 3)
    repainted = changed(page, "#map", drawn)
    page.wait_for_function("name => document.querySelector('#legend').innerText.includes(name)", arg=label)
    page.click("#undo")
    undone = changed(page, "#map", repainted)
    assert label not in page.inner_text("#legend")
    page.mouse.click(box["x"] + 3, box["y"] + 3)
    changed(page, "#map", undone)

    page.click("#paint")
    changed(page, "#image", None)
    changed(page, "#answer", None)
    page.wait_for_function("document.querySelector('#verdict').innerText.includes('% of the pixels')")
    before = len(list((demo.out / "data").glob("*.parquet"))) if (demo.out / "data").is_dir() else 0
    page.click("#reject")
    page.wait_for_function("document.querySelector('#status').innerText.startsWith('Rejected')")
    page.click("#reject")  # twice is once
    page.wait_for_timeout(300)
    assert page.title() == "SegGen"  # nothing that was typed ran

    rows = load_dataset(str(demo.out), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == before + 1
    row = rows[-1]
    assert row["decision"] == "reject" and row["repainted"] and row["caption"] == EVIL
    labels = json.loads((demo.out / "id2label.json").read_text())
    assert labels[str(read_map(row["segmentation_map"])[0, 0])] == label
    assert read_image(row["image"]).shape[:2] == read_map(row["segmentation_map"]).shape

    with pytest.raises(ValueError, match="were rejected"):
        load_synthetic(demo.out)
    page.click("#keep")
    page.wait_for_function("document.querySelector('#status').innerText.startsWith('Kept. 1 kept and 0 rejected')")
    assert load_synthetic(demo.out)["caption"][:] == [EVIL]


def test_what_is_missing_is_told_on_the_page(demo, page):
    page.goto(demo.url)
    page.click("#paint")
    page.wait_for_selector("text=Draw a map first")
    page.click("#keep")
    page.wait_for_selector("text=Paint the image first")
