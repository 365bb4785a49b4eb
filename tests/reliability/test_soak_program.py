"""The program says what there is, and refuses what there is not."""

import re

from experiments.soak.rows import make_rows
from experiments.soak.runs import WORLDS
from tests.programs import ROOT, assert_refused, run_program

PAGE = (ROOT / "docs" / "reliability.md").read_text()


def test_a_row_that_is_none_is_refused(tmp_path):
    done = run_program(
        "soak", "--rows=R99", f"--out={tmp_path}", f"--results={tmp_path}"
    )
    assert_refused(done, "R99")
    assert list(tmp_path.iterdir()) == []


def test_the_page_has_every_row(tmp_path):
    rows = make_rows(WORLDS["kitchen"], 1.0, tmp_path)
    names = {row.name.split()[0] for row in rows}
    told = set(re.findall(r"^\| (R\d+|processes) \|", PAGE, re.MULTILINE))
    promises = {f"R{number}" for number in range(1, 16)} | {"processes"}
    assert names - {"fuzz"} == told == promises
