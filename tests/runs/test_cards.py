"""Whatever the labels and captions of a data set are, a card's code runs, and its text stays text."""

import ast
import re

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image

from seggen_hf.config import SynthesisConfig
from seggen_hf.hub.space import app_source
from seggen_hf.labels import LabelSet
from seggen_hf.pictures.cards import draw_legend
from seggen_hf.pictures.markdown import cell, code_span, literal, one_line
from seggen_hf.pipelines import ColormapCodec
from seggen_hf.runs.cards import RunCards

REPOS = {
    name: f"seggen/tiny-{name}"
    for name in (
        "text2mask",
        "mask2img",
        "lora",
        "mask2img-lora",
        "controlnet",
        "controlnet-lora",
        "segmenter-synthetic",
        "dataset",
    )
}
HOSTILE = (
    "sky\nimport os; os.remove('x')", 'a"); import os  #', "```\n\n# title\n```python\n1/0", "\\", "'", '"""', "a|b|c",
    "<script>alert(1)</script>", "[x](http://evil)", "![x](y.png)", "*a* _b_ `c` ~~d~~ &lt; $e$", "\u2028x\x85y\r",
    "\n---\n",    "{{ 7 * 7 }} {% raw %}", "# a", "é 文 😀", "<!-- end of round -->", "\x00\x1b[31m", "{settings}",
)  # fmt: skip
TEXT = st.sampled_from(HOSTILE) | st.text()
MARKDOWN = MarkdownIt("commonmark").enable("table")


def make_cards(cards: RunCards, names: list[str], caption: str, dataset: str) -> dict[str, str]:
    colors = [(i, 7, 9) for i in range(len(names))]
    cards.shared |= {"caption": caption, "dataset": dataset, "label_names": names, "is_builtin": False}
    cards.shared["labels"] = [
        {"id": i, "name": name, "isthing": i == 0, "color": color}
        for i, (name, color) in enumerate(zip(names, colors, strict=True))
    ]
    pictures = ("labels.png", "samples.png", "example.png")
    kinds = {"lora": "text2mask", **dict.fromkeys(("mask2img-lora", "controlnet", "controlnet-lora"), "mask2img")}
    made = {name: cards.pipeline(name, pictures) for name in ("text2mask", "mask2img")}
    made |= {name: cards.pipeline(kind, pictures, name) for name, kind in kinds.items()}
    made["segmenter"] = cards.segmenter("synthetic", 0, pictures)
    made["dataset"] = cards.dataset(pictures, [{"config_name": "round-0", "data_files": "x"}])
    return made


def outline(source: str, caption: str) -> str:
    """The syntax tree of a snippet, with CAPTION for the caption as one literal."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value == caption:
            node.value = "CAPTION"
    return ast.dump(tree)


def shape(text: str) -> list:
    """Block by block what Markdown makes of a card; in a line of labels, every child."""
    return [(token.type, token.tag, token.level) for token in MARKDOWN.parse(text)]


@pytest.fixture(scope="module")
def cards(tiny_run):
    return RunCards(tiny_run, REPOS)


@pytest.fixture(scope="module")
def plain(cards):
    """Cards of two labels, of which nothing is to be feared."""
    return make_cards(cards, ["sky", "road", "car"], "a plain caption", "street")


@pytest.mark.slow
@settings(deadline=None, max_examples=15, derandomize=True)
@given(st.tuples(TEXT, TEXT, TEXT), TEXT, TEXT.filter(one_line))
@example(("a", "b", "c"), HOSTILE[0], HOSTILE[2])
@example((HOSTILE[0], HOSTILE[1], HOSTILE[2]), HOSTILE[1], HOSTILE[12])
def test_any_label_and_caption_leaves_a_card_as_it_is(cards, plain, names, caption, dataset):
    found = make_cards(cards, list(names), caption, dataset)
    for kind, text in found.items():
        (header, body), (header_known, body_known) = (card.split("\n---\n", 1) for card in (text, plain[kind]))
        snippets, known = (re.findall(r"```python\n(.*?)```", card, re.DOTALL) for card in (body, body_known))
        assert [outline(s, caption) for s in snippets] == [outline(s, "a plain caption") for s in known], kind
        if kind not in ("segmenter", "dataset"):
            assert "'CAPTION'" in outline(snippets[0], caption)
        if kind == "segmenter":  # its results name the data
            values, known = yaml.safe_load(header.strip("-")), yaml.safe_load(header_known.strip("-"))
            for result in values["model-index"][0]["results"]:
                assert result["dataset"].pop("name") == result["dataset"].pop("type") == dataset
            for result in known["model-index"][0]["results"]:
                del result["dataset"]["name"], result["dataset"]["type"]
            assert values == known
        else:
            assert header == header_known, kind
        assert shape(body) == shape(body_known), kind
        tokens = MARKDOWN.parse(body)
        rows = [token.children for token in tokens if token.type == "inline" and token.level == 4]
        shown = ["".join(child.content for child in row) for row in rows if all(c.type[:4] == "text" for c in row)]
        for name in names:
            assert one_line(name) in shown, (kind, name)


@settings(derandomize=True)
@given(TEXT)
def test_text_in_code_and_in_markdown_is_what_it_was(text):
    source = literal(text)
    assert ast.literal_eval(source) == text and "`" not in source and len(source.splitlines()) == 1
    for shown, kinds in ((cell(text), {"text", "text_special"}), (code_span(text), {"text", "code_inline"})):
        tokens = MARKDOWN.parse(f"| a |\n|---|\n| x {shown} x |\n")
        (inline,) = [token for token in tokens if token.type == "inline" and token.content != "a"]
        if kinds != {"text", "code_inline"} or "|" not in text:  # which ends a cell in code too
            told = "".join(child.content for child in inline.children)
            assert told.split() == ["x", *one_line(text).split(), "x"]
            assert {child.type for child in inline.children} <= kinds


@settings(derandomize=True)
@given(TEXT)
def test_the_demo_s_caption_is_one_literal(caption):
    models = {"text2mask": "a/b", "mask2img": "a/c"}
    source, known = (app_source(SynthesisConfig(), models, text) for text in (caption, "a plain caption"))
    assert outline(source, caption) == outline(known, "a plain caption")


def test_a_legend_takes_any_name(tmp_path):
    labels = LabelSet.from_dict(
        {"categories": [{"id": i, "name": name} for i, name in enumerate([*HOSTILE, "x" * 9999])]}
    )
    path = draw_legend(ColormapCodec(labels), tmp_path / "labels.png")
    assert Image.open(path).width < 4000
