"""Runs beneath a directory as the systems of the paper's comparisons, on each task."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moto_jax.run_layout import CONFIG_NAME, POLICIES, RunError
from moto_jax.study.runs import RunFiles, differing_keys, read_run, seed_directories

MOTO = "MOTO"
DREAMER = "DreamerV2"
NO_PENALTY, NO_PRIOR, NEITHER = "no penalty", "no prior", "neither"

# What agents are called in print.
_AGENTS = {
    "moto": MOTO,
    "dreamer_v2": DREAMER,
    "lompo": "LOMPO",
    "combo": "COMBO",
    "cql": "CQL",
    "iql": "IQL",
    "sac": "SAC",
    "bc": "BC",
    "rlpd": "RLPD",
    "cal_ql": "Cal-QL",
}

# Of figure 2 and of figure 3, in the order of their legends.
COMPARED = (*_AGENTS.values(),)
ABLATIONS = (NO_PENALTY, NO_PRIOR, NEITHER)
ABLATED = (MOTO, *ABLATIONS, DREAMER)

# Numbers of an evaluation, as they are called in metrics.jsonl behind "POLICY/".
MEASURES = ("return", "success", "objects")
# Behind it an object's name: the share of episodes in which it was in its goal.
REACHED = "reached/"

# Results are means over so many evaluation episodes of the online phase, the last.
RESULT_EPISODES = 200


class System(NamedTuple):
    """One way to learn, on one task, with some seeds.

    Attributes:
      task: name, or objects.
      label: of `COMPARED` or `ABLATED`.
      runs: one a seed, by seed.
    """

    task: str
    label: str
    runs: tuple[RunFiles, ...]


class Evaluations(NamedTuple):
    """Evaluations of some seeds, at those updates that all of them have.

    Attributes:
      updates: int [n], done.
      episodes: int [n], online episodes stored by then.
      offline: float [n], share of the offline updates done, at most 1.
      steps: int [n], environment steps of those episodes.
      values: policy -> measure -> [seeds, n].
      played: int [n], episodes that each evaluation plays with a policy.
    """

    updates: np.ndarray
    episodes: np.ndarray
    offline: np.ndarray
    steps: np.ndarray
    values: Mapping[str, Mapping[str, np.ndarray]]
    played: np.ndarray


def find_runs(directory: str | os.PathLike[str]) -> tuple[list[RunFiles], list[str]]:
    """Returns the runs beneath a directory, one a seed, and what is wrong with others.

    A run that has not evaluated anything yet is told of, not returned. Symbolic links
    are followed, and what they lead to counts once.

    Raises:
      RunError: if there is none at all.
    """
    runs: list[RunFiles] = []
    faults: list[str] = []
    seen: dict[Path, Path] = {}
    for program in _programs(Path(directory), faults):
        if (place := program.resolve()) in seen:
            faults.append(f"{program} is left out: it is {seen[place]} again")
            continue
        seen[place] = program
        try:
            for path in seed_directories(program):
                run = read_run(path)
                if any(row["phase"].startswith("evaluation") for row in run.rows):
                    runs.append(run)
                else:
                    faults.append(f"{path} is left out: it has no evaluation yet")
        except RunError as error:
            faults.append(f"{program} is left out: {error}")
    if not runs:
        reason = f": {faults[0]}" if faults else ""
        raise RunError(
            f"no run with an evaluation lies beneath {directory}{reason}; make some "
            "with launch.sweeps"
        )
    return runs, faults


def _programs(
    directory: Path, faults: list[str], above: tuple[Path, ...] = ()
) -> Iterator[Path]:
    """Yields directories of runs in order; what lies inside of one is its own.

    What links lead to comes last in each, so that a run is called by its own name.
    """
    if (directory / CONFIG_NAME).is_file():
        yield directory
        return
    if not directory.is_dir() or directory.resolve() in above:
        return
    try:
        paths = sorted(directory.iterdir(), key=lambda path: (path.is_symlink(), path))
    except OSError as error:
        faults.append(f"{directory} is left out: {error.strerror}")
        return
    for path in paths:
        if path.is_symlink() and not path.exists():
            faults.append(f"{path} is left out: it is a link to nothing")
        elif path.is_dir():
            yield from _programs(path, faults, (*above, directory.resolve()))


def label(config: Mapping[str, Any]) -> str:
    """Returns what a flat configuration's system is called, by its values."""
    agent = config.get("agent", "moto")
    if agent == "moto":
        penalty, prior = (config.get(f"moto.{key}", 1.0) for key in ("alpha", "beta"))
        if not penalty:
            return NO_PENALTY if prior else NEITHER
        if not prior:
            return NO_PRIOR
    return _AGENTS.get(agent, agent)


def collect(runs: Sequence[RunFiles]) -> tuple[list[System], list[str]]:
    """Returns the runs by task and system, and what was left out.

    A seed that lies there twice counts once.

    Raises:
      RunError: where runs of one system differ in more than the seed.
    """
    groups: dict[tuple[str, str], list[RunFiles]] = {}
    for run in runs:
        groups.setdefault((run.config["task"], label(run.config)), []).append(run)
    systems, notes = [], []
    _require_one_kind(runs)
    for (task, name), group in groups.items():
        keys = [key for key in differing_keys(group) if key != "seeds"]
        if keys:
            several = dict.fromkeys(run.config[keys[0]] for run in group)
            raise RunError(
                f"runs of {name} on {task} differ in {keys[0]} "
                f"({', '.join(map(str, several))}): keep apart what is compared, such "
                f"as {group[0].path} and {_differing(group, keys[0]).path}"
            )
        by_seed: dict[int, RunFiles] = {}
        for run in group:
            seed = run.config["seeds"][0]
            if seed in by_seed:
                notes.append(f"{run.path} is left out: seed {seed} lies there twice")
            else:
                by_seed[seed] = run
        ordered = tuple(by_seed[seed] for seed in sorted(by_seed))
        notes += [
            f"{run.path} has not ended yet: drawn up to update {run.updates}"
            for run in ordered
            if not run.summary
        ]
        systems.append(System(task, name, ordered))
    return sorted(systems, key=_place), notes


def _require_one_kind(runs: Sequence[RunFiles]) -> None:
    """Raises RunError for runs whose returns cannot be compared."""
    for key in ("size", "env.episode_steps"):
        several = dict.fromkeys(run.config.get(key) for run in runs)
        if len(several) > 1:
            raise RunError(
                f"the runs are of several kinds, with {key} "
                f"{', '.join(map(str, several))}: give a directory of one"
            )


def _differing(group: Sequence[RunFiles], key: str) -> RunFiles:
    return next(run for run in group if run.config[key] != group[0].config[key])


def _place(system: System) -> tuple[str, int]:
    order = (*COMPARED, *ABLATED)
    place = order.index(system.label) if system.label in order else len(order)
    return system.task, place


def tasks_of(systems: Sequence[System]) -> list[str]:
    """Returns the tasks that there are systems on, in order."""
    return list(dict.fromkeys(system.task for system in systems))


def evaluations(
    runs: Sequence[RunFiles], measures: Sequence[str] = MEASURES
) -> Evaluations:
    """Returns the evaluations that all runs of a system have made.

    Args:
      runs: of one system.
      measures: what is wanted of them, as it is called behind "POLICY/".

    Raises:
      RunError: if they share none.
    """
    tables = [_evaluation_rows(run) for run in runs]
    shared = sorted(set.intersection(*(set(table) for table in tables)))
    if not shared:
        raise RunError(
            f"{runs[0].path} and the other seeds share no evaluation: let them go on"
        )
    config = runs[0].config
    updates = np.array(shared, np.int64)
    collected = runs[0].series("objects", "collection").steps
    episodes = np.array([np.sum(collected <= step) for step in shared], np.int64)
    offline_updates = max(1, config["training.offline_updates"])
    return Evaluations(
        updates=updates,
        episodes=episodes,
        offline=np.minimum(1.0, updates / offline_updates),
        steps=episodes * config["env.episode_steps"],
        values={
            policy: {
                measure: np.array(
                    [
                        [
                            _number(table[step].get(f"{policy}/{measure}"))
                            for step in shared
                        ]
                        for table in tables
                    ]
                )
                for measure in measures
            }
            for policy in POLICIES
        },
        played=np.array([_played(runs[0], tables[0][step]) for step in shared]),
    )


def _evaluation_rows(run: RunFiles) -> dict[int, Mapping[str, Any]]:
    """Returns step -> row; of two evaluations after equal updates the last."""
    return {
        row["step"]: row for row in run.rows if row["phase"].startswith("evaluation")
    }


def episodes_played(run: RunFiles) -> list[int]:
    """Returns how many episodes each evaluation has played with a policy."""
    return [_played(run, row) for row in _evaluation_rows(run).values()]


def _played(run: RunFiles, row: Mapping[str, Any]) -> int:
    return int(row.get("mean/episodes", run.config["evaluation.episodes"]))


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def last_evaluations(found: Evaluations) -> np.ndarray:
    """Returns bool [n]: the evaluations that a result is the mean of.

    The last of the online phase that have `RESULT_EPISODES` together, or all where
    they have fewer; of a run without online episodes the last one.
    """
    chosen = np.zeros(len(found.updates), bool)
    chosen[-1] = True
    online = np.flatnonzero(found.episodes)[::-1]
    # Those of which the later ones had too few.
    later = np.cumsum(found.played[online]) - found.played[online]
    chosen[online[later < RESULT_EPISODES]] = True
    return chosen


def results(system: System, policy: str, measure: str) -> np.ndarray:
    """Returns each seed's result [seeds], over episodes; see `last_evaluations`."""
    found = evaluations(system.runs, (measure,))
    chosen = last_evaluations(found)
    values = found.values[policy][measure][:, chosen]
    return np.average(values, axis=1, weights=found.played[chosen])


def object_names(systems: Sequence[System]) -> list[str]:
    """Returns the objects that evaluations count, by their rates."""
    prefix = f"mean/{REACHED}"
    return list(
        dict.fromkeys(
            name.removeprefix(prefix)
            for system in systems
            for run in system.runs
            for row in run.rows
            for name in row
            if name.startswith(prefix)
        )
    )


def num_objects(system: System) -> int:
    """Returns how many objects the task has, by the evaluations' rates."""
    return max(1, len(object_names([system])))
