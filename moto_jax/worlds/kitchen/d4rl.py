"""Reads D4RL's kitchen files, without trust in what is in them."""

import os
from pathlib import Path

import h5py
import numpy as np

from moto_jax.data.files import DatasetError

_NUM_ACTIONS = 9
_NUM_QPOS = 30
# Joint positions and goals. Gymnasium-robotics' 59 columns hold velocities instead.
_D4RL_COLUMNS = 60
_MAX_D4RL_ROWS = 500_000


def read_d4rl(path: str | os.PathLike[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Reads a D4RL kitchen file: joint positions and actions of its episodes.

    A row of the file is an observation and the action taken there; an episode ends
    where `terminals` or `timeouts` say. The last action of an episode is dropped, for
    what it led to was not recorded: n rows become n observations and n - 1 actions.
    A single row holds no action, and is skipped.

    Returns:
      For each episode qpos float32 [L + 1, 30] and action float32 [L, 9].

    Raises:
      DatasetError: names file and field.
    """
    path = Path(path)
    try:
        with h5py.File(path, "r") as file:
            observations = _read_hdf5_field(file, "observations", "f", _D4RL_COLUMNS)
            actions = _read_hdf5_field(file, "actions", "f", _NUM_ACTIONS)
            terminals = _read_hdf5_field(file, "terminals", "bui", None)
            timeouts = _read_hdf5_field(file, "timeouts", "bui", None)
        for name, field in (
            ("actions", actions),
            ("terminals", terminals),
            ("timeouts", timeouts),
        ):
            if len(field) != len(observations):
                raise DatasetError(
                    f"field '{name}' has {len(field)} rows, field 'observations' "
                    f"{len(observations)}"
                )
        if np.abs(actions).max() > 1.0:
            raise DatasetError("field 'actions' leaves the range [-1, 1]")
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from None
    # A damaged file raises whatever h5py met first.
    except Exception as error:
        raise DatasetError(f"{path}: cannot be read as hdf5 ({error})") from None
    ends = np.flatnonzero(terminals.astype(bool) | timeouts.astype(bool)) + 1
    splits = np.split(np.arange(len(actions)), ends)
    return [
        (observations[rows, :_NUM_QPOS].copy(), actions[rows[:-1]])
        for rows in splits
        if len(rows) > 1
    ]


def _read_hdf5_field(
    file: h5py.File, name: str, kinds: str, columns: int | None
) -> np.ndarray:
    """Reads a dataset that is stored in the file itself, checked beforehand."""
    link = file.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        what = "missing" if link is None else "a link to elsewhere"
        raise DatasetError(f"field '{name}' is {what}")
    field = file[name]
    if not isinstance(field, h5py.Dataset) or field.external or field.is_virtual:
        raise DatasetError(f"field '{name}' is no dataset stored in the file itself")
    shape = field.shape or ()
    wanted = (columns,) if columns else ()
    if field.dtype.kind not in kinds or len(shape) == 0 or shape[1:] != wanted:
        raise DatasetError(
            f"field '{name}' is {field.dtype}{list(shape)} instead of "
            f"{'float' if kinds == 'f' else 'bool'}{['rows', *wanted]}"
        )
    if not 0 < shape[0] <= _MAX_D4RL_ROWS:
        raise DatasetError(
            f"field '{name}' has {shape[0]} rows where 1 to {_MAX_D4RL_ROWS} can be"
        )
    values = field[()]
    if kinds == "f":
        values = values.astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise DatasetError(f"field '{name}' holds NaN or infinite values")
    return values
