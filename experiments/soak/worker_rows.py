"""R6, R7: environment workers that die, hang, raise or return nonsense."""

import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.soak.faulty_environment import FAULTS, MAKERS, Walk, make_faulty
from experiments.soak.runs import (
    Program,
    World,
    begun,
    metrics,
    require_same_end,
    unbroken,
)
from experiments.soak.trials import CannotTryError, Lost, Outcome
from moto_jax.acting.collection import (
    Play,
    PolicyStep,
    collect_episodes,
    make_policy_step,
)
from moto_jax.acting.worker_pool import WorkerPool
from moto_jax.data.episodes import Episode
from moto_jax.types import Policy

# --- R6 -------------------------------------------------------------------------------

# As many as a run survives: with one more in ten minutes it ends on purpose.
KILLS = 5
_RESTART_WITHIN_S = 10.0


def _ticks(process: int) -> int:
    """Returns the processor time that a process has used, in clock ticks."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1
    return int(fields[11]) + int(fields[12])


def _plays(process: int, before: int) -> bool:
    """Whether a worker resets or steps: it can draw by now, and computes."""
    try:
        drawing = "libEGL" in Path(f"/proc/{process}/maps").read_text()
    except OSError:
        return False
    return drawing and _ticks(process) > before >= 0


def _another(program: Program, workers: Sequence[int]) -> bool:
    """Whether a program has a worker that is none of these."""
    return bool(set(program.children) - set(workers))


def killed_workers(world: World, number: int, directory: Path) -> Outcome:
    """R6: workers are killed in the middle of episodes; the run ends as an unbroken."""
    if world.name != "kitchen":
        raise CannotTryError("the miniature has no workers: it plays on the device")
    whole = unbroken(world, directory)
    workdir = begun(world, directory)
    generator = np.random.default_rng([6, number])
    kills, slowest = 0, 0.0
    with Program(world, workdir) as program:
        program.until(lambda: bool(program.children))
        program.until(lambda: bool(metrics(workdir)))
        while kills < KILLS and program.process.poll() is None:
            workers = program.children
            if not workers:
                continue
            victim = workers[generator.integers(len(workers))]
            before = _ticks(victim)
            if not program.until(functools.partial(_plays, victim, before)):
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            start = time.monotonic()
            if not program.until(functools.partial(_another, program, workers)):
                break
            slowest = max(slowest, time.monotonic() - start)
            kills += 1
        status = program.wait()
    if status:
        raise Lost(f"status {status} after {kills} kills: {program.last_words}")
    require_same_end(workdir, whole)
    if slowest > _RESTART_WITHIN_S:
        raise Lost(f"a new process came after {slowest:.1f} s")
    said = f"a new process within {slowest:.1f} s at most"
    return Outcome(said, "run", tried=kills)


# --- R7 -------------------------------------------------------------------------------

_DEADLINE_S = 3.0
_SEEN_WITHIN_S = _DEADLINE_S + 1.0


@functools.cache
def _policy_step(actions: int) -> PolicyStep:
    """Returns a policy that remembers: a wrong row shows in all that follow."""

    def act(params, carry, image, is_first, key):
        del params
        carry = jnp.where(is_first, 0.0, carry)
        seen = jnp.mean(image.astype(jnp.float32), axis=(1, 2, 3)) / 255.0
        carry = jnp.sin(9.0 * carry + seen)
        noise = 0.1 * jax.random.normal(key, (len(image), actions))
        return jnp.clip(carry[:, None] + noise, -1.0, 1.0), carry

    return make_policy_step(Policy(lambda count: jnp.zeros(count), act))


def _play(pool: WorkerPool, actions: int) -> list[Episode]:
    plays = [Play(0, seed) for seed in range(3)]
    keys = jax.random.key(0)[None]
    return list(collect_episodes(pool, _policy_step(actions), None, keys, plays))


@functools.cache
def _unharmed(world: str) -> list[Episode]:
    with WorkerPool(MAKERS[world], 1) as pool:
        return _play(pool, _ACTIONS[world])


_ACTIONS = {"mini": 2, "kitchen": 9}


@contextlib.contextmanager
def _watched(pool: WorkerPool, seen: list[float]) -> Iterator[None]:
    """Notes when a worker is replaced, seconds since the epoch."""
    first, over = set(pool.process_ids), threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            if set(pool.process_ids) - first and not seen:
                seen.append(time.time())

    watching = threading.Thread(target=look)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()


def failing_worker(world: World, number: int, directory: Path) -> Outcome:
    """R7: a fault is seen within the deadline, and its episode played again, alike."""
    fault = FAULTS[number % len(FAULTS)]
    step = 1 + int(np.random.default_rng([7, number]).integers(Walk.length - 1))
    fuse = directory / "fuse"
    make_env = functools.partial(make_faulty, world.name, fault, step, fuse)
    expected = _unharmed(world.name)
    replaced: list[float] = []
    with (
        WorkerPool(make_env, 2, step_deadline_s=_DEADLINE_S) as pool,
        _watched(pool, replaced),
    ):
        episodes = _play(pool, _ACTIONS[world.name])
    if not fuse.exists() or not replaced:
        raise Lost("no worker was replaced", fault)
    seconds = replaced[0] - fuse.stat().st_mtime
    if seconds > _SEEN_WITHIN_S:
        raise Lost(f"seen after {seconds:.1f} s", fault)
    for one, other in zip(episodes, expected, strict=True):
        for name, field in other.fields().items():
            if not np.array_equal(one.fields()[name], field):
                raise Lost(f"field {name} differs from an unharmed episode's", fault)
    return Outcome(f"seen after {seconds:.1f} s of {_DEADLINE_S:.0f} s", fault)
