"""What is published names no folder of the machine, however a path is hidden in what was typed."""

import json
import re
import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from seggen_hf.cli import app
from seggen_hf.config import list_overridden, load_recipe
from seggen_hf.config.values import parse_value, yaml_text
from seggen_hf.provenance import public_command, public_value

# Folders that nobody may read of, in what is around them when they are typed.
SECRET = st.sampled_from(["/home/ada/secret", "~/secret", "../../secret", "C:\\Users\\secret", "file:///srv/secret"])
LAST = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
HIDDEN = st.sampled_from(
    [
        "{}",
        " {} ",
        "'{}'",
        '"{}"',
        "[{}]",
        "[{}, b]",
        "[a,{}]",
        "{{a: {}}}",
        "a, {}",
        "({})",
        "x={}",
        "--x={}",
        "see {}!",
    ]
)


@st.composite
def hidden_paths(draw):
    """A text with a path in it."""
    folder = draw(SECRET)
    slash = "\\" if "\\" in folder else "/"
    return draw(HIDDEN).format(folder + slash + draw(LAST))


@pytest.mark.parametrize(
    ("value", "published"),
    [
        ("/srv/my data/street", "street"),
        ("~/data/street/", "street"),
        ("./data/street", "street"),
        ("../..", "local folder"),
        ("/", "local folder"),
        ("~", "local folder"),
        ("file:///srv/street", "street"),
        ("C:\\Users\\ada\\street", "street"),
        (["/srv/a", "b"], ["a", "b"]),
        (("/srv/a", {"x": Path("/srv/b")}), ["a", {"x": "b"}]),
        ("x/../../home/ada/street", "street"),
        ("$HOME/street", "street"),
        ("FILE:/srv/street", "street"),
        ("\\\\server\\ada\\street", "street"),
        ("look at /srv/ada/street, please", "look at street, please"),
        ("['/srv/a','~/b']", "['a','b']"),
        ("path:/srv/ada/a and x=C:\\ada\\b", "path:a and x=b"),
        ("s3://ada/street and 24/7, road / street", "s3://ada/street and 24/7, road / street"),
        ("ada/street", "ada/street"),
        ("https://arxiv.org/abs/2311.03355", "https://arxiv.org/abs/2311.03355"),
        ("at night, in fog", "at night, in fog"),
        (0.5, 0.5),
    ],
)
def test_what_is_published_names_no_folder_of_the_machine(value, published):
    assert public_value(value) == published


@settings(derandomize=True)
@given(hidden_paths())
def test_a_path_in_a_text_is_cut_to_its_last_part(text):
    found = public_value(text)
    assert "secret" not in found and not re.search(r"[/\\~]", found)
    assert public_value([text, {"a": text}]) == [found, {"a": found}]


@settings(derandomize=True)
@given(st.lists(hidden_paths(), min_size=1, max_size=3), hidden_paths(), hidden_paths())
def test_a_command_is_put_together_from_what_was_understood(values, out, recipe):
    told = public_command(
        "seggen", "run", recipe, settings={"a.b": values, "a.c": values[0]}, options=[("--out", out), ("--from", None)]
    )
    assert "secret" not in told
    words = shlex.split(told)
    assert words[:2] == ["seggen", "run"] and words[3::2] == ["--set", "--set", "--out"]
    assert parse_value(words[4].removeprefix("a.b="), "") == public_value(values)


@pytest.mark.slow
@settings(derandomize=True)
@given(
    st.recursive(
        st.text() | st.booleans() | st.none() | st.integers() | st.floats(allow_nan=False),
        lambda inner: st.lists(inner),
    )
)
def test_a_setting_is_shown_on_one_line_that_is_read_as_it_was(value):
    shown = yaml_text(value)
    assert len(shown.splitlines()) <= 1 and parse_value(shown, "") == value


def test_what_was_set_is_told_as_it_was_understood():
    overrides = [
        "data.height=1_28",
        "name = mine",
        "data.test_splits=[val,  night]",
        "data.height=64",
    ]
    recipe = load_recipe("quickstart", overrides)
    assert list_overridden(recipe, overrides) == {
        "data.height": 64, "name": "mine", "data.test_splits": ["val", "night"],
    }  # fmt: skip


def test_no_path_that_was_typed_is_in_the_markers_of_a_run(tiny_recipe, miniature_dir, tmp_path):
    out = tmp_path / "secret" / "x"
    settings = ["caption.caption_prompt=see '/srv/secret/a', [/srv/secret/b]", f"text2mask.base_model={miniature_dir}"]
    words = ["run", tiny_recipe, f"--out={out}", "--only=caption", *(f"--set={text}" for text in settings)]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    command = json.loads((out / "captions" / "stage.json").read_text())["command"]
    assert shlex.split(command) == [
        "seggen", "run", "tiny.yaml", "--set", "caption.caption_prompt=see 'a', [b]",
        "--set", "text2mask.base_model=miniature", "--out", "x", "--only", "caption",
    ]  # fmt: skip
