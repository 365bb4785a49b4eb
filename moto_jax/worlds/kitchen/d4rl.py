"""Reads D4RL's kitchen files, without trust in what is in them."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from moto_jax.data.files import DatasetError

NUM_ACTIONS = 9
NUM_QPOS = 30

# Joint positions and goals. Gymnasium-robotics' 59 columns are others.
_COLUMNS = 60
_MAX_ROWS = 500_000

_MEND = "download the file again, or mend it"

# What the rounding of another dtype may add to an action of 1.
_ROUNDING = 1e-5


class OtherFile(DatasetError):
    """A file without a fault that cannot be used; the message says what instead."""


class Recorded(NamedTuple):
    """What is recorded of an episode of the kitchen.

    Attributes:
      qpos: float32 [L + 1, 30], joint positions of robot and objects.
      action: float32 [L, 9] in [-1, 1].
    """

    qpos: np.ndarray
    action: np.ndarray


def read_d4rl(path: str | os.PathLike[str]) -> list[Recorded]:
    """Reads a D4RL kitchen file: joint positions and actions of its episodes.

    A row of the file is an observation and the action taken there; an episode ends
    where `terminals` or `timeouts` say, of which one may be missing, and at the file's
    end. The last action of an episode is dropped, for what it led to was not recorded:
    n rows become n observations and n - 1 actions. A single row holds no action, and is
    skipped.

    Raises:
      DatasetError: names file and field.
    """
    path = Path(path)
    with faults_of(path), h5py.File(path, "r") as file:
        if "observations" not in file.keys() and "episode_0" in file.keys():
            raise OtherFile(
                "field 'observations' is missing, and there is a group 'episode_0': "
                "this is Minari's layout, which config.data.source=minari reads"
            )
        observations = read_field(file, "observations", "f", (_COLUMNS,))
        actions = read_actions(file, len(observations), "observations")
        is_end = np.zeros(len(observations), np.bool_)
        names = [name for name in ("terminals", "timeouts") if name in file.keys()]
        if not names:
            raise DatasetError("field 'terminals' is missing, as is field 'timeouts'")
        for name in names:
            is_end |= _read_ends(file, name, len(observations))
    splits = np.split(np.arange(len(is_end)), np.flatnonzero(is_end) + 1)
    episodes = [
        Recorded(observations[rows, :NUM_QPOS].copy(), actions[rows[:-1]])
        for rows in splits
        if len(rows) > 1
    ]
    if not episodes:
        raise DatasetError(
            f"{path}: field '{names[0]}' ends an episode at every row, so that none "
            "holds an action: give a file with longer ones"
        )
    return episodes


@contextlib.contextmanager
def faults_of(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong with an hdf5 file into a DatasetError that names it."""
    try:
        yield
    except OtherFile as error:
        raise DatasetError(f"{path}: {error}") from None
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}; {_MEND}") from None
    # A damaged file raises whatever h5py met first.
    except Exception as error:
        raise DatasetError(
            f"{path}: cannot be read as hdf5 ({error}); {_MEND}"
        ) from None


def read_actions(group: h5py.Group, rows: int, beside: str) -> np.ndarray:
    """Reads field 'actions', float32 [rows, 9] in [-1, 1].

    Args:
      group: holds it.
      rows: wanted.
      beside: the field that wants them.

    Raises:
      DatasetError: names the field.
    """
    actions = read_field(group, "actions", "f", (NUM_ACTIONS,))
    _require_rows(group, "actions", len(actions), rows, beside)
    if np.abs(actions).max() > 1.0 + _ROUNDING:
        raise DatasetError(f"field '{_place(group, 'actions')}' leaves [-1, 1]")
    return actions.clip(-1.0, 1.0)


def _read_ends(group: h5py.Group, name: str, rows: int) -> np.ndarray:
    """Reads bool [rows]; D4RL's generator writes floats, others a column."""
    ends = read_field(group, name, "fbui", None)
    _require_rows(group, name, len(ends), rows, "observations")
    return ends.reshape(rows, -1)[:, 0].astype(np.bool_)


def _require_rows(
    group: h5py.Group, name: str, found: int, wanted: int, beside: str
) -> None:
    if found != wanted:
        raise DatasetError(
            f"field '{_place(group, name)}' has {found} rows where field '{beside}' "
            f"asks for {wanted}"
        )


def read_field(
    group: h5py.Group, name: str, kinds: str, columns: tuple[int, ...] | None
) -> np.ndarray:
    """Reads a dataset that is stored in the file itself, checked beforehand.

    Args:
      group: holds it.
      name: in the group.
      kinds: of dtype that it may be, in NumPy's letters.
      columns: shape of a row; where None, a row is a number or a column of one.

    Returns:
      At least one row; floats as float32, free of NaN and infinities.

    Raises:
      DatasetError: names the field.
    """
    place = _place(group, name)
    field = stored(group, name)
    if not isinstance(field, h5py.Dataset) or field.external or field.is_virtual:
        raise DatasetError(f"field '{place}' is no dataset stored in the file itself")
    shape = field.shape or ()
    wanted = ((), (1,)) if columns is None else (columns,)
    if field.dtype.kind not in kinds or not shape or shape[1:] not in wanted:
        raise DatasetError(
            f"field '{place}' is {field.dtype}{list(shape)} instead of "
            f"{'float' if kinds == 'f' else 'bool'}"
            f"[{', '.join(['rows', *map(str, wanted[0])])}]"
        )
    if not 0 < shape[0] <= _MAX_ROWS:
        raise DatasetError(
            f"field '{place}' has {shape[0]} rows where 1 to {_MAX_ROWS} can be"
        )
    values = field[()]
    if field.dtype.kind == "f":
        # What is too large for float32 becomes infinite, and is refused as such.
        with np.errstate(over="ignore"):
            values = values.astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise DatasetError(f"field '{place}' holds NaN or infinite values")
    return values


def stored(group: h5py.Group, name: str) -> h5py.Dataset | h5py.Group | h5py.Datatype:
    """Returns what lies in a group itself.

    Raises:
      DatasetError: where it is missing, or only a link leads to it.
    """
    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        what = "missing" if link is None else "a link to elsewhere"
        raise DatasetError(f"field '{_place(group, name)}' is {what}")
    return group[name]


def _place(group: h5py.Group, name: str) -> str:
    """Returns a field's path in its file, without the slash at the start."""
    return f"{group.name}/{name}".lstrip("/")
