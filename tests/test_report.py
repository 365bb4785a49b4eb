"""The page: everything inside it, nothing runs, all text as it is."""

import base64
import html.parser
import json
import re

import numpy as np
import pytest

from experiments import report_sections
from experiments.report_page import make_report
from moto_jax.study import comparison, drawings, page, run_figures, systems
from moto_jax.study.runs import read_run
from tests.fake_results import OBJECTS, RISING, SUMMARY, write_runs
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
        if tag not in ("meta", "img", "br", "wbr"):
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
            page.Gallery(evil, evil, [page.Picture(evil, evil, b"png")]),
            page.Gallery(evil, evil, [page.Clip(evil, b"mp4")]),
        ],
    )
    parser = Parser(text)
    assert "script" not in parser.tags and "<script" not in text
    assert "".join(parser.text).count(evil) == 19
    assert parser.alts == [evil, evil]
    assert list(map(decoded, parser.links)) == [
        ("image/png", b"png"),
        ("image/png", b"png"),
        ("video/mp4", b"mp4"),
    ]


def decoded(link):
    kind, _, data = link.removeprefix("data:").partition(";base64,")
    return kind, base64.b64decode(data, validate=True)


def test_keys_and_paths_may_be_broken_and_numbers_not():
    cells = ["moto.critic_rate", "runs/a", "-1.05", "3.5e-05"]
    text = page.page("", [], [page.Grid("", "", [""] * 4, [cells])])
    (row,) = re.findall(r"<tr>(<td.*?)</tr>", text)
    broken = ["moto.<wbr>critic_<wbr>rate", "runs/<wbr>a", "-1.05", "3.5e-05"]
    assert re.findall(r"<td>(.*?)</td>", row) == broken


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
    text = make_report([runs], figures)
    parser = Parser(text)
    assert not {"script", "link", "iframe", "object", "a"} & set(parser.tags)
    assert not re.search(r"https?:|@import|url\(|\bon\w+=", text)
    kinds, pictures = zip(*map(decoded, parser.links), strict=True)
    assert {*kinds} == {"image/png"}
    for place, name in enumerate(("figure2", "figure3")):
        assert pictures[place] == (figures / f"{name}.png").read_bytes()
    # Those of the objects on two tasks and of the time.
    assert len(pictures) == 2 + 2 * 4 + 1
    for one in drawings.read_contents(figures).figures:
        shown = "".join(parser.text)
        assert one["title"] in shown and one["caption"] in shown
        assert all(name in shown for name in one["tables"])
    assert len(text) < 2_000_000


def rows_of(text):
    """Returns each table row's cells."""
    rows = re.findall(r"<tr>(.*?)</tr>", text.replace("<wbr>", ""))
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in rows]


def test_a_reports_tables(made):
    rows = rows_of(make_report([made[0]], made[1]))
    assert ["MOTO", "2", "88 % [75, 100]", "3.50 [3.00, 4.00]"] == rows[3][:4]
    assert rows[3][4:] == ["44 % [38, 50]", "1.75 [1.50, 2.00]"]
    assert rows[4][0] == "MOTO, no prior"
    # One seed has no interval.
    assert rows[1] == ["BC", "1", "75 %", "3.00", "38 %", "1.50"]
    assert ["bc &amp; co", "1", "40", "2.5", "2.5"] in rows
    assert ["moto", "2", "40", "2.5", "2.5"] in rows


def test_a_report_tells_how_it_was_made(made):
    runs, figures = made
    shown = "".join(Parser(make_report([runs], figures)).text)
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
    assert out.read_text() == make_report([runs], figures)
    done = run_program(
        "report", f"--runs={runs}", f"--figures={tmp_path}", f"--out={out}"
    )
    assert_refused(done, "experiments.figures")
    assert_refused(
        run_program("report", f"--out={out}"), "give the directories of runs"
    )


def shown_by(*directories):
    return "".join(Parser(make_report(directories)).text)


def rewrite(directory, change):
    """Changes the rows of a run of one seed."""
    path = directory / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        change(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_any_runs_are_reported_without_figures(tmp_path):
    """Those of one system that differ in more than the seed are shown one by one."""
    several = [
        write_runs(tmp_path, "plain"),
        write_runs(tmp_path, "hasty", **{"moto.horizon": 3}),
    ]
    text = make_report(several)
    rows = rows_of(text)
    assert [row[:3] for row in rows[1:3]] == [
        ["plain", "2", "75 % [75, 75]"],
        ["hasty", "2", "75 % [75, 75]"],
    ]
    assert ["key", "plain", "hasty"] in rows
    shown = "".join(Parser(text).text)
    assert "each setting is shown by itself" in shown and "moto.horizon" in shown
    assert "experiments.figures" not in shown
    # All beneath one directory are the same runs, in the order of their names.
    assert [row[0] for row in rows_of(make_report([tmp_path]))[1:3]] == [
        "hasty",
        "plain",
    ]


def test_an_objects_rate_is_the_mean_of_the_seeds(tmp_path):
    rates = {"0": (0.0, 0.2, 0.4, 0.6, 0.8), "1": (0.0, 0.0, 0.0, 0.2, 0.4)}
    directory = write_runs(tmp_path, "moto")
    for seed, values in rates.items():
        left = list(values)

        def change(row, left=left):
            if row["phase"].startswith("evaluation"):
                row["mean/reached/kettle"] = left.pop(0)

        rewrite(directory / f"seed{seed}", change)
    rows = rows_of(make_report([directory]))
    assert ["system", "policy", *OBJECTS] in rows
    assert ["MOTO", "mean", "100 %", "60 %", "100 %", "100 %"] in rows
    assert ["MOTO", "sampled", "50 %", "50 %", "50 %", "50 %"] in rows
    found, _ = systems.collect(systems.find_runs(directory)[0])
    (axes,) = run_figures.object_figure(found, "kettle").axes
    curves = {line.get_label(): line.get_ydata() for line in axes.lines}
    np.testing.assert_allclose(curves["mean policy"], [0, 0.1, 0.2, 0.4, 0.6])
    np.testing.assert_allclose(curves["sampled policy"], [0.5] * 5)


def test_several_systems_share_an_objects_picture(tmp_path):
    write_runs(tmp_path, "moto")
    write_runs(tmp_path, "bc", agent="bc")
    found, _ = systems.collect(systems.find_runs(tmp_path)[0])
    # Those of no known name are told apart too.
    found += [found[0]._replace(label="mine"), found[0]._replace(label="another")]
    (axes,) = run_figures.object_figure(found, "kettle").axes
    assert [line.get_label() for line in axes.lines] == [one.label for one in found]
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == 4


def test_runs_without_objects_say_so(tmp_path):
    directory = write_runs(tmp_path, "own", seeds=(0,))

    def change(row):
        for name in [name for name in row if "/reached/" in name]:
            del row[name]

    rewrite(directory, change)
    assert "evaluations counted no objects" in shown_by(directory)


def with_videos(directory, steps, size=0):
    (directory / "videos").mkdir()
    for step in steps:
        for kind in ("best", "worst"):
            data = f"{step} {kind}".encode().ljust(size)
            (directory / "videos" / f"{step:06d}-{kind}.mp4").write_bytes(data)


def clips_of(text):
    links = Parser(text).links
    return [data for kind, data in map(decoded, links) if kind == "video/mp4"]


def test_videos_are_of_the_best_the_worst_and_the_last_evaluation(tmp_path):
    objects = (1.0, 3.5, 0.5, 2.0, 3.0)
    directory = write_runs(tmp_path, "moto", seeds=(0,), objects=[objects])
    with_videos(directory, (0, 10, 20, 30, 40))
    text = make_report([directory])
    assert clips_of(text) == [b"10 best", b"20 worst", b"40 best", b"40 worst"]
    for caption in (
        "Best evaluation (10 updates: 3.50 objects, return 35): its best episode",
        "Worst evaluation (20 updates: 0.50 objects, return 5): its worst episode",
        "Last evaluation (40 updates: 3.00 objects, return 30): its worst episode",
    ):
        assert caption in text
    # What one evaluation is twice is shown once.
    rising = write_runs(tmp_path, "rising", seeds=(1,))
    with_videos(rising, (0, 10, 40))
    assert clips_of(make_report([rising])) == [b"40 best", b"0 worst", b"40 worst"]


def test_runs_whose_videos_are_not_shown_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(report_sections, "_VIDEO_BYTES", 100)
    write_runs(tmp_path, "bare", seeds=(0,))
    # Two videos each, of which those of one run fit.
    names = ("first", "second")
    several = [
        write_runs(tmp_path, name, seeds=(seed,)) for seed, name in enumerate(names, 1)
    ]
    for directory in several:
        with_videos(directory, (40,), size=30)
    text = make_report(sorted(tmp_path.iterdir()))
    shown = "".join(Parser(text).text)
    assert len(clips_of(text)) == 2 and "Videos of first" in shown
    assert "Without videos beside their metrics: bare." in shown
    assert str(several[1] / "videos") in shown and str(several[0] / "v") not in shown


def test_time_is_told_by_part(tmp_path):
    directory = write_runs(tmp_path, "moto")
    going = write_runs(tmp_path, "going", ended=False, agent="bc")
    text = make_report([tmp_path])
    rows = rows_of(text)
    # 100 s of 150 s; a program's seeds share them.
    assert ["part", "moto"] in rows
    assert ["offline updates", "1.7 (67 %)"] in rows
    assert ["other", "0.8 (33 %)"] in rows
    assert ["total", "2.5"] in rows
    assert f"Parts are not known of {going.name}:" in "".join(Parser(text).text)
    found, _ = systems.collect(systems.find_runs(directory)[0])
    several, _ = report_sections.program_times(found)
    (axes,) = run_figures.time_figure(several).axes
    bars = [(bar.get_x(), bar.get_width()) for bar in axes.patches]
    np.testing.assert_allclose(bars, [(0, 100 / 60), (100 / 60, 50 / 60)])


def test_parts_of_the_time_are_in_the_order_in_which_they_begin():
    seconds = {"checkpoints": 1.0, "evaluation": 2.0, "compilation": 3.0, "total": 6.0}
    one = run_figures.times("run", seconds)
    assert list(one.seconds) == ["compilation", "evaluation", "checkpoints"]
    assert one.total == 6
    assert SUMMARY["wall_seconds"]["total"] == 150


def test_settings_are_told_where_they_differ(tmp_path):
    write_runs(tmp_path, "moto")
    write_runs(tmp_path, "no_prior", seeds=(4,), **{"moto.beta": 0.0, "env.workers": 9})
    rows = rows_of(make_report([tmp_path]))
    place = rows.index(["key", "MOTO", "no prior"])
    beta = read_run(tmp_path / "moto" / "seed0").config["moto.beta"]
    assert rows[place + 1 : place + 3] == [
        ["moto.beta", str(beta), "0.0"],
        ["seeds", "0, 1", "4"],
    ]
    assert rows[place + 3][0] not in ("env.workers", "task")
    shown = shown_by(tmp_path / "moto")
    assert "All runs have one configuration but for the seed." in shown


def test_models_are_told_of_by_what_training_recorded(tmp_path):
    losses = {"model/reward_loss": 0.02, "dream/uncertainty": 0.25}
    directory = write_runs(tmp_path, "moto", seeds=(0,))
    assert "No run recorded how well a model predicts." in shown_by(directory)

    rewrite(directory, lambda row: row.update(losses))
    # Half the squared error is 0.02.
    assert ["MOTO", "0.200", "0.250"] in rows_of(make_report([directory]))


def test_models_are_asked_where_it_is_wanted(tmp_path):
    directory = write_runs(tmp_path, "moto", seeds=(0,))
    answer = page.Listing("asked", "and answered", [])

    def ask(found):
        assert [one.label for one in found] == ["MOTO"]
        return [answer]

    text = make_report([directory], ask=ask)
    assert "and answered" in text and "recorded how well" not in text
