"""R9: numbers that are not finite; R10: the same numbers again; R11: seeds together."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.scale import Program as UpdateProgram
from experiments.benchmarks.scale import config_of, differences
from experiments.benchmarks.update import random_batch, size_of
from experiments.soak.runs import (
    Program,
    World,
    metrics,
    require_same_end,
    unbroken,
)
from experiments.soak.trials import Lost, Outcome
from moto_jax.types import Batch

# --- R9 -------------------------------------------------------------------------------

_SIZE = "tiny"


def _spoilt(field: str, value: float) -> Callable[[Batch], Batch]:
    """Returns what sets one number of a field of a batch."""

    def change(batch: Batch) -> Batch:
        array = np.array(getattr(batch, field))
        array.flat[array.size // 2] = value
        return dataclasses.replace(batch, **{field: array})

    return change


# A reward of 1e25 has a square that float32 cannot hold: the loss is infinite.
INJECTIONS: dict[str, Callable[[Batch], Batch]] = {
    "NaN in a reward": _spoilt("reward", np.nan),
    "infinite reward": _spoilt("reward", np.inf),
    "minus infinite reward": _spoilt("reward", -np.inf),
    "NaN in an action": _spoilt("prev_action", np.nan),
    "infinite action": _spoilt("prev_action", np.inf),
    "NaN in a cloned action": _spoilt("behaviour_action", np.nan),
    "infinite loss": _spoilt("reward", 1e25),
    "minus infinite action": _spoilt("prev_action", -np.inf),
}


@functools.cache
def _update_program() -> UpdateProgram:
    return UpdateProgram(config_of(_SIZE, 1))


def _learners(state: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state.learners)]


def _alike(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(one.tobytes() == two.tobytes() for one, two in pairs)


def not_finite(number: int, directory: Path) -> Outcome:
    """R9: the update is thrown away and counted, and the next one learns."""
    del directory
    kind = list(INJECTIONS)[number % len(INJECTIONS)]
    program = _update_program()
    at = int(np.random.default_rng([9, number]).integers(1, 5))
    batches = [random_batch(size_of(config_of(_SIZE, 1)), one) for one in range(at + 2)]
    spoilt = INJECTIONS[kind](batches[at])
    if kind == "NaN in a cloned action":
        cloned = np.ones_like(np.asarray(spoilt.is_behaviour))
        spoilt = dataclasses.replace(spoilt, is_behaviour=cloned)
    program.run([0], batches[:at])
    before = _learners(program.state)
    after, counted = _go_on(program, spoilt)
    if counted != 1:
        raise Lost(f"{counted:.0f} updates counted as skipped", kind)
    if not _alike(before, after):
        raise Lost("what is learnt has changed", kind)
    after, counted = _go_on(program, batches[at + 1])
    if counted or _alike(before, after):
        raise Lost("the next update does not learn", kind)
    if not all(np.isfinite(leaf).all() for leaf in after if leaf.dtype.kind == "f"):
        raise Lost("what is learnt is not finite", kind)
    return Outcome("skipped, counted, and learning goes on", kind)


def _go_on(program: UpdateProgram, batch: Batch) -> tuple[list[np.ndarray], float]:
    """Does one update; returns what is learnt, and the updates skipped in a row."""
    found = program.step(batch)
    return _learners(program.state), float(found["skipped_in_a_row"][0])


# --- R10 ------------------------------------------------------------------------------


def again(world: World, number: int, directory: Path) -> Outcome:
    """R10: the same seed in other processes, hashes and numbers of workers."""
    whole = unbroken(world, directory)
    workers = (1, 4)[number % 2]
    environment = {"PYTHONHASHSEED": str(number)}
    workdir = directory / "run"
    flags = [] if world.name != "kitchen" else [f"--config.env.workers={workers}"]
    with Program(world, workdir, *flags, environment=environment) as program:
        status = program.wait()
    if status:
        raise Lost(f"status {status}: {program.last_words}")
    names = sorted(os.listdir(whole / "dataset"))
    for name in names:
        ours, theirs = ((run / "dataset" / name) for run in (workdir, whole))
        if not ours.exists() or ours.read_bytes() != theirs.read_bytes():
            raise Lost(f"demonstration {name} differs")
    require_same_end(workdir, whole)
    return Outcome(f"{len(metrics(workdir))} lines and the state alike", "run")


# --- R11 ------------------------------------------------------------------------------

_MOST = 1e-4


def together(number: int, directory: Path) -> Outcome:
    """R11: five seeds by vmap and each alone, 200 updates."""
    del directory
    seeds = tuple(5 * number + one for one in range(5))
    found = differences(_SIZE, 200, seeds, {"vmap": jax.vmap})["vmap"]
    if not found <= _MOST:
        raise Lost(f"largest relative difference {found:.1e}")
    return Outcome(f"largest relative difference {found:.1e}", "run")
