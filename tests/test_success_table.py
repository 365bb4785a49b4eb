"""Results over many evaluation episodes, and what is kept of runs."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from experiments.configs import partial
from experiments.run_commands import run_command
from experiments.success_rows import last_evaluations, table_row
from moto_jax.run_layout import flat_config
from moto_jax.statistics import wilson_interval
from moto_jax.study.runs import RunFiles, read_run
from tests.programs import assert_refused, run_program
from tests.test_analysis import write_run

EPISODES = {"offline": 50, "online": 200}


def evaluation(step, phase, successes, episodes):
    """The mean policy's rate is given, the sampled one's is half of it."""
    row = {"step": step, "phase": f"evaluation {phase}", "wall_seconds": 1.0 * step}
    for policy, share in (("mean", 1.0), ("sampled", 0.5)):
        rate = share * successes / episodes
        row |= {
            f"{policy}/episodes": float(episodes),
            f"{policy}/success": rate,
            f"{policy}/success_at_end": rate / 2,
            f"{policy}/objects": 4 * rate,
            f"{policy}/reached/kettle": rate,
        }
    return row


def rows():
    return [
        evaluation(0, "before", 0, 20),
        evaluation(1000, "offline", 2, 20),
        {"step": 1050, "phase": "offline", "model/kl": 1.0, "wall_seconds": 2.0},
        {"step": 1250, "phase": "offline", "model/kl": 2.0, "wall_seconds": 2.0},
        evaluation(2000, "offline", 30, 60),
        {"step": 2001, "phase": "collection", "objects": 3.0, "wall_seconds": 2.0},
        evaluation(2100, "online", 10, 100),
        evaluation(2200, "online", 70, 140),
        evaluation(2300, "online", 60, 60),
    ]


@pytest.fixture
def run(tmp_path):
    places = {
        "data.directory": "/far/away",
        "data.path": "/far/human.hdf5",
        "init_from": "/far/parent",
    }
    return write_run(tmp_path / "run", rows=rows(), seeds=(3,), **places)


def test_a_result_is_the_mean_of_the_last_episodes_and_of_no_more(run):
    found = last_evaluations(read_run(run), "online", "mean", 200)
    # 140 and 60 episodes are 200: the first evaluation of the phase is not among them.
    assert found["episodes"] == 200
    np.testing.assert_allclose(found["success"], 130 / 200)
    np.testing.assert_allclose(found["success_at_end"], 65 / 200)
    np.testing.assert_allclose(found["objects"], 4 * 130 / 200)
    np.testing.assert_allclose(found["reached/kettle"], 130 / 200)
    assert (found["success_low"], found["success_high"]) == wilson_interval(130, 200)
    one_more = last_evaluations(read_run(run), "online", "mean", 201)
    np.testing.assert_allclose(one_more["success"], 140 / 300)


def test_a_phase_gives_what_it_has(run):
    found = last_evaluations(read_run(run), "offline", "sampled", 1000)
    assert found["episodes"] == 80
    np.testing.assert_allclose(found["success"], 16 / 80)
    only_offline = write_run(run.parent / "offline", rows=rows()[:5])
    assert last_evaluations(read_run(only_offline), "online", "mean", 200) == {}


def test_a_row_tells_phases_and_policies_apart(run):
    row = table_row(read_run(run), EPISODES)
    assert (row["seed"], row["task"], row["updates"]) == (3, "mixed", 2300)
    np.testing.assert_allclose(row["offline_mean_success"], 0.5)
    np.testing.assert_allclose(row["offline_sampled_success"], 0.25)
    np.testing.assert_allclose(row["online_sampled_success"], 65 / 200)
    assert "--config.seeds=3" in row["command"]


@pytest.mark.parametrize(("colour_scale", "told"), [(None, True), (8.0, False)])
def test_a_command_tells_what_a_run_from_before_a_key_did_without(colour_scale, told):
    config = flat_config(partial.get_config("tiny").to_dict())
    del config["world_model.colour_scale"]
    if colour_scale:
        config["world_model.colour_scale"] = colour_scale
    command = run_command(RunFiles(Path("run"), config, (), {}))
    assert ("--config.world_model.colour_scale=1.0" in command) == told
    # Its preset has today what runs from before had.
    assert "muon" not in command


@pytest.mark.parametrize(
    ("parent", "told"),
    [
        ("", None),
        ("/far/away/parent", "runs/parent"),
        ("/far/parent/checkpoints/20", "runs/parent/checkpoints/20"),
        # Whoever said it so can say it again.
        ("elsewhere/parent", "elsewhere/parent"),
    ],
)
def test_a_branchs_command_names_no_place_of_its_machine(parent, told):
    config = flat_config(partial.get_config("tiny").to_dict())
    command = run_command(RunFiles(Path("run"), config | {"init_from": parent}, (), {}))
    words = [word for word in command.split() if "init_from" in word]
    assert words == ([f"--config.init_from={told}"] if told else [])


def test_the_program_writes_both_tables(run, tmp_path):
    out = tmp_path / "results" / "solved"
    done = run_program("success_table", str(run), f"--out={out}")
    assert done.returncode == 0, done.stderr
    (line,) = csv.DictReader(out.with_suffix(".csv").read_text().splitlines())
    assert line["online_mean_success"] == "0.65"
    text = out.with_suffix(".md").read_text()
    assert "| run | mixed | 3 | online | mean | 200 | 65% (58 to 71) | 32% |" in text
    assert text in done.stdout


def keep(run, out):
    done = run_program("keep_metrics", str(run), f"--out={out}")
    assert done.returncode == 0, done.stderr
    return sorted(out.iterdir())


def test_what_is_kept_is_a_run_without_most_of_its_losses(run, tmp_path):
    (kept,) = keep(run, tmp_path / "kept")
    assert kept == tmp_path / "kept" / "run"
    before, after = read_run(run), read_run(kept)
    places = {
        "data.directory": "",
        "data.path": "human.hdf5",
        "init_from": "runs/parent",
    }
    assert after.config == {**before.config, **places}
    assert after.summary == before.summary
    # The losses of update 1050 alone are gone.
    assert [row for row in before.rows if row not in after.rows] == [rows()[2]]
    assert table_row(after, EPISODES) | {"command": ""} == table_row(
        before, EPISODES
    ) | {"command": ""}
    (again,) = keep(run, tmp_path / "kept")
    assert read_run(again).rows == after.rows


def test_seeds_of_one_run_are_kept_apart(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / "two" / f"seed{seed}", rows=rows(), seeds=(seed,))
    config = json.loads((tmp_path / "two" / "seed0" / "config.json").read_text())
    (tmp_path / "two" / "config.json").write_text(
        json.dumps(config | {"seeds": [0, 1]})
    )
    first, second = keep(tmp_path / "two", tmp_path / "kept")
    assert (first.name, second.name) == ("two-seed0", "two-seed1")
    assert read_run(second).config["seeds"] == [1]


@pytest.mark.parametrize("program", ["success_table", "keep_metrics"])
def test_no_run_is_refused_in_one_sentence(program, tmp_path):
    out = f"--out={tmp_path / 'out'}"
    assert_refused(run_program(program, out), "no run to")
    nothing = run_program(program, str(tmp_path), out)
    assert_refused(nothing, "no run's directory")
    assert not (tmp_path / "out.md").exists()


@pytest.mark.parametrize(
    ("parent", "name"),
    [("", ""), ("/far/run/checkpoints/200", "runs/run/checkpoints/200")],
)
def test_a_kept_run_names_its_parent_and_which_checkpoint(tmp_path, parent, name):
    run = write_run(tmp_path / "run", rows=rows(), seeds=(3,), init_from=parent)
    (kept,) = keep(run, tmp_path / "kept")
    assert read_run(kept).config["init_from"] == name
