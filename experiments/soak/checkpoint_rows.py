"""R3, R4: checkpoints that rot; R5: writes that fail."""

import functools
import json
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.soak.runs import (
    CHECKPOINTS,
    Program,
    World,
    copied,
    finish,
    leaf_bytes,
    require_intact,
    require_one_sentence,
    require_same_end,
    unbroken,
)
from experiments.soak.trials import CannotTryError, Lost, Outcome
from moto_jax.run_layout import METRICS_NAME
from moto_jax.running import checkpoints, manifests, restoring

# --- R3 -------------------------------------------------------------------------------


@functools.cache
def abstract_states_of(run: Path) -> Any:
    """Returns shapes and dtypes of what a run's checkpoints hold."""
    config = restoring.read_config(checkpoints.find(run))
    return restoring.abstract_states(restoring.build_agent(config), list(config.seeds))


@functools.cache
def _intact(run: Path, step: int) -> list[bytes]:
    state, _ = checkpoints.restore(
        run / CHECKPOINTS / str(step), abstract_states_of(run)
    )
    return _bytes(state)


def _bytes(state: Any) -> list[bytes]:
    return [leaf_bytes(leaf) for leaf in jax.tree.leaves(state)]


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Gives what the checkpoints' reader warns of, as it comes."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    log = logging.getLogger(checkpoints.__name__)
    log.addHandler(handler)
    before, log.propagate = log.propagate, False
    try:
        yield said
    finally:
        log.removeHandler(handler)
        log.propagate = before


def flipped_bit(world: World, number: int, directory: Path) -> Outcome:
    """R3: a bit of the newest checkpoint flips; what is wrong is never restored."""
    run = unbroken(world, directory)
    before, newest = checkpoints.steps(run / CHECKPOINTS)[-2:]
    for step in (before, newest):
        at = directory / CHECKPOINTS / str(step)
        shutil.copytree(run / CHECKPOINTS / str(step), at)
    damaged = directory / CHECKPOINTS / str(newest)
    generator = np.random.default_rng([3, number])
    files = [*manifests.files(damaged), damaged / manifests.MANIFEST_NAME]
    path = files[generator.integers(len(files))]
    contents = bytearray(path.read_bytes())
    position, bit = int(generator.integers(len(contents))), generator.integers(8)
    contents[position] ^= 1 << bit
    path.write_bytes(contents)
    kind = "in a manifest" if path.name == manifests.MANIFEST_NAME else "in a file"
    where = f"bit {bit} of byte {position} of {path.relative_to(damaged)}"
    with _warnings() as said:
        state, _ = checkpoints.restore(directory, abstract_states_of(run))
    if not said:
        if _bytes(state) != _intact(run, newest):
            raise Lost(f"{where}: another state, in silence")
        return Outcome(where, f"{kind}, restored alike")
    if _bytes(state) != _intact(run, before):
        raise Lost(f"{where}: {said}, but the state is not that of {before}")
    named = path.name in said[0] or path.name == manifests.MANIFEST_NAME
    if not said[0].startswith(f"checkpoint {newest} is corrupt: ") or not named:
        raise Lost(f"{where}: {said}")
    return Outcome(said[0], f"{kind}, named and the one before taken")


# --- R4 -------------------------------------------------------------------------------


def _largest(directory: Path) -> Path:
    return max(manifests.files(directory), key=lambda path: path.stat().st_size)


def _truncate(newest: Path) -> None:
    path = _largest(newest)
    os.truncate(path, path.stat().st_size // 2)


def _empty(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.mkdir()


def _leave_partial(newest: Path) -> None:
    shutil.copytree(newest, newest.with_name(f"{int(newest.name) + 2}.partial"))
    shutil.rmtree(newest)


def _damage_all(newest: Path) -> None:
    for step in newest.parent.iterdir():
        _truncate(step)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "file truncated": _truncate,
    "file deleted": lambda newest: _largest(newest).unlink(),
    "manifest deleted": lambda newest: (newest / manifests.MANIFEST_NAME).unlink(),
    "emptied": _empty,
    "unfinished save left": _leave_partial,
    "all steps truncated": _damage_all,
}


def damaged(world: World, number: int, directory: Path) -> Outcome:
    """R4: the run's command goes on from the step before, or names all steps."""
    kind = list(DAMAGES)[number % len(DAMAGES)]
    whole = unbroken(world, directory)
    run = copied(whole, directory / "run")
    steps = checkpoints.steps(run / CHECKPOINTS)
    DAMAGES[kind](run / CHECKPOINTS / str(steps[-1]))
    with Program(world, run) as program:
        status = program.wait()
    if kind == "all steps truncated":
        said = require_one_sentence(program, status, 1)
        missing = [step for step in steps if f"{step} (" not in said]
        if missing:
            raise Lost(f"steps {missing} are not named: {said}", kind)
        return Outcome(said, kind)
    if status:
        raise Lost(f"status {status}: {program.last_words}", kind)
    require_same_end(run, whole)
    named = f"checkpoint {steps[-1]} is corrupt: " in program.said
    if not named and kind != "unfinished save left":
        raise Lost(f"nothing was said of it: {program.last_words}", kind)
    left = [path.name for path in (run / CHECKPOINTS).iterdir()]
    if any(not name.isdecimal() for name in left):
        raise Lost(f"left-overs stay: {left}", kind)
    return Outcome(f"{kind}: taken up", kind)


# --- R5 -------------------------------------------------------------------------------


def _mount(*arguments: str) -> None:
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    except OSError as error:
        raise CannotTryError(f"there is no mount here ({error})") from None
    if done.returncode:
        raise CannotTryError(f"mount is not allowed here ({done.stderr.strip()})")


@contextmanager
def _mounted(target: Path, *arguments: str) -> Iterator[None]:
    _mount(*arguments, str(target))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(target)], check=True)


@contextmanager
def read_only(target: Path) -> Iterator[None]:
    """Makes a file or directory one that root cannot write either."""
    with _mounted(target, "--bind", str(target)):
        _mount("-o", "remount,ro,bind", str(target))
        yield


@contextmanager
def full(target: Path, spare: int) -> Iterator[None]:
    """Puts what is there on a file system with so many bytes free."""
    beside = target.parent.with_name(f"{target.parent.name}-full")
    beside.mkdir()
    size = sum(path.stat().st_size for path in target.rglob("*")) * 2 + 2**20
    with _mounted(beside, "-t", "tmpfs", "-o", f"size={size}", "tmpfs"):
        inside = beside / target.name
        if target.is_dir():
            shutil.copytree(target, inside)
        else:
            shutil.copy2(target, inside)
        free = shutil.disk_usage(beside).free
        (beside / "filler").write_bytes(bytes(max(0, free - spare)))
        with _mounted(target, "--bind", str(inside)):
            yield


TARGETS = ("checkpoint", "episode", "jsonl")
CAUSES = ("RLIMIT_FSIZE", "full tmpfs", "read-only mount")


def failing_write(world: World, number: int, directory: Path) -> Outcome:
    """R5: the run says so and stops; its checkpoints verify, and it can be taken up."""
    target, cause = TARGETS[number % 3], CAUSES[number // 3 % 3]
    kind = f"{target} on {cause}"
    whole = unbroken(world, directory)
    every = checkpoints.steps(whole / CHECKPOINTS)
    # What is written next is then metrics and a checkpoint, or an episode.
    step = every[1] if target == "episode" else every[0]
    run = copied(whole, directory / "run", step)
    place = {
        "checkpoint": run / CHECKPOINTS,
        "episode": run / "online",
        "jsonl": run / METRICS_NAME,
    }[target]
    bound, fault = None, nullcontext()
    if cause == "RLIMIT_FSIZE":
        bound = _bound(target, run, step)
    elif cause == "full tmpfs":
        _forget_after(run, step)
        fault = full(place, spare=8192 if target == "checkpoint" else 0)
    else:
        fault = read_only(place)
    with fault, Program(world, run, largest_file=bound) as program:
        said = require_one_sentence(program, program.wait(), 1)
    if place.name not in said:
        raise Lost(f"it does not name {place.name}: {said}", kind)
    require_intact(run, [step])
    finish(world, run)
    require_same_end(run, whole)
    return Outcome(said, kind)


def _forget_after(run: Path, step: int) -> None:
    """Removes what the run would remove, which would make room on a full disk."""
    metadata = checkpoints.read_metadata(run / CHECKPOINTS / str(step))
    (known,) = metadata["online_episodes"]
    for path in (run / "online").iterdir():
        if path.name not in known:
            path.unlink()
    lines = (run / METRICS_NAME).read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    (run / METRICS_NAME).write_bytes(b"".join(kept))


def _bound(target: str, run: Path, step: int) -> int:
    """Returns the bytes of a file that stop this target's writes before others'."""
    if target == "jsonl":
        lines = (run / METRICS_NAME).read_bytes().splitlines(keepends=True)
        return sum(len(line) for line in lines if json.loads(line)["step"] <= step)
    if target == "episode":
        return min(path.stat().st_size for path in (run / "online").iterdir()) - 1
    return _largest(run / CHECKPOINTS / str(step)).stat().st_size - 1
