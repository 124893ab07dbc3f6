import pytest

from seggen_hf.pictures.markdown import cell, marked, table


def test_a_table_has_a_rule_below_its_header_and_a_line_for_each_row():
    assert table(["arm", "test"], [["real", "55.1"], [cell("a|b"), "–"]]) == [
        "| arm | test |",
        "|---|---|",
        "| real | 55.1 |",
        "| a\\|b | – |",
    ]
    assert table(["arm"], []) == ["| arm |", "|---|"]


def test_what_a_script_writes_stands_between_marks():
    text = "a\n<!-- scores:begin -->\nold\n<!-- scores:end -->\nb\n"
    before, between, after = marked("scores", text)
    assert (between, before + between + after) == ("old\n", text)
    assert before.endswith("begin -->\n") and after.startswith("<!-- scores:end")
    for other in ("", text.replace("end", "and"), text.replace("scores", "others")):
        with pytest.raises(ValueError, match="no lines <!-- scores:begin --> and <!-- scores:end -->"):
            marked("scores", other)
