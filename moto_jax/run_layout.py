"""What a run's files and keys are called, and how its files are read, in one place."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CONFIG_NAME = "config.json"
# Held by the process that trains in the directory.
LOCK_NAME = ".lock"
METRICS_NAME = "metrics.jsonl"
SUMMARY_NAME = "summary.json"

# A run is evaluated before training and in each of its phases.
PHASES = ("before", "offline", "online")

# Those that are evaluated.
POLICIES = ("mean", "sampled")

# Suffix of a result's name -> the policy it is of.
POLICY_SUFFIXES = {"": "mean", "_sampled": "sampled"}

# Where things lie, how a machine is used and what is written when: runs that differ in
# nothing else are equal.
HOUSEKEEPING_KEYS = (
    "data.directory",
    "distributed",
    "env.workers",
    "mesh.data",
    "mesh.seed",
    "sinks",
    "training.checkpoint_every",
    "training.evaluate_every",
    "training.keep_checkpoints",
    "training.log_every",
)

# Of them those that may change while a run goes on.
CHANGEABLE_KEYS = ("sinks",)

# Housekeeping that is no more: files that have it read as if they had not.
_RETIRED_KEYS = ("tensorboard",)

# Keys that came later, with the value of the runs from before.
LATER_KEYS = {
    "combo.backup_entropy": True,
    "cql.backup_entropy": True,
    "env.modules": "",
    "env.name": "kitchen",
    "env.options": "",
    "env.success_reward": 0.0,
    "evaluation.phase_end_episodes": 0,
    "init_from": "",
    "lompo.entropy_scale": 1.0,
    "moto.critic_layers": -1,
    "moto.critic_learning_rate": 0.0,
    "moto.value_decay_begin": 0,
    "moto.value_decay_steps": 0,
    "moto.value_final_share": 1.0,
    "optimizer.muon_scale": 0.0,
    "replay.behaviour_rows_after": 10,
    "replay.behaviour_share": 0.0,
    "replay.cloned_action": "executed",
    "replay.prefer_successes": False,
    "rlpd.critics": 10,
    "rlpd.target_critics": 2,
    "sinks": "",
    "training.collect_noise_std": 0.05,
    "training.evaluate_online_every": 0,
    "training.episodes_per_round": 1,
    "training.updates_per_program": 1,
    "world_model.colour_scale": 1.0,
}


class RunError(ValueError):
    """A run's directory that cannot be used as it is; the message names the file."""


def seed_directory(path: Path, seeds: Sequence[int], seed: int) -> Path:
    """Returns where a seed's files of a run lie: a run of one seed has no folder more.

    Args:
      path: of the run.
      seeds: all that it trains.
      seed: one of them.
    """
    return path if len(seeds) == 1 else path / f"seed{seed}"


def program_directory(path: Path) -> Path:
    """Returns the directory of the run that a seed's directory belongs to."""
    path = path.resolve()
    is_seed = path.name.startswith("seed") and (path.parent / CONFIG_NAME).is_file()
    return path.parent if is_seed else path


def read_object(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Raises:
      RunError: if it cannot be read, or is none.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    # JSON that is nested too deep is not a ValueError.
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read ({error}): restore it") from None
    if not isinstance(value, dict):
        raise RunError(f"{path} holds no JSON object: restore it")
    return value


def read_record(line: bytes | str) -> dict[str, Any] | None:
    """Returns a line of metrics; None unless its step, phase and numbers are such."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    types = {"step": int, "phase": str, "wall_seconds": int | float}
    fits = record.keys() >= types.keys() and all(
        isinstance(value, types.get(name, int | float | None))
        for name, value in record.items()
    )
    return record if fits else None


def flat_config(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a nested configuration as dotted key -> value, today's keys only."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flat_config(value, f"{prefix}{key}."))
        elif prefix + key not in _RETIRED_KEYS:
            flat[prefix + key] = value
    return flat


def with_later_keys(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a nested configuration with those of `LATER_KEYS` that it lacks.

    A section that is missing whole stays so: then it is no configuration of any age.
    """
    whole = copy.deepcopy(dict(tree))
    for key, value in LATER_KEYS.items():
        section, _, name = key.rpartition(".")
        place = whole.get(section) if section else whole
        if isinstance(place, dict):
            place.setdefault(name, value)
    return whole
