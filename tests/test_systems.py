import functools
import json

import numpy as np
import pytest

from moto_jax.run_layout import RunError
from moto_jax.study import systems
from tests.fake_results import RISING, write_runs


def found(directory):
    runs, faults = systems.find_runs(directory)
    assert not faults
    return systems.collect(runs)


def test_runs_lie_at_any_depth_and_seeds_within_them(tmp_path):
    write_runs(tmp_path / "a", "one", seeds=(3,))
    write_runs(tmp_path / "b" / "c", "two", seeds=(0, 1), agent="bc")
    (tmp_path / "empty").mkdir()
    runs, faults = systems.find_runs(tmp_path)
    assert [run.name for run in runs] == ["one", "two/seed0", "two/seed1"]
    assert faults == []
    assert len(systems.find_runs(tmp_path / "a" / "one")[0]) == 1


def test_what_cannot_be_read_is_told_of(tmp_path):
    write_runs(tmp_path, "good")
    begun = write_runs(tmp_path, "begun", seeds=(0,), objects=[()])
    broken = write_runs(tmp_path, "broken", seeds=(0,))
    (broken / "metrics.jsonl").write_text("nonsense\n")
    runs, faults = systems.find_runs(tmp_path)
    assert {run.path.parent.name for run in runs} == {"good"}
    assert len(faults) == 2
    assert str(begun) in faults[0] and "no evaluation yet" in faults[0]
    assert str(broken) in faults[1] and "line 1" in faults[1]
    with pytest.raises(RunError, match="beneath .*begun.* no evaluation yet"):
        systems.find_runs(begun)
    with pytest.raises(RunError, match="nowhere; make some"):
        systems.find_runs(tmp_path / "nowhere")


def test_links_are_followed_and_lead_to_each_run_once(tmp_path):
    disk, here = tmp_path / "disk", tmp_path / "here"
    elsewhere = write_runs(disk, "elsewhere", seeds=(0,))
    write_runs(here, "own", seeds=(1,))
    (here / "elsewhere").symlink_to(elsewhere)
    # Before the run in the order of names, and called by it all the same.
    (here / "again").symlink_to(here / "own")
    (here / "gone").symlink_to(tmp_path / "nowhere")
    (here / "round").symlink_to(here)
    runs, faults = systems.find_runs(here)
    assert [run.path for run in runs] == [here / "own", here / "elsewhere"]
    assert faults == [
        f"{here / 'again'} is left out: it is {here / 'own'} again",
        f"{here / 'gone'} is left out: it is a link to nothing",
    ]
    runs, _ = systems.find_runs(here / "elsewhere")
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"seeds": 3}'),
        ("config.json", '{"seeds": []}'),
        ("config.json", '{"seeds": [0]}'),
        ("config.json", '{"model_type": "bert"}'),
        ("config.json", "[1]"),
        ("config.json", "\0"),
        ("summary.json", '{"hardware": {"cpu": "abacus", "cores": 2}}'),
        ("summary.json", '{"versions": "all of them"}'),
        ("summary.json", '{"wall_seconds": 3}'),
        ("summary.json", '{"wall_seconds": {"offline updates": 3.0}}'),
        ("summary.json", '{"wall_seconds": {"total": "long"}}'),
    ],
)
def test_a_strangers_files_cost_no_other_run(tmp_path, name, text):
    write_runs(tmp_path, "good", seeds=(0,))
    strange = write_runs(tmp_path, "strange", seeds=(1,))
    (strange / name).write_text(text)
    runs, faults = systems.find_runs(tmp_path)
    assert [run.path.name for run in runs] == ["good"]
    (fault,) = faults
    assert fault.startswith(f"{strange} is left out: {strange / name} ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task", 3),
        ("size", None),
        ("data.path", 3),
        ("init_from", ["a"]),
        ("env.episode_steps", "many"),
        ("training.offline_updates", 2.5),
    ],
)
def test_a_value_of_another_kind_is_no_runs(tmp_path, key, value):
    directory = write_runs(tmp_path, "run", seeds=(0,))
    config = json.loads((directory / "config.json").read_text())
    *sections, name = key.split(".")
    section = functools.reduce(dict.__getitem__, sections, config)
    section[name] = value
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=rf"config\.json is no run's: {key} is "):
        systems.find_runs(tmp_path)


@pytest.mark.parametrize(
    ("config", "label"),
    [
        ({"agent": "moto", "moto.alpha": 2.5, "moto.beta": 10.0}, "MOTO"),
        ({"agent": "moto", "moto.alpha": 0.0, "moto.beta": 10.0}, "no penalty"),
        ({"agent": "moto", "moto.alpha": 2.5, "moto.beta": 0.0}, "no prior"),
        ({"agent": "moto", "moto.alpha": 0, "moto.beta": 0}, "neither"),
        # What another agent does not read says nothing of it.
        ({"agent": "dreamer_v2", "moto.alpha": 0.0, "moto.beta": 0.0}, "DreamerV2"),
        ({"agent": "bc"}, "BC"),
        ({"agent": "one's own"}, "one's own"),
    ],
)
def test_labels_come_from_values(config, label):
    assert systems.label(config) == label


def test_systems_are_ordered_by_task_and_place(tmp_path):
    for task in ("partial", "mixed"):
        write_runs(tmp_path, f"{task}-x", task, **{"moto.alpha": 0.0})
        write_runs(tmp_path, f"{task}-y", task, agent="dreamer_v2")
        write_runs(tmp_path, f"{task}-z", task)
    several, notes = found(tmp_path)
    assert notes == []
    labels = ["MOTO", "DreamerV2", "no penalty"]
    assert [(one.task, one.label) for one in several] == [
        (task, label) for task in ("mixed", "partial") for label in labels
    ]
    assert systems.tasks_of(several) == ["mixed", "partial"]


def test_a_seed_counts_once(tmp_path):
    write_runs(tmp_path, "a", seeds=(1,))
    write_runs(tmp_path, "b", seeds=(0, 1), ended=False)
    (one,), notes = found(tmp_path)
    assert [run.name for run in one.runs] == ["b/seed0", "a"]
    assert "b/seed1 is left out: seed 1 lies there twice" in notes[0]
    assert "b/seed0 has not ended yet: drawn up to update 40" in notes[1]
    assert len(notes) == 2


def test_runs_that_differ_are_not_mixed(tmp_path):
    write_runs(tmp_path, "a", **{"moto.alpha": 1.0})
    write_runs(tmp_path, "b", seeds=(2,), **{"moto.alpha": 2.0})
    with pytest.raises(RunError, match=r"MOTO on partial .*moto.alpha \(1.0, 2.0"):
        found(tmp_path)
    other = write_runs(tmp_path / "other", "a")
    write_runs(tmp_path / "other", "b", agent="bc", **{"env.episode_steps": 7})
    with pytest.raises(RunError, match="env.episode_steps 40, 7"):
        found(other.parent)


def test_evaluations_are_aligned_by_updates(tmp_path):
    write_runs(tmp_path, "a", objects=[RISING, [2 * one for one in RISING]])
    (one,), _ = found(tmp_path)
    evaluated = systems.evaluations(one.runs)
    assert evaluated.updates.tolist() == [0, 10, 20, 30, 40]
    # What is evaluated after 20 updates has not trained on an online episode.
    assert evaluated.episodes.tolist() == [0, 0, 0, 1, 2]
    assert evaluated.steps.tolist() == [0, 0, 0, 40, 80]
    assert evaluated.offline.tolist() == [0, 0.5, 1, 1, 1]
    np.testing.assert_allclose(
        evaluated.values["mean"]["objects"], [RISING, np.multiply(2, RISING)]
    )
    np.testing.assert_allclose(
        evaluated.values["sampled"]["success"][0], np.divide(RISING, 8)
    )
    np.testing.assert_allclose(
        evaluated.values["mean"]["return"][0], np.multiply(10, RISING)
    )


def test_seeds_are_compared_where_all_have_come(tmp_path):
    write_runs(tmp_path, "a", objects=[RISING, RISING[:3]])
    (one,), _ = found(tmp_path)
    assert systems.evaluations(one.runs).updates.tolist() == [0, 10, 20]


def test_results_are_those_of_the_last_online_episodes(tmp_path):
    write_runs(tmp_path, "a", objects=[RISING, (0, 1, 2, 3, 4)])
    (one,), _ = found(tmp_path)
    assert systems.results(one, "mean", "objects").tolist() == [3, 4]
    assert systems.results(one, "sampled", "return").tolist() == [15, 20]
    assert systems.num_objects(one) == 4


def test_longer_evaluations_count_for_more(tmp_path):
    run = write_runs(tmp_path, "a", seeds=(0,), **{"evaluation.episodes": 40})
    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    # Those after 30 and 40 updates, of 2.5 and 3 objects.
    played = {30: 40, 40: 160}
    for row in rows:
        if row["phase"] == "evaluation online":
            row["mean/episodes"] = float(played[row["step"]])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (one,), _ = found(tmp_path)
    assert systems.evaluations(one.runs).played.tolist() == [40, 40, 40, 40, 160]
    assert systems.episodes_played(one.runs[0]) == [40, 40, 40, 40, 160]
    result = systems.results(one, "mean", "objects")
    np.testing.assert_allclose(result, [(40 * 2.5 + 160 * 3) / 200])


@pytest.mark.parametrize(
    ("episodes", "played", "chosen"),
    [
        ([0, 0, 0], 25, [2]),
        ([0, 5, 10], 50, [1, 2]),
        ([0, 80, 81, 90, 100], 50, [1, 2, 3, 4]),
        ([0, 80, 81, 90, 100], 80, [2, 3, 4]),
        ([0, 80, 81, 90, 100], 300, [4]),
        # The last evaluation of a phase may be longer.
        ([0, 80, 81, 90, 100], [90, 60, 60, 60, 80], [2, 3, 4]),
        ([0, 80, 81, 90, 100], [90, 60, 60, 60, 200], [4]),
    ],
)
def test_which_evaluations_are_the_last(episodes, played, chosen):
    """Those that have two hundred episodes together, none from the offline phase."""
    episodes = np.array(episodes)
    played = np.broadcast_to(played, episodes.shape)
    evaluated = systems.Evaluations(episodes, episodes, episodes, episodes, {}, played)
    assert systems.last_evaluations(evaluated).nonzero()[0].tolist() == chosen
