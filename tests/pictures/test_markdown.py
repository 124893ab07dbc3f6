from seggen_hf.pictures.markdown import cell, table


def test_a_table_has_a_rule_below_its_header_and_a_line_for_each_row():
    assert table(["arm", "test"], [["real", "55.1"], [cell("a|b"), "–"]]) == [
        "| arm | test |",
        "|---|---|",
        "| real | 55.1 |",
        "| a\\|b | – |",
    ]
    assert table(["arm"], []) == ["| arm |", "|---|"]
