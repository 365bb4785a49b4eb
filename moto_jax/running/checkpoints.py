"""Checkpoints of a whole run: saved atomically, verified before they are used.

A checkpoint is one directory `DIRECTORY/<step>/`:

    state/            the pytree, written by orbax
    metadata.json     the caller's metadata and the shape and dtype of every leaf
    MANIFEST.sha256   checksum, size and path of every other file, written last

Orbax detects neither flipped bits nor a lost file before it trips over it, and it casts
dtypes without a word. So a step counts only if every file agrees with the manifest, and
a restored leaf is never of another shape or dtype than asked for.
"""

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from moto_jax.running import checkpoint_leaves, machines, manifests
from moto_jax.running.checkpoint_leaves import CheckpointError

_STATE = "state"

# Suffixes of directories that an interrupted save leaves behind.
_PARTIAL = ".partial"
_REPLACED = ".replaced"
_ORBAX_TEMPORARY = "orbax-checkpoint-tmp"

_log = logging.getLogger(__name__)


def save(
    directory: str | os.PathLike[str],
    step: int,
    state: Any,
    metadata: dict[str, Any],
    keep: int = 3,
) -> Path:
    """Saves a checkpoint and returns its directory `directory/<step>`.

    Of a run of several processes all must call it; each writes what its devices hold.
    The step appears under its name only when it is complete and on the disk. Left-overs
    of interrupted saves, steps newer than this one (a resumed run passed them over as
    corrupt) and all but the `keep` newest steps are then removed.

    Args:
      directory: where a run's steps lie; made where missing.
      step: at least 0; a checkpoint of the same step is replaced.
      state: pytree of JAX and NumPy arrays, typed random keys and NumPy scalars.
      metadata: what a reader needs before it can rebuild the state; valid JSON.
      keep: how many steps to keep, at least 1.

    Raises:
      CheckpointError: if the checkpoint cannot be written; earlier ones are as before.
    """
    directory = Path(directory).absolute()
    text = checkpoint_leaves.description(step, metadata, state)
    partial = directory / f"{step}{_PARTIAL}"
    try:
        if machines.is_first():
            directory.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(directory)
            _require_free_space(directory, state)
            partial.mkdir()
        machines.wait_for_all("checkpoint begun")
        _write_state(partial / _STATE, state)
        if machines.is_first():
            (partial / checkpoint_leaves.DESCRIPTION_NAME).write_text(text)
            manifests.write_manifest(partial)
            _commit(partial, directory / str(step))
    # TensorStore reports a full disk as a bare Exception.
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"checkpoint {step} could not be saved in {directory}: {reason}; earlier "
            "checkpoints are untouched: once that is mended, the same command goes on"
        ) from error
    finally:
        if machines.is_first():
            shutil.rmtree(partial, ignore_errors=True)
    if machines.is_first():
        _prune(directory, step, keep)
    machines.wait_for_all("checkpoint saved")
    return directory / str(step)


def latest(directory: str | os.PathLike[str]) -> int | None:
    """Returns the newest step that is intact, or None if there is no step at all.

    Raises:
      CheckpointError: if there are steps and none is intact.
    """
    directory = Path(directory)
    if not steps(directory):
        return None
    return int(_newest_intact(directory).name)


def steps(directory: Path) -> list[int]:
    """Returns the steps under a directory, intact or not, oldest first."""
    if not directory.is_dir():
        return []
    names = [path.name for path in directory.iterdir() if path.is_dir()]
    return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9]\d*", name))


def remove_all(directory: Path) -> None:
    """Removes every step, and what interrupted saves left; other files stay."""
    if directory.is_dir():
        _remove_leftovers(directory)
        for step in steps(directory):
            shutil.rmtree(directory / str(step))


def find(path: str | os.PathLike[str]) -> Path:
    """Returns the directory of an intact checkpoint.

    Args:
      path: a run (`RUN`), its checkpoints (`RUN/checkpoints`), or one step of them
        (`RUN/checkpoints/1200`). Of several steps the newest intact one is taken and
        each newer one is reported in a sentence; a step that is named must be intact.

    Raises:
      CheckpointError: if there is none.
    """
    path = Path(path).absolute()
    if (path / "checkpoints").is_dir():
        path = path / "checkpoints"
    elif manifests.has_manifest(path) or (path.is_dir() and path.name.isdecimal()):
        fault = manifests.fault(path)
        if fault is not None:
            raise CheckpointError(
                f"checkpoint {path} is corrupt: {fault}; give another step, or "
                f"{path.parent} for the newest intact one"
            )
        return path
    if not steps(path):
        raise CheckpointError(
            f"no checkpoint in {path}: give the directory of a run or of a step"
        )
    return _newest_intact(path)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the metadata of the checkpoint that `find(path)` finds.

    Raises:
      CheckpointError: if there is none.
    """
    return checkpoint_leaves.read_description(find(path))[1]


def restore(
    path: str | os.PathLike[str], abstract_state: Any
) -> tuple[Any, dict[str, Any]]:
    """Returns state and metadata of the checkpoint that `find(path)` finds.

    Args:
      path: a run, its checkpoints, or one step of them.
      abstract_state: a state, or the `jax.eval_shape` of one. A leaf that is NumPy
        there, or of 64 bits where JAX has only 32, comes back as NumPy; every other
        leaf comes back as a `jax.Array`, on the sharding it names or else on the
        default device.

    Raises:
      CheckpointError: if there is no intact checkpoint, or it has another structure,
        shape or dtype than asked for.
    """
    directory = find(path)
    checkpoint_leaves.require_same_leaves(directory, abstract_state)
    saved, metadata = checkpoint_leaves.read_description(directory)
    as_saved = checkpoint_leaves.lies_flat(saved, abstract_state)
    asked = checkpoint_leaves.flat(abstract_state) if as_saved else abstract_state
    targets = jax.tree.map(_restore_target, asked)
    try:
        with (
            _said_once(),
            ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer,
        ):
            restored = checkpointer.restore(
                directory / _STATE, args=ocp.args.StandardRestore(targets)
            )
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"checkpoint {directory} is intact but orbax cannot read it: {reason}; "
            "install requirements.lock of the commit that saved it"
        ) from error
    if as_saved:
        restored = checkpoint_leaves.unflattened(restored, abstract_state)
    return jax.tree.map(_as_asked, abstract_state, restored), metadata


@contextlib.contextmanager
def _said_once() -> Iterator[None]:
    """Leaves out what orbax logs of an error, a traceback, before it raises it."""
    log = logging.getLogger("absl")

    def is_others(record: logging.LogRecord) -> bool:
        return "orbax" not in Path(record.pathname).parts

    log.addFilter(is_others)
    try:
        yield
    finally:
        log.removeFilter(is_others)


def _write_state(directory: Path, state: Any) -> None:
    with (
        _said_once(),
        ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer,
    ):
        checkpointer.save(directory, args=ocp.args.StandardSave(state))


def _commit(partial: Path, final: Path) -> None:
    """Puts a complete step under its name, durably."""
    for folder, _, names in os.walk(partial):
        for name in names:
            _sync(Path(folder, name))
        _sync(Path(folder))
    replaced = final.with_name(final.name + _REPLACED)
    if final.exists():
        final.rename(replaced)
    partial.rename(final)
    _sync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _prune(directory: Path, step: int, keep: int) -> None:
    found = steps(directory)
    older = [other for other in found if other <= step]
    newer = [other for other in found if other > step]
    for other in older[:-keep] + newer:
        shutil.rmtree(directory / str(other), ignore_errors=True)


def _remove_leftovers(directory: Path) -> None:
    """Removes what interrupted saves left; a step without manifest is one of them."""
    for path in directory.iterdir():
        unfinished = path.name.endswith((_PARTIAL, _REPLACED))
        unfinished = unfinished or _ORBAX_TEMPORARY in path.name
        no_manifest = path.name.isdecimal() and not manifests.has_manifest(path)
        if path.is_dir() and (unfinished or no_manifest):
            shutil.rmtree(path)


def _require_free_space(directory: Path, state: Any) -> None:
    """Refuses to begin a save that would fill the disk half way."""
    found = steps(directory)
    if found:
        newest = manifests.files(directory / str(found[-1]))
        size = sum(file.stat().st_size for file in newest)
    else:
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    free = shutil.disk_usage(directory).free
    if free < 2 * size:
        raise CheckpointError(
            f"{free / 1e6:.1f} MB are free, twice the {size / 1e6:.1f} MB of a "
            "checkpoint are needed: free space"
        )


def _newest_intact(directory: Path) -> Path:
    faults: list[tuple[int, str]] = []
    for step in reversed(steps(directory)):
        fault = manifests.fault(directory / str(step))
        if fault is None:
            for corrupt, reason in faults:
                _log.warning(
                    "checkpoint %d is corrupt: %s; using %d", corrupt, reason, step
                )
            return directory / str(step)
        faults.append((step, fault))
    listed = ", ".join(f"{step} ({fault})" for step, fault in faults)
    raise CheckpointError(
        f"no checkpoint in {directory} is intact: {listed}; restore one from a copy, "
        "or train again with --fresh"
    )


def _restore_target(leaf: Any) -> Any:
    """Returns what tells orbax to read a leaf as NumPy, or onto which devices."""
    canonical = jax.dtypes.canonicalize_dtype(leaf.dtype, allow_extended_dtype=True)
    if isinstance(leaf, np.ndarray | np.generic) or canonical != leaf.dtype:
        return np.empty(leaf.shape, leaf.dtype)
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        # Orbax would else insist on the devices that the checkpoint was saved from.
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _as_asked(asked: Any, restored: Any) -> Any:
    """Turns orbax's 0-d arrays back into the NumPy scalars that were saved."""
    return restored[()] if isinstance(asked, np.generic) else restored
