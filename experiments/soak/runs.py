"""Real runs of the training program: started, watched from outside, compared."""

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.soak.trials import Lost, shared
from moto_jax.run_layout import (
    CONFIG_NAME,
    METRICS_NAME,
    SUMMARY_NAME,
    read_object,
    read_record,
    seed_directory,
)
from moto_jax.running import checkpoints, manifests
from moto_jax.running.online_episodes import collected
from moto_jax.running.restoring import restore_agent

ROOT = Path(__file__).parents[2]
CHECKPOINTS = "checkpoints"

# Longer than anything takes on a busy machine.
_PATIENCE_S = 1800.0
_LOOK_EVERY_S = 0.002

# Every checkpoint is kept, so that a run can be taken back to any of them.
_COMMON = (
    "--config=experiments/configs/mixed.py:tiny",
    "--config.training.online_episodes=4",
    "--config.training.keep_checkpoints=20",
)


class World(NamedTuple):
    """Where the runs of a soak learn; of MOTO at `tiny`.

    Attributes:
      name: of the world.
      flags: of the run.
    """

    name: str
    flags: tuple[str, ...]


WORLDS = {
    "kitchen": World("kitchen", (*_COMMON, "--config.env.episode_steps=40")),
    "mini": World(
        "mini",
        (
            *_COMMON,
            "--config.env.name=minikitchen",
            "--config.env.render_profile=mini",
            "--config.env.image_size=16",
            "--config.env.episode_steps=64",
        ),
    ),
}


class Program:
    """A run of the training program, in a process of its own; use it as a context."""

    def __init__(
        self,
        world: World,
        workdir: Path,
        *flags: str,
        largest_file: int | None = None,
        environment: dict[str, str] | None = None,
        through: Sequence[str] = (),
        name: str = "",
    ):
        """Starts it.

        Args:
          world: where it learns.
          workdir: its directory.
          *flags: others.
          largest_file: bytes that a file may have which it writes, where bounded.
          environment: variables beside those of this process.
          through: words of a command that replaces itself by the one behind them.
          name: of one of several programs of a directory.
        """
        self.workdir = workdir
        self._said = workdir.with_name(f"{workdir.name}{name}.said")
        self._started = self._said.stat().st_size if self._said.exists() else 0
        command = [sys.executable, "-W", "ignore", "-m", "experiments.run"]
        with self._said.open("ab") as said:
            self.process = subprocess.Popen(
                [*through, *command, *world.flags, f"--workdir={workdir}", *flags],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        if largest_file is not None:
            bounds = (largest_file, resource.RLIM_INFINITY)
            # While it is still starting: it has written nothing.
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, bounds)

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *unused: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def said(self) -> str:
        """What it has printed, in this start of it."""
        text = self._said.read_bytes()[self._started :]
        return text.decode(errors="replace")

    @property
    def last_words(self) -> str:
        """The last lines of what it has said, as one."""
        return " / ".join(self.said.splitlines()[-3:])[-400:]

    def until(self, seen: Callable[[], Any]) -> bool:
        """Waits until something is seen; returns whether it was before the end."""
        deadline = time.monotonic() + _PATIENCE_S
        while self.process.poll() is None and time.monotonic() < deadline:
            if seen():
                return True
            time.sleep(_LOOK_EVERY_S)
        return False

    def wait(self, seconds: float = _PATIENCE_S) -> int:
        """Waits for the end; returns the status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Lost(
                f"did not end within {seconds:.0f} s: {self.last_words}"
            ) from None

    def end(self, number: int) -> int:
        """Sends a signal and waits for the end; returns the status."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        return self.wait()

    @property
    def children(self) -> list[int]:
        """The process ids of its environment workers."""
        found = []
        for task in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(one) for one in task.read_text().split()]
        return [one for one in found if b"acting.worker" in _command_line(one)]


def _command_line(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def finish(world: World, workdir: Path, *flags: str) -> None:
    """Gives the run's command, which must do it to its end.

    Raises:
      Lost: if it does not.
    """
    with Program(world, workdir, *flags) as program:
        status = program.wait()
    if status:
        raise Lost(f"the same command ended with status {status}: {program.last_words}")


def unbroken(world: World, directory: Path) -> Path:
    """Returns the directory of a run that nothing interrupted, made once for a soak."""

    def make(place: Path) -> None:
        finish(world, place / "run")

    return shared(directory, f"unbroken-{world.name}", make) / "run"


def copied(run: Path, to: Path, step: int | None = None) -> Path:
    """Copies a run, taken back to a checkpoint of its where one is given."""
    shutil.copytree(run, to)
    if step is not None:
        for newer in checkpoints.steps(to / CHECKPOINTS):
            if newer > step:
                shutil.rmtree(to / CHECKPOINTS / str(newer))
        (to / SUMMARY_NAME).unlink()
    return to


def begun(world: World, directory: Path) -> Path:
    """Returns a directory with the unbroken run's demonstrations alone."""
    workdir = directory / "run"
    shutil.copytree(unbroken(world, directory) / "dataset", workdir / "dataset")
    return workdir


def metrics(workdir: Path) -> list[dict[str, Any]]:
    """Returns the lines of metrics that are whole, without what tells of time."""
    path = workdir / METRICS_NAME
    if not path.exists():
        return []
    records = filter(None, map(read_record, path.read_bytes().splitlines()))
    return [
        {key: value for key, value in record.items() if not key.startswith("wall_")}
        for record in records
    ]


def leaves(workdir: Path, seed: int | None = None) -> dict[str, bytes]:
    """Returns name -> bytes of the newest checkpoint's state, of one of its seeds."""
    state = restore_agent(workdir, seed).state
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        found[jax.tree_util.keystr(path)] = leaf_bytes(leaf)
    return found


def leaf_bytes(leaf: Any) -> bytes:
    """Returns the bits of an array, or of typed random keys."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def require_same_end(workdir: Path, other: Path) -> None:
    """Raises Lost unless two runs have ended alike, bit for bit, with each seed."""
    seeds = read_object(other / CONFIG_NAME)["seeds"]
    for seed in seeds:
        places = [seed_directory(run, seeds, seed) for run in (workdir, other)]
        _require_same_record(*places)
        one, two = leaves(workdir, seed), leaves(other, seed)
        different = sorted(name for name in two if one.get(name) != two[name])
        if different or one.keys() != two.keys():
            raise Lost(f"the final state differs in {different[:3]}")


def _require_same_record(workdir: Path, other: Path) -> None:
    """Raises Lost unless a seed's metrics and episodes are alike."""
    ours, theirs = metrics(workdir), metrics(other)
    for number, (one, two) in enumerate(zip(ours, theirs, strict=False), 1):
        if one != two:
            different = sorted(key for key in one if one[key] != two.get(key))
            raise Lost(f"line {number} of metrics differs in {different[:3]}")
    if len(ours) != len(theirs):
        raise Lost(f"{len(ours)} lines of metrics instead of {len(theirs)}")
    episodes = [
        {
            number: path.read_bytes()
            for number, path in collected(run / "online").items()
        }
        for run in (workdir, other)
    ]
    if episodes[0] != episodes[1]:
        raise Lost("the online episodes differ")


def require_intact(workdir: Path, steps: Sequence[int]) -> None:
    """Raises Lost unless checkpoints are there and verify."""
    for step in steps:
        fault = manifests.fault(workdir / CHECKPOINTS / str(step))
        if fault is not None:
            raise Lost(f"checkpoint {step} is no longer intact: {fault}")


def require_one_sentence(program: Program, status: int, wanted: int) -> str:
    """Returns the sentence that a program ended with.

    Raises:
      Lost: for another status, or a traceback.
    """
    if status != wanted:
        raise Lost(f"status {status} instead of {wanted}: {program.last_words}")
    if "Traceback" in program.said:
        raise Lost(f"a traceback: {program.last_words}")
    lines = program.said.strip().splitlines()
    if wanted == 1 and not lines[-1].startswith("error: "):
        raise Lost(f"no sentence at the end: {program.last_words}")
    return lines[-1]
