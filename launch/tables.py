"""The paper's figures as tables of settings, and the runs that these make."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import config_flags

from experiments.configs.keys import check_values
from launch.runs import PROGRAM, SweepRun
from launch.status import saved_config
from launch.trials import SLOWER, SLOWER_LATENT, SLOWER_WITH_MODEL, TRIALS
from moto_jax.agents import AGENTS
from moto_jax.run_layout import RunError, flat_config

TASKS = ("mixed", "partial")

# Keys that the sweep itself decides for each of its runs.
_OWN_KEYS = ("agent", "seeds", "size", "task")


class Row(NamedTuple):
    """One setting of a figure, to be trained with every seed.

    Attributes:
      label: what sets it apart within its task.
      task: one of `TASKS`, the name of a configuration's file.
      overrides: key of the configuration -> value, both as on a command line.
    """

    label: str
    task: str
    overrides: Mapping[str, str]


class Plan(NamedTuple):
    """What a sweep of a size does where its command does not say.

    Attributes:
      tasks: of the figure.
      seeds: of each setting.
      overrides: key of the configuration -> value.
      note: what its table says of itself.
      own_seeds: label of a setting -> its number, where it is another.
      keep: which settings of the tasks.
      own_overrides: label of a setting -> what it has besides, such as numbers that
        were tuned for it.
    """

    tasks: Sequence[str]
    seeds: int
    overrides: Mapping[str, str]
    note: str = ""
    own_seeds: Mapping[str, int] = {}
    keep: Callable[[Row], bool] = lambda row: True
    own_overrides: Mapping[str, Mapping[str, str]] = {}

    def rows(self, figure: str) -> list[Row]:
        """Returns the settings of a figure."""
        return [row for row in FIGURES[figure](self.tasks) if self.keep(row)]

    def seeds_of(self, label: str) -> range:
        """Returns the seeds of a setting."""
        return range(self.own_seeds.get(label, self.seeds))

    def overrides_of(self, label: str) -> dict[str, str]:
        """Returns what a setting has besides its row's overrides."""
        return {**self.overrides, **self.own_overrides.get(label, {})}


PLANS = {
    "full": Plan(TASKS, 5, {}),
    "gpu": Plan(
        TASKS,
        5,
        {},
        "The real kitchen in minutes on one GPU. MOTO's numbers alone were tuned, and "
        "on a CPU.",
    ),
    # An hour and a half a seed on two cores (--seeds_per_run=1).
    "desktop": Plan(
        TASKS,
        1,
        {},
        "The real kitchen with small networks, 2,000 offline updates, then 50 online "
        "episodes with 20 updates after each: a twenty-fifth of the paper's budget. "
        "MOTO's numbers alone were tuned for this size.",
        {"moto": 3},
        lambda row: row.task == "mixed" or row.label == "moto",
    ),
    # Less than the preset's budget, for all of figure 2 in an evening.
    "cpu": Plan(
        ("mixed",),
        2,
        {
            "training.offline_updates": "500",
            "training.online_episodes": "5",
            "training.updates_per_episode": "20",
            "optimizer.decay_steps": "600",
        },
        "Small networks, 500 offline updates, then 5 online episodes with 20 updates "
        "after each: a hundredth of the paper's budget, and for agents without a model "
        "a quarter of its batch. It shows which systems learn anything from so little; "
        "it does not show where each would end, nor what fine-tuning adds: five "
        "episodes are one in twenty of the data, and ten evaluation episodes resolve "
        "differences of half an object at best.",
    ),
    # Both figures on both tasks in an hour and a half on two cores.
    "mini": Plan(
        TASKS,
        2,
        {},
        "The kitchen in miniature: what separates the systems here need not in the "
        "real one.",
        {"moto": 3},
        # From results/mini/tuning.md; what is not here did best with the preset's.
        own_overrides={
            "bc": SLOWER,
            "iql": {**SLOWER, "iql.advantage_scale": "10"},
            "dreamer_v2": {**SLOWER_WITH_MODEL, "dreamer_v2.discount": "0.9"},
            "combo": SLOWER_LATENT,
            "lompo": {"lompo.penalty_scale": "1"},
        },
    ),
    "tiny": Plan(TASKS, 2, {}),
}


def figure_2(tasks: Sequence[str]) -> list[Row]:
    """Returns the comparison of systems: every agent there is, on each task."""
    # A stable sort, which leaves the others in the registry's order.
    agents = sorted(AGENTS, key=lambda name: name != "moto")
    return [Row(agent, task, {"agent": agent}) for task in tasks for agent in agents]


def figure_3(tasks: Sequence[str]) -> list[Row]:
    """Returns MOTO, its ablations, and DreamerV2."""
    no_penalty = {"moto.alpha": "0"}
    no_prior = {"moto.beta": "0", "moto.behaviour_model_scale": "0"}
    settings = {
        "moto": {"agent": "moto"},
        "moto-no_penalty": {"agent": "moto", **no_penalty},
        "moto-no_prior": {"agent": "moto", **no_prior},
        "moto-no_penalty-no_prior": {"agent": "moto", **no_penalty, **no_prior},
        "dreamer_v2": {"agent": "dreamer_v2"},
    }
    return [
        Row(label, task, overrides)
        for task in tasks
        for label, overrides in settings.items()
    ]


def both_figures(tasks: Sequence[str]) -> list[Row]:
    """Returns the settings of figures 3 and 2, what they share once.

    Those of figure 3 come first: its runs are the longest, and two jobs at once end
    together if the short ones come last.
    """
    rows = []
    for row in (*figure_3(tasks), *figure_2(tasks)):
        if row not in rows:
            rows.append(row)
    return rows


def trials(tasks: Sequence[str]) -> list[Row]:
    """Returns what is tried of each other system's numbers (`launch.trials`)."""
    return [
        Row(f"{agent}-{name}", task, {"agent": agent, **overrides})
        for task in tasks
        for agent, several in TRIALS.items()
        for name, overrides in several.items()
    ]


FIGURES = {"2": figure_2, "3": figure_3, "all": both_figures, "trials": trials}


def choose(rows: Sequence[Row], labels: Sequence[str]) -> list[Row]:
    """Returns the settings with these labels, or all where there are none.

    Raises:
      ValueError: for a label that no setting has.
    """
    known = list(dict.fromkeys(row.label for row in rows))
    for label in labels:
        if label not in known:
            raise ValueError(
                f"--only={label}: the figure has no such setting, but "
                f"{', '.join(known)}"
            )
    return [row for row in rows if row.label in labels or not labels]


def sweep_runs(
    rows: Sequence[Row],
    *,
    size: str,
    seeds_of: Callable[[str], Sequence[int]],
    seeds_per_run: int | None,
    overrides_of: Callable[[str], Mapping[str, str]],
    out: Path,
    program: tuple[str, ...] = PROGRAM,
) -> list[SweepRun]:
    """Returns the runs of a figure.

    Args:
      rows: its settings.
      size: preset of the configurations.
      seeds_of: label of a setting -> its seeds.
      seeds_per_run: how many of them one program trains; None: all.
      overrides_of: label of a setting -> key -> value, added to the row's.
      out: directory of the runs.
      program: words of every command before its flags.

    Raises:
      ValueError: if an override is a key that the figure itself varies.
    """
    own = {*_OWN_KEYS, *(key for row in rows for key in row.overrides)}
    runs = []
    for row in rows:
        overrides = overrides_of(row.label)
        for key in overrides:
            if key in own:
                raise ValueError(f"--override={key}=...: the sweep itself sets {key}")
        seeds = seeds_of(row.label)
        step = seeds_per_run or len(seeds)
        for start in range(0, len(seeds), step):
            group = seeds[start : start + step]
            text = ",".join(str(seed) for seed in group)
            runs.append(
                SweepRun(
                    workdir=out / f"{row.task}-{row.label}-{_seed_label(group)}",
                    config=f"experiments/configs/{row.task}.py:{size}",
                    overrides={**row.overrides, **overrides, "seeds": text},
                    program=program,
                )
            )
    return runs


def parse_overrides(words: Sequence[str]) -> dict[str, str]:
    """Returns key -> value of words "key=value".

    Raises:
      ValueError: for a word that is not of this form.
    """
    overrides = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise ValueError(f"--override={word}: write it as key=value")
        overrides[key] = value
    return overrides


def resolved(config: str, overrides: Mapping[str, str]) -> dict[str, Any]:
    """Returns the configuration that a run would have, flat, by its program's parser.

    Raises:
      ValueError: for a key or a value that the configuration does not take.
    """
    path, _, size = config.partition(":")
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    preset = flat_config(module.get_config(size).to_dict())
    for key in overrides:
        if key not in preset:
            raise ValueError(f"{config} has no key {key}")
    words = ["", *(f"--config.{key}={value}" for key, value in overrides.items())]
    values = flags.FlagValues()
    flag = config_flags.DEFINE_config_dict(
        "config", module.get_config(size), flag_values=values, sys_argv=words
    )
    try:
        values(words)
    except flags.Error as error:
        raise ValueError(str(error)) from None
    check_values(flag.value)
    return flat_config(flag.value.to_dict())


def check_configuration(run: SweepRun) -> None:
    """Raises ValueError if a run cannot have what it is given, or was begun otherwise.

    A run that is done would else be taken for one with other overrides.
    """
    overrides = {key: value for key, value in run.overrides.items() if key != "seeds"}
    wanted = resolved(run.config, overrides)
    try:
        saved = saved_config(run)
    except RunError:
        # Its status will say so, and the others go on.
        return
    for key in overrides:
        if saved and saved.get(key) != wanted[key]:
            raise ValueError(
                f"{run.workdir} was made with config.{key} = {saved.get(key)!r}, not "
                f"{wanted[key]!r}: use that value, or another --out"
            )


def _seed_label(seeds: Sequence[int]) -> str:
    first, last = seeds[0], seeds[-1]
    return f"seed{first}" if first == last else f"seeds{first}-{last}"
