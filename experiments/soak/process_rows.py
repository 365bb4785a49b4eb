"""R1, R2: a run that is killed or asked to stop, at any moment."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from experiments.soak.runs import (
    CHECKPOINTS,
    Program,
    World,
    begun,
    finish,
    metrics,
    require_intact,
    require_one_sentence,
    require_same_end,
    unbroken,
)
from experiments.soak.trials import Lost, Outcome
from moto_jax.running import checkpoints
from moto_jax.running.online_episodes import collected

_SAVE_WITHIN_S = 30.0

PLACES: tuple[str, ...] = ("in a save", "in a collection", "between")


def _saves(workdir: Path) -> bool:
    return any((workdir / CHECKPOINTS).glob("*.partial"))


def _last_phase(workdir: Path) -> tuple[int, str]:
    lines = metrics(workdir)
    return (lines[-1]["step"], lines[-1]["phase"]) if lines else (-1, "")


def _collects(workdir: Path, episodes: int, offline: int) -> bool:
    """Whether an online episode is under way, by what lies in the directory.

    The first is set out for once the offline phase is evaluated and saved, each other
    when the one before has been stored.
    """
    stored = len(collected(workdir / "online"))
    step, phase = _last_phase(workdir)
    if not stored:
        saved = (workdir / CHECKPOINTS / str(offline) / "metadata.json").exists()
        return step == offline and phase == "evaluation offline" and saved
    return stored < episodes and not _saves(workdir)


def _moment(
    workdir: Path, place: str, whole: Path, generator: np.random.Generator
) -> Callable[[], bool]:
    """Returns whether a run has come to the moment of a kill.

    Args:
      workdir: of the run.
      place: of `PLACES`.
      whole: an unbroken run.
      generator: draws how many moments of the kind are let pass.
    """
    episodes = len(collected(whole / "online"))
    lines = metrics(whole)
    offline = max(one["step"] for one in lines if one["phase"] == "offline")
    saves = len(checkpoints.steps(whole / CHECKPOINTS))
    moments = (saves, episodes, len(lines))[PLACES.index(place)]
    skip = int(generator.integers(moments))
    passed: set[object] = set()

    def seen() -> bool:
        if place == "in a save":
            passed.update(path.name for path in (workdir / CHECKPOINTS).glob("*.part*"))
            return len(passed) > skip and _saves(workdir)
        if place == "in a collection":
            if _collects(workdir, episodes, offline):
                passed.add(len(collected(workdir / "online")))
            return len(passed) > skip
        return len(metrics(workdir)) > skip

    return seen


def _where(workdir: Path, whole: Path) -> str:
    """Returns of `PLACES` where a run was when it was killed, by what it left."""
    lines = metrics(whole)
    offline = max(one["step"] for one in lines if one["phase"] == "offline")
    if _saves(workdir):
        return "in a save"
    if _collects(workdir, len(collected(whole / "online")), offline):
        return "in a collection"
    return "between"


def killed(world: World, number: int, directory: Path) -> Outcome:
    """R1: kill -9 at a random moment; the same command ends as an unbroken run does."""
    whole = unbroken(world, directory)
    workdir = begun(world, directory)
    generator = np.random.default_rng([1, number])
    seen = _moment(workdir, PLACES[number % 3], whole, generator)
    with Program(world, workdir) as program:
        program.until(seen)
        time.sleep(generator.uniform(0.0, 0.05))
        status = program.end(signal.SIGKILL)
    if status != -signal.SIGKILL:
        return Outcome("had ended before the kill", "too late", tried=0)
    kind = _where(workdir, whole)
    step, _ = _last_phase(workdir)
    try:
        require_intact(
            workdir,
            [
                one
                for one in checkpoints.steps(workdir / CHECKPOINTS)
                if (workdir / CHECKPOINTS / str(one) / "metadata.json").exists()
            ],
        )
        finish(world, workdir)
        require_same_end(workdir, whole)
    except Lost as error:
        raise Lost(f"killed {kind} at update {step}: {error}", kind) from None
    return Outcome(f"killed {kind} at update {step}: ended alike", kind)


def stopped(world: World, number: int, directory: Path) -> Outcome:
    """R2: SIGTERM; status 143 and saved soon, with every update that was done."""
    whole = unbroken(world, directory)
    workdir = begun(world, directory)
    generator = np.random.default_rng([2, number])
    lines = int(generator.integers(1, len(metrics(whole)) - 1))
    with Program(world, workdir) as program:
        program.until(lambda: len(metrics(workdir)) >= lines)
        time.sleep(generator.uniform(0.0, 0.1))
        start = time.monotonic()
        status = program.end(signal.SIGTERM)
        seconds = time.monotonic() - start
        if not status:
            return Outcome("had ended before the signal", "too late", tried=0)
        said = require_one_sentence(program, status, 128 + signal.SIGTERM)
    if seconds > _SAVE_WITHIN_S:
        raise Lost(f"took {seconds:.0f} s")
    done, _ = _last_phase(workdir)
    saved = checkpoints.latest(workdir / CHECKPOINTS)
    if saved is None or saved < done:
        raise Lost(f"{done} updates done, {saved} saved: {said}")
    ours, theirs = metrics(workdir), metrics(whole)
    if ours != theirs[: len(ours)]:
        raise Lost("the metrics are not how an unbroken run begins")
    return Outcome(f"saved {saved} updates in {seconds:.1f} s", "saved")
