"""R12: runs taken up otherwise than they were made; R13: files that would run code.

R15: two processes in one directory, and sinks that are down.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np

from experiments.soak import corpus
from experiments.soak.checkpoint_rows import abstract_states_of, full, read_only
from experiments.soak.runs import (
    CHECKPOINTS,
    ROOT,
    Program,
    World,
    begun,
    copied,
    metrics,
    require_one_sentence,
    require_same_end,
    unbroken,
)
from experiments.soak.trials import Lost, Outcome
from moto_jax.running import checkpoints, manifests

# --- R12 ------------------------------------------------------------------------------


def _another_version(run: Path) -> None:
    """Makes the newest checkpoint one of another jax, its manifest right."""
    newest = run / CHECKPOINTS / str(checkpoints.steps(run / CHECKPOINTS)[-1])
    path = newest / "metadata.json"
    description = json.loads(path.read_text())
    description["metadata"]["versions"]["jax"] = "0.1.0"
    path.write_text(json.dumps(description))
    manifests.write_manifest(newest)


class _Change:
    """What is otherwise when a run is taken up, and what the refusal must name."""

    def __init__(
        self,
        told: str,
        flags: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
        prepare: Callable[[Path], None] = lambda run: None,
    ):
        self.told, self.flags = told, flags
        self.environment, self.prepare = environment or {}, prepare


CHANGES = {
    "configuration": _Change("config.moto.alpha", flags=("--config.moto.alpha=0.125",)),
    "version of jax": _Change("jax 0.1.0", prepare=_another_version),
    "number of devices": _Change(
        "groups x devices",
        environment={"XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
    ),
    "dtype": _Change("bfloat16"),
}


def changed(world: World, number: int, directory: Path) -> Outcome:
    """R12: one sentence says what is otherwise, and nothing is written."""
    kind = list(CHANGES)[number % len(CHANGES)]
    change = CHANGES[kind]
    whole = unbroken(world, directory)
    if kind == "dtype":
        return _other_dtype(whole, kind)
    steps = checkpoints.steps(whole / CHECKPOINTS)
    run = copied(whole, directory / "run", steps[0])
    change.prepare(run)
    before = _contents(run)
    with Program(world, run, *change.flags, environment=change.environment) as program:
        said = require_one_sentence(program, program.wait(), 1)
    if change.told not in said:
        raise Lost(f"{change.told} is not named: {said}", kind)
    if _contents(run) != before:
        raise Lost("the directory is no longer as it was", kind)
    return Outcome(said, kind)


def _other_dtype(whole: Path, kind: str) -> Outcome:
    asked = jax.tree.map(
        lambda leaf: (
            jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16)
            if leaf.dtype == np.float32
            else leaf
        ),
        abstract_states_of(whole),
    )
    try:
        checkpoints.restore(whole, asked)
    except checkpoints.CheckpointError as error:
        if "bfloat16" in str(error) and "float32" in str(error):
            return Outcome(str(error), kind)
        raise Lost(str(error), kind) from None
    raise Lost("float32 was restored as bfloat16", kind)


def _contents(directory: Path) -> dict[Path, bytes]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in files}


# --- R13 ------------------------------------------------------------------------------


def _program(name: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"experiments.{name}", *flags],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1800,
    )


class _Runs:
    """What makes the canary where it is unpickled."""

    def __init__(self, canary: Path):
        self._canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._canary),)


def _pickled(directory: Path, canary: Path) -> tuple[str, ...]:
    reward = np.array([_Runs(canary)] * corpus.ROWS, object)
    folder = directory / "pixels"
    folder.mkdir()
    fields = corpus.valid_fields() | {"reward": reward}
    np.savez(folder / "0.npz", **fields)  # pyright: ignore[reportArgumentType]
    out = str(directory / "dataset")
    return "data", "convert", out, "--source=pixels", f"--path={folder}"


def _entry_point(directory: Path, canary: Path) -> tuple[str, ...]:
    path = corpus.minari_of(lambda group: None, directory)
    spec = {"id": "x", "entry_point": "os:mkdir", "kwargs": {"path": str(canary)}}
    (directory / "metadata.json").write_text(json.dumps({"env_spec": spec}))
    with h5py.File(path, "a") as file:
        file.attrs["env_spec"] = json.dumps(spec)
        del file["episode_0/actions"]
        file["episode_0/actions"] = np.full((7, corpus.ACTIONS), np.nan)
    out = str(directory / "dataset")
    return "data", "convert", out, "--source=minari", f"--path={path}"


def _archive_path(directory: Path, canary: Path) -> tuple[str, ...]:
    up = f"../{canary.name}"
    member = corpus.claim((1,)) + b"x"
    contents = corpus.npz(corpus.valid_fields() | {up: member})
    return "data", "validate", str(corpus.write_dataset(directory, contents))


def _yaml_tag(directory: Path, canary: Path) -> tuple[str, ...]:
    dataset = corpus.write_dataset(directory, corpus.npz(corpus.valid_fields()))
    text = f"format: !!python/object/apply:os.mkdir ['{canary}']\n"
    (dataset / "manifest.json").write_text(text)
    return "data", "validate", str(dataset)


def changed_checkpoint(
    change: Callable[[dict[str, Any]], None], whole: Path, directory: Path
) -> tuple[str, ...]:
    """Evaluates a checkpoint whose configuration is changed, its manifest right."""
    run = directory / "run"
    step = checkpoints.steps(whole / CHECKPOINTS)[-1]
    newest = run / CHECKPOINTS / str(step)
    newest.parent.mkdir(parents=True)
    subprocess.run(["cp", "-r", whole / CHECKPOINTS / str(step), newest], check=True)
    path = newest / "metadata.json"
    description = json.loads(path.read_text())
    change(description["metadata"]["config"])
    path.write_text(json.dumps(description))
    manifests.write_manifest(newest)
    return "evaluate", f"--checkpoint={run}", f"--out={directory / 'out'}"


def _huge(config: dict[str, Any]) -> None:
    # Terabytes of parameters.
    config["world_model"]["deter"] = 10**6


def _unknown(config: dict[str, Any]) -> None:
    config["world_model"]["canary"] = "os.mkdir"


def _reserved(config: dict[str, Any]) -> None:
    config["env"]["__class__"] = "os.mkdir"


# In whose directory the canary would be.
FILES: dict[str, Callable[[Path, Path], tuple[str, ...]]] = {
    "pickled npz": _pickled,
    "entry point in Minari's metadata": _entry_point,
    "path out of an archive": _archive_path,
    "yaml tag": _yaml_tag,
}
CONFIGURATIONS = {
    "checkpoint with a huge network": _huge,
    "checkpoint with an unknown key": _unknown,
    "checkpoint with a reserved key": _reserved,
}
UNTRUSTED = (*FILES, *CONFIGURATIONS)


def untrusted(world: World, number: int, directory: Path) -> Outcome:
    """R13: is refused in one sentence, and nothing of it has run."""
    kind, canary = UNTRUSTED[number % len(UNTRUSTED)], directory / "canary"
    if kind in FILES:
        command = FILES[kind](directory, canary)
    else:
        whole = unbroken(world, directory)
        command = changed_checkpoint(CONFIGURATIONS[kind], whole, directory)
    done = _program(*command)
    said = done.stderr.strip()
    if list(directory.rglob(f"{canary.name}*")):
        raise Lost("the canary is there: something was run", kind)
    if done.returncode != 1 or "Traceback" in said:
        raise Lost(f"status {done.returncode}: {said[-300:]}", kind)
    if not said.splitlines()[-1].startswith("error: "):
        raise Lost(f"no sentence: {said[-300:]}", kind)
    return Outcome(said.splitlines()[-1], kind)


# --- R15 ------------------------------------------------------------------------------

SECONDS = 10


def second_process(world: World, number: int, directory: Path) -> Outcome:
    """R15: ten further processes are refused; the first ends as an unbroken run."""
    whole = unbroken(world, directory)
    workdir = begun(world, directory)
    generator = np.random.default_rng([15, number])
    with Program(world, workdir) as first:
        first.until(lambda: bool(metrics(workdir)))
        for _ in range(SECONDS):
            time.sleep(generator.uniform(0.0, 0.3))
            # Held where it is, so that it does not end beside the others' imports.
            first.process.send_signal(signal.SIGSTOP)
            try:
                with Program(world, workdir) as second:
                    said = require_one_sentence(second, second.wait(), 1)
            finally:
                first.process.send_signal(signal.SIGCONT)
            if "is in use by another process" not in said:
                raise Lost(said)
        status = first.wait()
    if status:
        raise Lost(f"the first ended with status {status}: {first.last_words}")
    require_same_end(workdir, whole)
    return Outcome(said, "second process", tried=SECONDS)


SINK_FAULTS = ("file in the way", "read-only mount", "full tmpfs")


def sink_down(world: World, number: int, directory: Path) -> Outcome:
    """R15: TensorBoard cannot write; one warning, and the run ends as without it."""
    kind = SINK_FAULTS[number % len(SINK_FAULTS)]
    whole = unbroken(world, directory)
    workdir = begun(world, directory)
    place = workdir / "tensorboard"
    if kind == "file in the way":
        place.write_text("")
        faulty = None
    else:
        place.mkdir()
        faulty = read_only(place) if kind == "read-only mount" else full(place, 0)
    return _run_beside(world, workdir, whole, kind, faulty)


def _run_beside(
    world: World, workdir: Path, whole: Path, kind: str, faulty: Any
) -> Outcome:
    with (
        faulty or open(os.devnull),
        Program(world, workdir, "--config.sinks=tensorboard") as program,
    ):
        status = program.wait()
    if status:
        raise Lost(f"status {status}: {program.last_words}", kind)
    warned = [line for line in program.said.splitlines() if "switched off" in line]
    if len(warned) != 1:
        raise Lost(f"{len(warned)} warnings: {program.last_words}", kind)
    require_same_end(workdir, whole)
    return Outcome(warned[0], kind)
