"""The program says what there is, and refuses what there is not."""

import re

from tests.programs import ROOT, assert_refused, run_program

PAGE = (ROOT / "docs" / "reliability.md").read_text()


def test_a_row_that_is_none_is_refused(tmp_path):
    done = run_program(
        "soak", "--rows=R99", f"--out={tmp_path}", f"--results={tmp_path}"
    )
    assert_refused(done, "R99")
    assert list(tmp_path.iterdir()) == []


def test_the_page_has_every_row():
    done = run_program("soak", "--list")
    assert done.returncode == 0, done.stderr
    names = {line.split()[0] for line in done.stdout.splitlines()}
    told = set(re.findall(r"^\| (R\d+) \|", PAGE, re.MULTILINE))
    assert names - {"fuzz"} == told == {f"R{number}" for number in range(1, 16)}
