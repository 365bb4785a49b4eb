"""Tables as text, by hand."""

import csv
import io

from moto_jax import tables


def test_markdown_has_a_rule_under_its_columns():
    assert tables.markdown_lines(("a", "b"), [("1", "2"), ("3", "")]) == [
        "| a | b |",
        "|---|---|",
        "| 1 | 2 |",
        "| 3 |  |",
    ]


def test_commas_apart_with_what_is_not_known_left_empty():
    rows = [
        {"run": "a, b", "steps": 12345678, "done": True, "share": 1 / 3},
        {"run": 'say "c"', "share": float("nan"), "late": 2.5e-9, "steps": None},
    ]
    assert tables.comma_separated(rows) == (
        "run,steps,done,share,late\n"
        '"a, b",12345678,True,0.333333,\n'
        '"say ""c""",,,,2.5e-09\n'
    )
    read = list(csv.DictReader(io.StringIO(tables.comma_separated(rows))))
    assert [row["run"] for row in read] == ["a, b", 'say "c"']
    assert tables.comma_separated([]) == "\n"
