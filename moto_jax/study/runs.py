"""A run directory's files as plain values, checked; nothing of the run is loaded.

Read are config.json, metrics.jsonl and, once the run has ended, summary.json.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moto_jax.run_layout import (
    CONFIG_NAME,
    HOUSEKEEPING_KEYS,
    LATER_KEYS,
    METRICS_NAME,
    PHASES,
    POLICY_SUFFIXES,
    SUMMARY_NAME,
    RunError,
    flat_config,
    program_directory,
    read_object,
    read_record,
    seed_directory,
)


def seed_directories(path: str | os.PathLike[str]) -> list[Path]:
    """Returns the directories of a run's seeds, each readable as a run of one seed.

    Raises:
      RunError: if it is no run's directory.
    """
    path = Path(path)
    _require_run(path)
    seeds = read_object(path / CONFIG_NAME).get("seeds", [0])
    if not isinstance(seeds, list) or not seeds:
        raise RunError(f"{path / CONFIG_NAME} is no run's: it has no list of seeds")
    return [seed_directory(path, seeds, seed) for seed in seeds]


# Of a flat configuration: what is read here, and what kind of value it is.
_PLACES = ("data.directory", "data.path", "init_from")
_KINDS = {
    **dict.fromkeys(_PLACES, str),
    "evaluation.episodes": int,
    "env.episode_steps": int,
    "seeds": list,
    "size": str,
    "task": str | list,
    "training.offline_updates": int,
    "training.online_episodes": int,
    "training.updates_per_episode": int,
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_seconds(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and "total" in value
        and all(map(_is_number, value.values()))
    )


def _is_hardware(value: Any) -> bool:
    kinds = {"cpu": str, "cores": int, "memory_gb": int | float}
    if isinstance(value, dict) and "accelerator" in value:
        kinds |= {"accelerator": str, "accelerators": int}
    return isinstance(value, dict) and all(
        isinstance(value.get(key), kind) for key, kind in kinds.items()
    )


# Of a summary, where it holds them.
_SUMMARY: Mapping[str, Callable[[Any], bool]] = {
    "commit": lambda value: value is None or isinstance(value, str),
    "hardware": _is_hardware,
    "peak_rss_bytes": _is_number,
    "updates": _is_number,
    "versions": lambda value: isinstance(value, dict),
    "wall_seconds": _is_seconds,
}


class Series(NamedTuple):
    """One metric over a run.

    Attributes:
      steps: int64 [n], updates done.
      values: float64 [n]; NaN where the run's number was not finite.
    """

    steps: np.ndarray
    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """What a run left behind, or has written so far.

    Attributes:
      path: as given.
      config: the resolved configuration, flat: "moto.alpha" -> 2.5.
      rows: of metrics.jsonl: `step`, `phase`, and that step's numbers by name.
      summary: of summary.json; empty while the run goes on.
    """

    path: Path
    config: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    summary: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The directory's name; of one of several seeds its run's name before it."""
        path = self.path.resolve()
        inside = program_directory(path) != path
        return f"{path.parent.name}/{path.name}" if inside else path.name

    @property
    def updates(self) -> int:
        """Updates done up to the last row."""
        return self.rows[-1]["step"] if self.rows else 0

    def series(self, metric: str, phase_prefix: str = "") -> Series:
        """Returns a metric's rows in order, those of phases that begin as asked."""
        rows = [
            row
            for row in self.rows
            if metric in row and row["phase"].startswith(phase_prefix)
        ]
        values = [np.nan if row[metric] is None else row[metric] for row in rows]
        return Series(
            np.array([row["step"] for row in rows], np.int64),
            np.array(values, np.float64),
        )


def up_to(run: RunFiles, step: int) -> RunFiles:
    """Returns the run as it was after `step` updates, without its summary."""
    rows = tuple(row for row in run.rows if row["step"] <= step)
    return dataclasses.replace(run, rows=rows, summary={})


def read_run(path: str | os.PathLike[str]) -> RunFiles:
    """Reads a run directory; the run may still be going on.

    Raises:
      RunError: if it is no run's, or a file is damaged; names file, line and mend.
    """
    path = Path(path)
    _require_run(path)
    config = read_config(path)
    missing = [key for key in _KINDS if key not in config and key not in _PLACES]
    if missing:
        raise RunError(f"{path / CONFIG_NAME} is no run's: it has no {missing[0]}")
    return RunFiles(
        path=path,
        config=config,
        rows=_read_rows(path / METRICS_NAME),
        summary=_read_summary(path / SUMMARY_NAME),
    )


def read_each_once(
    paths: Iterable[str | os.PathLike[str]],
) -> tuple[list[RunFiles], list[str]]:
    """Reads every seed of some runs' directories; returns them and what was left out.

    A directory that is given again, or is there under another name, counts once, and so
    does a copy: a run whose settings and evaluations are the same, to the second.

    Raises:
      RunError: if one of them is no run's, or a file is damaged.
    """
    seen: dict[Any, RunFiles] = {}
    runs, notes = [], []
    for path in paths:
        for directory in seed_directories(path):
            run = read_run(directory)
            before = seen.get(directory.resolve()) or seen.get(_content(run))
            if before is not None:
                notes.append(f"{run.path} is left out: it is {before.path} again")
                continue
            seen[directory.resolve()] = seen[_content(run)] = run
            runs.append(run)
    return runs, notes


def _content(run: RunFiles) -> str:
    """Returns what two runs have in common only if one is a copy of the other."""
    rows = [row for row in run.rows if row["phase"].startswith("evaluation")]
    if not rows:
        return str(run.path)
    # Those that `experiments.keep_metrics` leaves as they are.
    settings = {
        key: value
        for key, value in run.config.items()
        if key not in ("data.path", "init_from") and not _is_housekeeping(key, {})
    }
    return json.dumps([settings, rows], sort_keys=True)


def _read_summary(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    summary = read_object(path)
    for name, fits in _SUMMARY.items():
        if name in summary and not fits(summary[name]):
            raise RunError(f"{path} holds no {name} as a run writes it: restore it")
    return summary


def read_config(path: Path) -> dict[str, Any]:
    """Returns a run's resolved configuration, flat: "moto.alpha" -> 2.5.

    Raises:
      RunError: if it is damaged, or another program's.
    """
    config = flat_config(read_object(path / CONFIG_NAME))
    for key, kind in _KINDS.items():
        if key in config and not isinstance(config[key], kind):
            raise RunError(
                f"{path / CONFIG_NAME} is no run's: {key} is {config[key]!r}"
            )
    return config


def _require_run(path: Path) -> None:
    if not (path / CONFIG_NAME).is_file():
        raise RunError(
            f"{path} is no run's directory, it has no {CONFIG_NAME}: give the "
            "--workdir of a run"
        )


# Sections that their own agents read alone.
_SECTIONS_OF_AGENTS = ("combo", "cql", "lompo", "rlpd")


def differing_keys(runs: Sequence[RunFiles]) -> list[str]:
    """Returns the configuration keys in which runs differ, housekeeping left out.

    A run from before a key came has the value of then (`LATER_KEYS`). One that is not
    known, or is of an agent that the run has not, says nothing.
    """
    shared = set.intersection(*(_known_keys(run.config) for run in runs))
    return [
        key
        for key in sorted(shared)
        if not all(_is_housekeeping(key, run.config) for run in runs)
        and any(setting(run, key) != setting(runs[0], key) for run in runs)
    ]


def setting(run: RunFiles, key: str) -> Any:
    """Returns a configuration value, None where the run had no such key."""
    return run.config.get(key, LATER_KEYS.get(key))


def _known_keys(config: Mapping[str, Any]) -> set[str]:
    """Returns a configuration's keys, and those that came later and it would read."""
    others = set(_SECTIONS_OF_AGENTS) - {config.get("agent")}
    later = (key for key in LATER_KEYS if key.partition(".")[0] not in others)
    return {*config, *later}


def _is_housekeeping(key: str, config: Mapping[str, Any]) -> bool:
    """Whether a key decides no number of a run with this configuration."""
    # Of other sources it says where to keep what the rest decides.
    if key == "data.directory" and config.get("data.source") == "directory":
        return False
    return key in HOUSEKEEPING_KEYS


def seed_groups(runs: Sequence[RunFiles]) -> list[list[RunFiles]]:
    """Returns the runs in groups that differ in nothing but the seed, in given order.

    Housekeeping does not count, and a run from before a key came has its value of then.
    """
    groups: dict[str, list[RunFiles]] = {}
    for run in runs:
        rest = {
            key: value
            for key, value in (LATER_KEYS | dict(run.config)).items()
            if key != "seeds" and not _is_housekeeping(key, run.config)
        }
        groups.setdefault(json.dumps(rest, sort_keys=True), []).append(run)
    return list(groups.values())


def results(run: RunFiles) -> dict[str, float | None]:
    """Returns a run in figures, None where it has none (yet).

    Keys: `objects_PHASE` (mean objects completed) and `success_PHASE` for each of
    `PHASES`, of the mean policy, and `_sampled` behind them for the sampled one: the
    last evaluation of the phase. `cloned_share_PHASE`, the share of stored rows whose
    action was cloned then. `updates`; `minutes` of wall time.
    """
    metrics = {"cloned_share_{}": "cloned_share"}
    for suffix, policy in POLICY_SUFFIXES.items():
        for figure in ("objects", "success"):
            metrics[figure + "_{}" + suffix] = f"{policy}/{figure}"
    figures: dict[str, float | None] = {}
    for name, metric in metrics.items():
        for phase in PHASES:
            values = run.series(metric, f"evaluation {phase}").values
            figures[name.format(phase)] = float(values[-1]) if len(values) else None
    figures["updates"] = run.updates
    figures["minutes"] = _minutes(run)
    return figures


def mean_results(
    results_by_run: Sequence[Mapping[str, float | None]],
) -> dict[str, float | None]:
    """Returns the mean of each figure over runs, None where one of them has none."""
    means: dict[str, float | None] = {}
    for name in results_by_run[0]:
        known = [value for one in results_by_run if (value := one[name]) is not None]
        complete = len(known) == len(results_by_run)
        means[name] = float(np.mean(known)) if complete else None
    return means


def _minutes(run: RunFiles) -> float | None:
    """Returns the summary's; a run that goes on knows its metrics' clock alone."""
    wall_seconds = run.summary.get("wall_seconds")
    if wall_seconds:
        return wall_seconds["total"] / 60
    return run.rows[-1]["wall_seconds"] / 60 if run.rows else None


def _read_rows(path: Path) -> tuple[dict[str, Any], ...]:
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise RunError(
            f"{path} cannot be read ({error.strerror}): start the run first"
        ) from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            # A run that goes on is writing it.
            break
        row = read_record(line)
        if row is None:
            raise RunError(
                f"line {number} of {path} is no record of metrics: remove the line"
            )
        rows.append(row)
    return tuple(rows)
