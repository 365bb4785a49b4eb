"""The page: everything inside it, nothing runs, all text as it is."""

import base64
import html.parser
import re

import pytest

from experiments.report_page import make_report
from moto_jax.study import comparison, drawings, page, systems
from tests.fake_results import RISING, write_runs
from tests.programs import assert_refused, run_program


class Parser(html.parser.HTMLParser):
    """Collects what a page consists of, and refuses what is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.alts, self.text = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        self.alts += [value for name, value in attrs if name == "alt"]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_text_is_escaped_everywhere():
    evil = "<script>alert('&\"')</script>"
    text = page.page(
        evil,
        [evil],
        [
            page.Picture(evil, evil, b"png"),
            page.Grid(evil, evil, [evil], [[evil]]),
            page.Listing(evil, evil, [evil, evil]),
        ],
    )
    parser = Parser(text)
    assert "script" not in parser.tags and "<script" not in text
    assert "".join(parser.text).count(evil) == 13
    assert parser.alts == [evil]
    assert parser.links == [
        "data:image/png;base64," + base64.b64encode(b"png").decode()
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs of a sweep with their figures."""
    runs = tmp_path_factory.mktemp("runs")
    out = tmp_path_factory.mktemp("figures")
    write_runs(runs, "moto", objects=[RISING, (0, 1, 2, 3, 4)])
    write_runs(runs, "no_prior", **{"moto.beta": 0.0})
    write_runs(runs, "bc & co", task="mixed", seeds=(0,), agent="bc")
    several, _ = systems.collect(systems.find_runs(runs)[0])
    made = [
        comparison.comparison_drawing(several),
        comparison.ablation_drawing(several),
    ]
    for drawing in made:
        drawings.write(drawing, out)
    drawings.write_contents(made, ["figure 5 is left out: <no> checkpoint"], out)
    return runs, out


def test_a_report_holds_all_figures_and_needs_nothing_else(made):
    runs, figures = made
    text = make_report(runs, figures)
    parser = Parser(text)
    assert not {"script", "link", "iframe", "object", "a"} & set(parser.tags)
    assert not re.search(r"https?:|@import|url\(|\bon\w+=", text)
    prefix = "data:image/png;base64,"
    assert len(parser.links) == 2
    for link, name in zip(parser.links, ("figure2", "figure3"), strict=True):
        assert link.startswith(prefix)
        png = base64.b64decode(link.removeprefix(prefix))
        assert png == (figures / f"{name}.png").read_bytes()
    for one in drawings.read_contents(figures).figures:
        shown = "".join(parser.text)
        assert one["title"] in shown and one["caption"] in shown
        assert all(name in shown for name in one["tables"])
    assert len(text) < 2_000_000


def rows_of(text):
    """Returns each table row's cells."""
    rows = re.findall(r"<tr>(.*?)</tr>", text)
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in rows]


def test_a_reports_tables(made):
    rows = rows_of(make_report(*made))
    assert ["MOTO", "2", "88 % [75, 100]", "3.50 [3.00, 4.00]"] == rows[3][:4]
    assert rows[3][4:] == ["44 % [38, 50]", "1.75 [1.50, 2.00]"]
    assert rows[4][0] == "MOTO, no prior"
    # One seed has no interval.
    assert rows[1] == ["BC", "1", "75 %", "3.00", "38 %", "1.50"]
    assert ["bc &amp; co", "1", "40", "2.5", "2.5"] in rows
    assert ["moto", "2", "40", "2.5", "2.5"] in rows


def test_a_report_tells_how_it_was_made(made):
    runs, figures = made
    shown = "".join(Parser(make_report(runs, figures)).text)
    assert "5 training runs" in shown and "20 offline updates" in shown
    assert "kitchen (size tiny), from 64x64 images" in shown
    assert f"--workdir={runs / 'moto'} " in shown
    assert shown.count("python -m experiments.run ") == 3
    assert "--config.moto.beta=0.0" in shown
    assert f"experiments.figures --runs={runs} --out={figures}" in shown
    assert "abacus, 2 cores, 1.5 GB of memory" in shown
    assert "python 3.11, jax 0.10.1" in shown
    assert "figure 5 is left out: <no> checkpoint" in shown


def test_the_program_writes_the_page(made, tmp_path):
    runs, figures = made
    out = tmp_path / "new" / "report.html"
    done = run_program(
        "report", f"--runs={runs}", f"--figures={figures}", f"--out={out}"
    )
    assert done.returncode == 0, done.stderr
    assert f"written to {out}" in done.stdout
    assert out.read_text() == make_report(runs, figures)
    done = run_program(
        "report", f"--runs={runs}", f"--figures={tmp_path}", f"--out={out}"
    )
    assert_refused(done, "experiments.figures")
