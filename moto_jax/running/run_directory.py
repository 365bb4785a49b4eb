"""A run's directory: who owns it, what configuration made it, what it left behind.

config.json      the resolved configuration
dataset/         demonstrations, unless they come from elsewhere
checkpoints/     the newest few, whole states of all seeds

and for each seed, in the directory itself where there is one, in `seed0`, `seed1` and
so on where there are several:

config.json      the same for this seed alone
online/          one npz a collected episode
metrics.jsonl    numbers by step
videos/          evaluation episodes
summary.json     the run in figures, written at the end
"""

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moto_jax.data.files import write_atomically
from moto_jax.run_layout import (
    CHANGEABLE_KEYS,
    CONFIG_NAME,
    LATER_KEYS,
    LOCK_NAME,
    METRICS_NAME,
    SUMMARY_NAME,
    RunError,
    flat_config,
    read_object,
    read_record,
    seed_directory,
)
from moto_jax.running import checkpoints, provenance
from moto_jax.running.run_control import Stopwatch

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def claimed(directory: Path, config: Mapping[str, Any]) -> Iterator[None]:
    """Makes the directory this process's own, for a run of this configuration.

    Where the file system has no locks, that is said, and nobody is kept out.

    Args:
      directory: made where missing.
      config: the resolved configuration, JSON-able; `bind` writes it.

    Raises:
      RunError: if another process uses the directory, or its configuration differs.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / LOCK_NAME, "a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{directory} is in use by another process: wait for it to end, or "
                "give another --workdir"
            ) from None
        # NFS without its lock daemon, Lustre mounted without flock.
        except OSError as error:
            _log.warning(
                "the file system of %s cannot lock files (%s): nothing here keeps a "
                "second process out of this run",
                *(directory, error.strerror),
            )
        check_config(directory, config)
        yield


def bind(directory: Path, config: Mapping[str, Any]) -> None:
    """Makes the directory, and those of its seeds, this configuration's for good.

    Called once the demonstrations are there: a command that failed before can be mended
    and given again with the same directory.
    """
    seeds = config["seeds"]
    for seed in seeds:
        own = seed_directory(directory, seeds, seed)
        own.mkdir(exist_ok=True)
        _write_once(own / CONFIG_NAME, {**config, "seeds": [seed]})
    _write_once(directory / CONFIG_NAME, config)


def _write_once(path: Path, config: Mapping[str, Any]) -> None:
    if not path.exists():
        write_json(path, config)


def check_config(directory: Path, config: Mapping[str, Any]) -> None:
    """Raises RunError if the directory is bound to another configuration."""
    path = directory / CONFIG_NAME
    if not path.exists():
        return
    made_with = LATER_KEYS | flat_config(read_object(path))
    # Through JSON, so that a tuple and the list it was saved as are equal.
    wanted = LATER_KEYS | flat_config(json.loads(json.dumps(config)))
    for key in sorted((made_with.keys() | wanted.keys()) - set(CHANGEABLE_KEYS)):
        if made_with.get(key) != wanted.get(key):
            raise RunError(
                f"{directory} was made with config.{key} = {made_with.get(key)!r}, not "
                f"{wanted.get(key)!r}: use that value, or another --workdir, where "
                f"--init_from={directory} starts from this run"
            )


def check_versions(directory: Path, devices: Sequence[int], allow_change: bool) -> None:
    """Raises RunError if the newest checkpoint was made with other programs or devices.

    Args:
      directory: of a run that has a checkpoint.
      devices: groups, and devices of each.
      allow_change: whether they may be others.
    """
    metadata = checkpoints.read_metadata(directory)
    before = {name: metadata["versions"].get(name) for name in provenance.DECISIVE}
    after = {name: provenance.versions().get(name) for name in provenance.DECISIVE}
    before["groups x devices"] = " x ".join(map(str, metadata["devices"]))
    after["groups x devices"] = " x ".join(map(str, devices))
    for what in before:
        if before[what] != after[what] and not allow_change:
            raise RunError(
                f"{directory} was made with {what} {before[what]}, not {after[what]}: "
                "use the same, or accept other numbers with --allow_version_change"
            )


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes an object as JSON, whole or not at all."""
    text = json.dumps(value, indent=2, allow_nan=False) + os.linesep
    write_atomically(path, text.encode())


def write_summary(directory: Path, watch: Stopwatch, peak_rss_bytes: int) -> None:
    """Writes one seed's figures of a finished run: metrics, time, memory, machine.

    Time and memory are those of all seeds together. For each of the phases "before",
    "offline" and "online": `objects_*`, the mean number of the task's objects completed
    an evaluation episode, `success_*`, the share of episodes that completed all, and
    `success_at_end_*`, the share that had all in their goal at the last step, of the
    mean policy; the same with `_sampled` at the end of the name, of the sampled one;
    `cloned_share_*`, the share of stored rows whose action is cloned.
    """
    summary: dict[str, Any] = {}
    lines = (directory / METRICS_NAME).read_text(encoding="utf-8").splitlines()
    for record in filter(None, map(read_record, lines)):
        # Of several evaluations in a phase the last one counts.
        kind, _, phase = record["phase"].partition(" ")
        if kind == "evaluation":
            for figure in ("objects", "success", "success_at_end"):
                summary[f"{figure}_{phase}"] = record[f"mean/{figure}"]
                summary[f"{figure}_{phase}_sampled"] = record[f"sampled/{figure}"]
            summary[f"cloned_share_{phase}"] = record["cloned_share"]
        summary["updates"] = record["step"]
    rounded = {part: round(seconds, 1) for part, seconds in watch.seconds.items()}
    summary["wall_seconds"] = rounded | {"total": round(sum(rounded.values()), 1)}
    summary["peak_rss_bytes"] = peak_rss_bytes
    summary["hardware"] = provenance.hardware()
    summary["versions"] = provenance.versions()
    summary["commit"] = provenance.commit()
    write_json(directory / SUMMARY_NAME, summary)
