"""Figures 2 and 3: what is drawn, and the same numbers beside the picture."""

import csv
import io

import numpy as np
import pytest

from moto_jax import tables
from moto_jax.study import comparison, comparison_rows, drawings, systems
from tests.fake_results import RISING, write_runs

DOUBLE = [2 * objects for objects in RISING[:-1]] + [4.0]


def collected(directory):
    return systems.collect(systems.find_runs(directory)[0])[0]


@pytest.fixture(scope="module")
def two_tasks(tmp_path_factory):
    """MOTO with two seeds and DreamerV2 with one, on both tasks; BC on one."""
    out = tmp_path_factory.mktemp("runs")
    for task in ("mixed", "partial"):
        write_runs(
            out, f"{task}-neither", task, **{"moto.alpha": 0.0, "moto.beta": 0.0}
        )
        write_runs(out, f"{task}-moto", task, objects=[RISING, DOUBLE])
        write_runs(out, f"{task}-dreamer", task, seeds=(0,), agent="dreamer_v2")
    write_runs(out, "partial-bc", agent="bc")
    write_runs(out, "partial-no_penalty", **{"moto.alpha": 0.0})
    return collected(out)


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_figure_2_has_a_column_a_task_and_a_row_a_measure(two_tasks):
    drawing = comparison.comparison_drawing(two_tasks)
    axes = drawing.figure.axes
    assert len(axes) == 6
    assert [one.get_title() for one in axes[:2]] == [
        "task mixed",
        "task partial",
    ]
    measures = [one.get_ylabel() for one in axes[::2]]
    assert measures == ["return", "success", "objects completed"]
    for one in axes[4:]:
        assert one.get_xlabel() == "environment steps (left: offline)"
    # Ablations are figure 3's.
    assert [set(lines(one)) for one in axes[4:]] == [
        {"MOTO", "DreamerV2"},
        {"MOTO", "DreamerV2", "BC"},
    ]
    legend = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert legend == ["MOTO", "DreamerV2", "BC"]
    assert "n = 1 to 2" in drawing.caption and "mean policy" in drawing.caption


def test_curves_are_means_over_environment_steps(two_tasks):
    axes = comparison.comparison_drawing(two_tasks).figure.axes
    line = lines(axes[4])["MOTO"]
    # 80 steps in all; the offline phase is 0.3 of them wide, left of zero.
    np.testing.assert_allclose(line.get_xdata(), [-24, -12, 0, 40, 80])
    np.testing.assert_allclose(line.get_ydata(), [0, 1.5, 3, 3.75, 3.5])
    np.testing.assert_allclose(
        lines(axes[2])["MOTO"].get_ydata(), np.divide([0, 1.5, 3, 3.75, 3.5], 4)
    )
    np.testing.assert_allclose(
        lines(axes[0])["DreamerV2"].get_ydata(), np.multiply(10, RISING)
    )
    # The band of two seeds spans them; one seed has none.
    (band,) = axes[4].collections
    corners = band.get_paths()[0].vertices
    assert [40, 2.5] in corners.tolist() and [40, 5.0] in corners.tolist()
    ticks = [tick for tick in axes[4].get_xticks()]
    assert min(ticks) == 0 and max(ticks) == 80
    assert axes[2].get_ylim()[0] < 0 and axes[2].get_ylim()[1] > 1
    assert axes[4].get_yticks().tolist() == [0, 1, 2, 3, 4]


def test_the_sampled_policy_can_be_drawn(two_tasks):
    drawing = comparison.comparison_drawing(two_tasks, "sampled")
    line = lines(drawing.figure.axes[4])["MOTO"]
    np.testing.assert_allclose(line.get_ydata(), np.divide([0, 1.5, 3, 3.75, 3.5], 2))
    assert "sampled policy" in drawing.caption


@pytest.mark.parametrize("labels", [systems.COMPARED, systems.ABLATED])
def test_systems_of_a_figure_differ_in_colour_line_and_marker(labels):
    looks = [comparison.look_of(label) for label in labels]
    for several in zip(*looks, strict=True):
        assert len(set(several)) == len(labels)


def test_without_an_online_phase_there_are_updates_alone(tmp_path):
    write_runs(
        tmp_path,
        "a",
        objects=[RISING[:3]] * 2,
        **{"training.online_episodes": 0},
    )
    axes = comparison.comparison_drawing(collected(tmp_path)).figure.axes
    np.testing.assert_allclose(lines(axes[2])["MOTO"].get_xdata(), [-1, -0.5, 0])
    assert axes[2].get_xlabel() == "share of the offline updates"


def test_a_single_task_has_its_panels_side_by_side(tmp_path):
    write_runs(tmp_path, "moto")
    write_runs(tmp_path, "other", **{"moto.beta": 0.0})
    several = collected(tmp_path)
    for drawing, labelled in (
        (comparison.comparison_drawing(several), [0, 1, 2]),
        # Curves on the left, bars on the right.
        (comparison.ablation_drawing(several), [2]),
    ):
        axes = drawing.figure.axes
        steps = [place for place, one in enumerate(axes) if "steps" in one.get_xlabel()]
        assert steps == labelled
        rows = {one.get_subplotspec().rowspan.start for one in axes}
        assert len(rows) == len(axes) // 2 or len(rows) == 1


def test_figure_3_has_ablations_and_dreamer(two_tasks):
    drawing = comparison.ablation_drawing(two_tasks)
    axes = drawing.figure.axes
    assert len(axes) == 8
    assert set(lines(axes[1])) == {"MOTO", "no penalty", "neither", "DreamerV2"}
    assert [one.get_ylabel() for one in axes[:4:2]] == ["success", "objects completed"]
    bars = axes[7]
    names = [text.get_text() for text in bars.get_yticklabels()]
    assert names == ["MOTO", "no penalty", "neither", "DreamerV2"]
    assert bars.get_xlabel() == "objects completed, last evaluations"
    assert [patch.get_width() for patch in bars.patches] == [3.5, 3.0, 3.0, 3.0]
    dots = [line for line in bars.get_lines() if line.get_linestyle() == "None"]
    assert dots[0].get_xdata().tolist() == [3, 4]
    intervals = [line for line in bars.get_lines() if line.get_linestyle() == "-"]
    assert [line.get_xdata().tolist() for line in intervals] == [[3, 4], [3, 3], [3, 3]]
    shares = [patch.get_width() for patch in axes[5].patches]
    assert shares == [0.875, 0.75, 0.75, 0.75]
    assert {text.get_text() for text in axes[5].texts} == {"88%", "75%"}
    assert "alpha = 0" in drawing.caption
    budget = "20 offline updates, then 2 online episodes with 10 updates after each"
    assert budget in drawing.caption


def test_figure_3_leaves_out_tasks_without_ablations(tmp_path):
    write_runs(tmp_path, "partial")
    write_runs(tmp_path, "mixed", "mixed")
    write_runs(tmp_path, "other", **{"moto.beta": 0.0})
    several = collected(tmp_path)
    assert len(comparison.ablation_drawing(several).figure.axes) == 4
    assert len(comparison.comparison_drawing(several).figure.axes) == 6


def test_what_is_not_there_is_not_drawn(tmp_path):
    write_runs(tmp_path / "a", "moto")
    with pytest.raises(ValueError, match="no run of MOTO without penalty"):
        comparison.ablation_drawing(collected(tmp_path / "a"))
    write_runs(tmp_path / "b", "x", **{"moto.beta": 0.0})
    with pytest.raises(ValueError, match="no run of MOTO, DreamerV2, LOMPO"):
        comparison.comparison_drawing(collected(tmp_path / "b"))


def table(rows):
    return list(csv.DictReader(io.StringIO(tables.comma_separated(rows))))


def test_the_curves_numbers(two_tasks):
    rows = table(comparison_rows.curve_rows(two_tasks))
    # Eight systems, two policies, three measures, five evaluations.
    assert len(rows) == 8 * 2 * 3 * 5
    (row,) = [
        row
        for row in rows
        if row["task"] == "partial"
        and row["system"] == "MOTO"
        and row["policy"] == "mean"
        and row["measure"] == "objects"
        and row["updates"] == "30"
    ]
    wanted = {
        "online_episodes": "1",
        "environment_steps": "40",
        "seeds": "2",
        "mean": "3.75",
        "mean_low": "2.5",
        "mean_high": "5",
        "interquartile_mean": "3.75",
    }
    assert wanted.items() <= row.items()
    alone = next(row for row in rows if row["system"] == "DreamerV2")
    assert (alone["seeds"], alone["mean_low"]) == ("1", "")


def test_the_results_numbers_and_those_over_all_tasks(two_tasks):
    rows = table(comparison_rows.result_rows(two_tasks))
    found = {
        (row["task"], row["system"]): row
        for row in rows
        if (row["policy"], row["measure"]) == ("mean", "objects")
    }
    row = found["mixed", "MOTO"]
    assert (row["mean"], row["by_seed"], row["seeds"]) == ("3.5", "3 4", "2")
    both = found[comparison_rows.ALL_TASKS, "MOTO"]
    assert (both["mean"], both["by_seed"], both["seeds"]) == ("3.5", "3 4 3 4", "4")
    # What was trained on one task says nothing of both.
    assert (comparison_rows.ALL_TASKS, "BC") not in found
    assert (comparison_rows.ALL_TASKS, "DreamerV2") in found


def test_a_drawing_becomes_pictures_tables_and_a_list(two_tasks, tmp_path):
    drawing = comparison.comparison_drawing(two_tasks)
    drawings.write(drawing, tmp_path)
    drawings.write_contents([drawing], ["a note"], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "figure2.png",
        "figure2.pdf",
        "figure2.csv",
        "figure2-final.csv",
        "figures.json",
    }
    assert (tmp_path / "figure2.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "figure2.pdf").read_bytes()[:5] == b"%PDF-"
    written = (tmp_path / "figure2.csv").read_text()
    assert table(drawing.tables[""]) == list(csv.DictReader(io.StringIO(written)))
    (one,), notes = drawings.read_contents(tmp_path)
    assert one["caption"] == drawing.caption and notes == ["a note"]
    assert one["tables"] == ["figure2.csv", "figure2-final.csv"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"figures": [{}], "notes": []}',
        '{"figures": [{"name": "../a", "title": "", "caption": "", "tables": []}], '
        '"notes": []}',
        '{"figures": [{"name": 1, "title": "", "caption": "", "tables": []}], '
        '"notes": []}',
    ],
)
def test_a_damaged_list_of_figures_is_refused(tmp_path, text):
    (tmp_path / "figures.json").write_text(text)
    with pytest.raises(ValueError, match="figures.json does not list figures"):
        drawings.read_contents(tmp_path)
    with pytest.raises(ValueError, match="experiments.figures"):
        drawings.read_contents(tmp_path / "nowhere")


def test_an_agent_that_the_paper_does_not_know_is_drawn_too(tmp_path):
    write_runs(tmp_path, "moto")
    write_runs(tmp_path, "mine", agent="my_agent")
    write_runs(tmp_path, "plain", **{"moto.beta": 0.0})
    drawing = comparison.comparison_drawing(collected(tmp_path))
    assert list(lines(drawing.figure.axes[2])) == ["MOTO", "my_agent"]
    assert {row["system"] for row in table(drawing.tables["final"])} == {
        "MOTO",
        "my_agent",
    }
