"""A run within the band of its references, or since when it is not."""

import dataclasses
import json

import numpy as np
import pytest

from moto_jax.run_layout import RunError
from moto_jax.study.reference_band import band_figure, reference_band, verdict
from moto_jax.study.runs import read_run
from tests.fake_results import RISING, write_runs
from tests.programs import run_program

MEASURE = "mean/objects"


def runs_of(tmp_path, name, *objects, seeds=None, **changes):
    """One run a curve of objects, each of its own seed."""
    seeds = seeds or range(len(objects))
    return [
        read_run(
            write_runs(
                tmp_path, f"{name}{seed}", seeds=(seed,), objects=[own], **changes
            )
        )
        for seed, own in zip(seeds, objects, strict=True)
    ]


@pytest.fixture
def references(tmp_path):
    low, high = (0.0, 1.0, 2.0, 2.0, 2.5), (0.0, 1.5, 2.5, 3.0, 3.5)
    return runs_of(tmp_path, "reference", low, high)


def compared(tmp_path, references, objects, **changes):
    (run,) = runs_of(tmp_path, "mine", objects, seeds=(9,), **changes)
    return reference_band(run, references, MEASURE)


def test_the_band_reaches_from_the_lowest_to_the_highest(tmp_path, references):
    band = compared(tmp_path, references, RISING)
    np.testing.assert_array_equal(band.steps, [0, 10, 20, 30, 40])
    np.testing.assert_array_equal(band.low, [0, 1, 2, 2, 2.5])
    np.testing.assert_array_equal(band.high, [0, 1.5, 2.5, 3, 3.5])
    assert band.inside.all() and len(band.references) == 2


def test_intervals_of_the_references_widen_it(tmp_path, references):
    path = references[0].path / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if MEASURE in row:
            row[f"{MEASURE}_low"] = row[MEASURE] - 0.25
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    widened = [read_run(references[0].path), references[1]]
    band = compared(tmp_path, widened, RISING)
    np.testing.assert_array_equal(band.low, [-0.25, 0.75, 1.75, 1.75, 2.25])


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        (RISING, "inside the band of 2 reference runs at all 5 evaluations (3.00"),
        ((0, 0, 2, 2.5, 3), "inside the band of 2 reference runs at its end (3.00"),
        ((0, 1, 2, 1, 1), "below the band of 2 reference runs since 30 updates (1.00"),
        ((0, 9, 2, 2, 9), "above the band of 2 reference runs since 40 updates (9.00"),
        ((9, 9, 9, 9, 9), "above the band of 2 reference runs from the first on"),
    ],
)
def test_a_sentence_says_inside_or_since_when_not(tmp_path, references, objects, said):
    sentence = verdict(compared(tmp_path, references, objects))
    assert sentence.startswith(said)
    assert "band 2.50 to 3.50" in sentence
    assert ("outside after 10" in sentence) == (objects[1] == 0)


def test_a_run_that_goes_on_is_compared_as_far_as_it_is(tmp_path, references):
    band = compared(tmp_path, references, RISING[:3])
    assert band.steps.tolist() == [0, 10, 20]


def test_another_configuration_is_no_reference_and_the_nearest_is_named(
    tmp_path, references
):
    changes = {"moto.alpha": 0.0, "env.episode_steps": 7}
    with pytest.raises(RunError, match=r"reference.* differs in .*moto\.alpha"):
        compared(tmp_path, references, RISING, **changes)
    # Where runs are kept and how often they are saved makes no difference.
    compared(tmp_path / "other", references, RISING, **{"env.workers": 7})


def without_key(path, section, key):
    """Makes a run as old as those from before the key came."""
    file = path / "config.json"
    config = json.loads(file.read_text())
    del config[section][key]
    file.write_text(json.dumps(config))
    return read_run(path)


def test_a_reference_from_before_a_key_came_has_the_value_of_then(tmp_path, references):
    older = [without_key(one.path, "replay", "prefer_successes") for one in references]
    assert len(compared(tmp_path, older, RISING).references) == 2
    preferring = {"replay.prefer_successes": True}
    with pytest.raises(RunError, match=r"differs in replay\.prefer_successes"):
        compared(tmp_path / "other", older, RISING, **preferring)


def test_a_key_of_an_agent_that_the_run_has_not_says_nothing(tmp_path, references):
    # Before the key came it was True, and the preset's is False.
    older = [without_key(one.path, "cql", "backup_entropy") for one in references]
    assert len(compared(tmp_path, older, RISING).references) == 2


def test_a_copy_of_the_run_is_no_reference_of_it(tmp_path, references):
    (copy,) = runs_of(tmp_path / "kept", "mine", RISING[:4], seeds=(9,))
    band = compared(tmp_path, [*references, copy], RISING)
    assert band.references == tuple(references)
    # Done again it is one: nothing but the clock tells.
    rows = tuple({**row, "wall_seconds": 7.0} for row in copy.rows)
    again = dataclasses.replace(copy, rows=rows)
    assert compared(tmp_path / "b", [again], RISING).references == (again,)


def test_a_run_alone_has_no_reference(tmp_path):
    with pytest.raises(RunError, match="no run beside .*mine9: give another --to"):
        compared(tmp_path, [], RISING)


def test_the_picture_has_the_band_the_references_and_the_run(tmp_path, references):
    band = compared(tmp_path, references, (0, 0, 2, 2.5, 3))
    (axes,) = band_figure(band, "mine", MEASURE).axes
    assert axes.get_ylabel() == "mean policy, objects"
    curves = [line.get_ydata().tolist() for line in axes.lines]
    assert [0, 0, 2, 2.5, 3] in curves and len(curves) == 4
    # What is outside is marked.
    assert curves[-1] == [0]
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["their band", "references", "mine", "outside"]


def test_the_program_says_writes_and_ends_by_it(tmp_path, references):
    (run,) = runs_of(tmp_path, "mine", (0, 1, 2, 1, 1), seeds=(9,))
    done = run_program("compare", str(run.path), f"--to={tmp_path}")
    assert done.returncode == 1, done.stderr
    assert "below the band of 2 reference runs since 30 updates" in done.stdout
    table = (run.path / "compare-mean-objects.csv").read_text().splitlines()
    assert table[0] == "updates,run,low,high" and table[-1] == "40,1,2.5,3.5"
    assert (run.path / "compare-mean-objects.png").stat().st_size > 0
    out = tmp_path / "new" / "out"
    flags = (f"--to={tmp_path}", "--measure=mean/success", f"--out={out}")
    done = run_program("compare", str(run.path), *flags)
    assert done.returncode == 1, done.stderr
    names = {path.name for path in out.iterdir()}
    assert names == {f"mine9-compare-mean-success.{end}" for end in ("png", "csv")}
    assert not (run.path / "compare-mean-success.csv").exists()
    done = run_program("compare", str(references[0].path), f"--to={tmp_path}/nothing")
    assert done.returncode == 1 and done.stderr.startswith("error: no run")
