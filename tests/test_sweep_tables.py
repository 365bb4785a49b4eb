"""The figures' tables: which runs they make, from which words."""

import json
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from experiments.configs import base, mixed, partial
from launch import tables
from launch.tables import (
    FIGURES,
    PLANS,
    TASKS,
    Row,
    check_configuration,
    resolved,
    sweep_runs,
)
from moto_jax.agents import AGENTS

ROOT = Path(__file__).parents[1]

every_figure = pytest.mark.parametrize("figure", FIGURES)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    """Commands name the configurations' files from here."""
    monkeypatch.chdir(ROOT)


NO_PRIOR = {"moto.beta": "0", "moto.behaviour_model_scale": "0"}


def runs_of(rows, seeds=2, seeds_per_run=2, overrides=None, out="runs/some"):
    return sweep_runs(
        rows,
        size="tiny",
        seeds_of=lambda label: range(seeds),
        seeds_per_run=seeds_per_run,
        overrides_of=lambda label: overrides or {},
        out=Path(out),
    )


@every_figure
def test_every_command_is_one_the_program_takes(figure):
    rows = FIGURES[figure](TASKS)
    for run in runs_of(rows, overrides={"moto.horizon": "7", "sinks": "tensorboard"}):
        config = {"mixed": mixed, "partial": partial}[run.name.split("-")[0]]
        config = config.get_config("tiny")
        config.seeds = (0,)
        words = run.command[3:]
        assert run.command[:3] == [sys.executable, "-m", "experiments.run"]
        assert f"--config=experiments/configs/{config.task}.py:tiny" == words[0]
        assert words[-1] == f"--workdir=runs/some/{run.name}"
        values = flags.FlagValues()
        words = ["", *words[1:-1]]
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, sys_argv=words
        )
        values(words)
        assert config.seeds == (0, 1)
        assert config.moto.horizon == 7 and config.sinks == "tensorboard"
        check_configuration(run)


@every_figure
def test_names_are_unique_and_plain(figure):
    runs = runs_of(FIGURES[figure](TASKS), seeds=3)
    assert (
        len({run.name for run in runs}) == len(runs) == 2 * len(FIGURES[figure](TASKS))
    )
    for run in runs:
        assert run.name.replace("-", "").replace("_", "").isalnum()


def test_figure_2_is_every_agent_on_both_tasks_motos_first(monkeypatch):
    agents = {"bc": None, "moto": None, "cql": None}
    monkeypatch.setattr(tables, "AGENTS", agents)
    assert FIGURES["2"](TASKS) == [
        Row(agent, task, {"agent": agent})
        for task in ("mixed", "partial")
        for agent in ("moto", "bc", "cql")
    ]


def test_a_new_agent_joins_by_its_line_in_the_registry(monkeypatch):
    before = FIGURES["2"](TASKS), FIGURES["3"](TASKS)
    monkeypatch.setitem(tables.AGENTS, "anything", None)
    after = FIGURES["2"](TASKS), FIGURES["3"](TASKS)
    assert {row.label for row in after[0]} - {row.label for row in before[0]} == {
        "anything"
    }
    assert after[1] == before[1]


def test_all_is_both_figures_without_repeats():
    rows = FIGURES["all"](("partial",))
    for figure in ("2", "3"):
        assert {row.label for row in FIGURES[figure](("partial",))} <= {
            row.label for row in rows
        }
    assert len({row.label for row in rows}) == len(rows) == len(AGENTS) + 3


def test_the_miniature_has_everything_on_both_tasks():
    rows = PLANS["mini"].rows("all")
    assert rows == FIGURES["all"](TASKS)
    assert {row.task for row in rows} == set(TASKS)
    seeds = {row.label: len(PLANS["mini"].seeds_of(row.label)) for row in rows}
    assert seeds.pop("moto") == 3 and set(seeds.values()) == {2}


def test_every_other_system_has_as_many_trials_no_two_alike():
    rows = FIGURES["trials"](("partial",))
    by_agent = {name: [] for name in AGENTS if name != "moto"}
    for row in rows:
        agent = row.overrides["agent"]
        assert row.label.startswith(f"{agent}-")
        by_agent[agent].append(row.overrides)
    for several in by_agent.values():
        assert len(several) == 5
        assert {"agent": several[0]["agent"]} in several
        assert len({tuple(sorted(one.items())) for one in several}) == 5
    # What a plan has for a system is no part of its trials.
    plan = PLANS["mini"]
    assert all(plan.overrides_of(row.label) == plan.overrides for row in rows)


def test_settings_are_chosen_by_their_labels():
    rows = FIGURES["3"](TASKS)
    assert tables.choose(rows, []) == rows
    chosen = tables.choose(rows, ["moto-no_prior", "moto"])
    assert [(row.task, row.label) for row in chosen] == [
        (task, label) for task in TASKS for label in ("moto", "moto-no_prior")
    ]
    with pytest.raises(ValueError, match="--only=cql: .*moto-no_prior"):
        tables.choose(rows, ["moto", "cql"])


def test_a_setting_may_have_seeds_and_numbers_of_its_own():
    plan = tables.Plan(
        ("mixed",),
        2,
        {"data.seed": "1"},
        own_seeds={"moto": 3},
        own_overrides={"bc": {"bc.rows": "behaviour"}},
    )
    rows = tables.choose(FIGURES["2"](plan.tasks), ["moto", "bc"])
    runs = sweep_runs(
        rows,
        size="tiny",
        seeds_of=plan.seeds_of,
        seeds_per_run=None,
        overrides_of=plan.overrides_of,
        out=Path("runs/some"),
    )
    names = ["mixed-moto-seeds0-2", "mixed-bc-seeds0-1"]
    assert [run.name for run in runs] == names
    assert [run.overrides.get("bc.rows") for run in runs] == [None, "behaviour"]
    assert [run.overrides["data.seed"] for run in runs] == ["1", "1"]


def test_figure_3_is_the_ablations_and_dreamer_on_both_tasks():
    expected = [
        {"agent": "moto"},
        {"agent": "moto", "moto.alpha": "0"},
        {"agent": "moto", **NO_PRIOR},
        {"agent": "moto", "moto.alpha": "0", **NO_PRIOR},
        {"agent": "dreamer_v2"},
    ]
    rows = FIGURES["3"](TASKS)
    assert [row.task for row in rows] == [
        task for task in TASKS for _ in range(len(expected))
    ]
    for task in TASKS:
        assert [row.overrides for row in rows if row.task == task] == expected


def test_figures_have_the_runs_of_moto_and_dreamer_in_common():
    second, third = (runs_of(FIGURES[figure](TASKS)) for figure in ("2", "3"))
    common = {run.name for run in second if run in third}
    assert common == {
        f"{task}-{agent}-seeds0-1" for task in TASKS for agent in ("moto", "dreamer_v2")
    }


def test_seeds_are_dealt_to_runs():
    rows = [Row("moto", "mixed", {})]
    runs = runs_of(rows, seeds=5, seeds_per_run=2)
    assert [(run.name, run.overrides["seeds"]) for run in runs] == [
        ("mixed-moto-seeds0-1", "0,1"),
        ("mixed-moto-seeds2-3", "2,3"),
        ("mixed-moto-seed4", "4"),
    ]
    assert [run.name for run in runs_of(rows, seeds=3, seeds_per_run=9)] == [
        "mixed-moto-seeds0-2"
    ]


@pytest.mark.parametrize("key", ["seeds", "task", "size", "agent", "moto.alpha"])
def test_what_the_figure_varies_is_not_overridden(key):
    with pytest.raises(ValueError, match=f"--override={key}=.*sets {key}"):
        runs_of(FIGURES["3"](TASKS), overrides={key: "1"})


@pytest.mark.parametrize("word", ["moto.horizon", "=1", ""])
def test_an_override_has_a_key_and_a_value(word):
    with pytest.raises(ValueError, match="key=value"):
        tables.parse_overrides(["moto.horizon=1", word])


def test_an_override_keeps_what_follows_the_first_equals_sign():
    words = ["data.path=a=b", "moto.horizon="]
    assert tables.parse_overrides(words) == {"data.path": "a=b", "moto.horizon": ""}


@pytest.mark.parametrize(
    ("key", "value", "culprit"),
    [
        ("moto.alpa", "1", "no key moto.alpa"),
        ("moto", "1", "no key moto"),
        ("moto.horizon.x", "1", "no key moto.horizon.x"),
        (".", "1", "no key ."),
        ("moto.horizon", "four", "config.moto.horizon=four"),
        ("moto.horizon", "0", "config.moto.horizon is 0: use a whole number, 1"),
    ],
)
def test_an_override_the_configuration_does_not_take_is_named(key, value, culprit):
    (run, *_) = runs_of(FIGURES["2"](TASKS), overrides={key: value})
    with pytest.raises(ValueError, match=culprit):
        check_configuration(run)


def test_a_run_that_was_made_otherwise_is_not_taken_for_this(tmp_path):
    rows = [Row("moto", "mixed", {"moto.alpha": "0"})]
    (run,) = runs_of(rows, overrides={"moto.horizon": "7"}, out=tmp_path)
    run.workdir.mkdir()
    config = {"moto": {"alpha": 0.0, "horizon": 7}, "seeds": [0, 1]}
    saved = run.workdir / "config.json"
    saved.write_text(json.dumps(config))
    check_configuration(run)
    config["moto"]["horizon"] = 8
    saved.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="config.moto.horizon = 8, not 7"):
        check_configuration(run)
    # One damaged run is the matter of its own status.
    saved.write_text("{")
    check_configuration(run)


def test_every_size_has_a_plan_that_its_configuration_takes():
    assert set(PLANS) == set(base.SIZES)
    for size, plan in PLANS.items():
        labels = {row.label for row in plan.rows("all")}
        assert {*plan.own_seeds, *plan.own_overrides} <= labels
        for task in plan.tasks:
            config = f"experiments/configs/{task}.py:{size}"
            for label in ("moto", *plan.own_overrides):
                overrides = plan.overrides_of(label)
                changed = resolved(config, overrides)
                for key, value in overrides.items():
                    assert changed[key] == type(changed[key])(value), key


def test_the_small_comparison_is_every_agent_on_mixed_with_two_seeds():
    plan = PLANS["cpu"]
    assert [row.label for row in FIGURES["2"](plan.tasks)] == list(AGENTS)
    assert plan.seeds >= 2
    assert {row.task for row in FIGURES["2"](plan.tasks)} == {"mixed"}


def test_a_shorter_budget_shortens_every_agents_decay():
    shorter = resolved(
        "experiments/configs/mixed.py:cpu", {"optimizer.decay_steps": "600"}
    )
    assert shorter["model_free.actor_decay_steps"] == 600
