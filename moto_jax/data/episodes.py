"""The episode on disk and in memory, and the one place where it becomes rows.

A dataset is a directory of immutable `.npz` files, one an episode, and a manifest that
names each with its sha256. An episode stores what happened: the kitchen's say which
objects were in their goal at every step instead of a reward, so that one dataset serves
any task. What that is worth, a world's `Label` says.

Nothing read here is trusted: no pickle, the header before the data, sizes bounded, and
every fault is a `DatasetError` that names file and field. NumPy only: environment
workers import this module and must stay free of jax.

Axes: an episode of `L` actions has `L + 1` rows; `O` objects, `K` events that a world
asks for, `A` action dimensions.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moto_jax.data.files import (
    ArraySchema,
    DatasetError,
    check_header,
    npz_bytes,
    read_arrays,
    read_regular_file,
    write_atomically,
)

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = 1
FOREIGN_PROFILE = "foreign"  # of frames that were not drawn here

# A 281-step episode of 256x256 frames takes 55 MB; anything near this bound is a
# damaged header or a decompression bomb.
MAX_EPISODE_BYTES = 256 * 2**20
_MAX_MANIFEST_BYTES = 64 * 2**20

_SCHEMA: ArraySchema = {
    "image": (np.dtype(np.uint8), (0, 0, 0, 3)),
    "action": (np.dtype(np.float32), (0, 0)),
    "objects_in_goal": (np.dtype(np.bool_), (0, 0)),
    "qpos": (np.dtype(np.float32), (0, 0)),
    "intended_action": (np.dtype(np.float32), (0, 0)),
    "reward": (np.dtype(np.float32), (0,)),
    "is_terminal": (np.dtype(np.bool_), (0,)),
}
_REQUIRED = ("image", "action")
_OPTIONAL = tuple(name for name in _SCHEMA if name not in _REQUIRED)
# These have a row an action, all others one more.
_OF_ACTIONS = ("action", "intended_action")

# Of a faulty file. In its directory a dataset that has a manifest is not made again.
_MEND = "restore it from a copy, or make the dataset again in another directory"

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\.npz")


@dataclasses.dataclass(frozen=True)
class Episode:
    """One episode as the environment gave it; the arrays are read-only.

    Attributes:
      image: uint8 [L + 1, height, width, 3].
      action: float32 [L, A] in [-1, 1]; `action[j]` was taken at row j.
      objects_in_goal: bool [L + 1, O], in an order that the world knows; or None, and
        then there is a reward.
      qpos: float32 [L + 1, joints], joint positions of robot and objects; None where
        they were not recorded. Nothing is learnt from them.
      intended_action: float32 [L, A] in [-1, 1], what the demonstrator meant to do
        before noise made `action` of it; None where nobody knows, as of human data.
      reward: float32 [L + 1], received on arriving at the row, or None.
      is_terminal: bool [L + 1], whether the decision process ended at the row; None
        where it never does.

    Raises:
      DatasetError: from the constructor, where a field breaks this schema.
    """

    image: np.ndarray
    action: np.ndarray
    objects_in_goal: np.ndarray | None = None
    qpos: np.ndarray | None = None
    intended_action: np.ndarray | None = None
    reward: np.ndarray | None = None
    is_terminal: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Checks the fields and makes them read-only, without a copy."""
        for name, array in self.fields().items():
            array = np.asarray(array)
            check_header(name, array.dtype, array.shape, _SCHEMA, MAX_EPISODE_BYTES)
            view = array.view()
            view.setflags(write=False)
            object.__setattr__(self, name, view)
        # As arrays now, and in the schema's order: the first fault is the one named.
        fields = self.fields()
        for name, array in fields.items():
            if name in _OF_ACTIONS:
                continue
            if len(array) != len(self.action) + 1:
                raise DatasetError(
                    f"field '{name}' has {len(array)} rows where {len(self.action)} "
                    f"actions ask for {len(self.action) + 1}"
                )
        if self.objects_in_goal is None and self.reward is None:
            raise DatasetError("neither field 'objects_in_goal' nor 'reward' is there")
        for name, array in fields.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise DatasetError(f"field '{name}' holds NaN or infinite values")
        for name in _OF_ACTIONS:
            if name not in fields:
                continue
            if fields[name].shape != self.action.shape:
                raise DatasetError(
                    f"field '{name}' is {list(fields[name].shape)} beside actions of "
                    f"{list(self.action.shape)}"
                )
            if np.abs(fields[name]).max() > 1.0:
                raise DatasetError(f"field '{name}' leaves the range [-1, 1]")

    def fields(self) -> dict[str, np.ndarray]:
        """Returns the fields that the episode has, by name."""
        every = {name: getattr(self, name) for name in _SCHEMA}
        return {
            name: value
            for name, value in every.items()
            if name not in _OPTIONAL or value is not None
        }

    @property
    def num_rows(self) -> int:
        """L + 1."""
        return len(self.image)


def write_episode(path: str | os.PathLike[str], episode: Episode) -> str:
    """Writes one episode whole or not at all; returns the file's sha256 in hex.

    Equal episodes give equal files.
    """
    contents = npz_bytes(episode.fields())
    write_atomically(Path(path), contents)
    return hashlib.sha256(contents).hexdigest()


def read_episode(
    path: str | os.PathLike[str], expected_sha256: str | None = None
) -> Episode:
    """Reads one episode, trusting nothing in the file.

    Raises:
      DatasetError: where the file is missing, damaged or breaks the schema; the message
        names file and field.
    """
    path = Path(path)
    contents = read_regular_file(path, MAX_EPISODE_BYTES)
    if expected_sha256 is not None:
        found = hashlib.sha256(contents).hexdigest()
        if found != expected_sha256:
            raise DatasetError(
                f"{path}: sha256 is {found[:12]}..., the manifest says "
                f"{expected_sha256[:12]}...: the file changed; {_MEND}"
            )
    try:
        fields = read_arrays(contents, _SCHEMA, MAX_EPISODE_BYTES, _OPTIONAL)
        return Episode(**fields)
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}; {_MEND}") from None


@dataclasses.dataclass(frozen=True)
class EpisodeRecord:
    """What the manifest says of one episode.

    Attributes:
      file: name within the dataset's directory.
      sha256: of the file, in hex.
      rows: L + 1.
      objects: the objects in their goal at the end, by first completion; none where
        the world has no objects.
      attempts: how many tries the demonstrator needed (1 for recorded data).
    """

    file: str
    sha256: str
    rows: int
    objects: tuple[str, ...]
    attempts: int = 1


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a dataset is and where it came from.

    Attributes:
      source: who made it, such as "scripted" or "d4rl".
      render_profile: of the renderer that drew the images, or `FOREIGN_PROFILE`.
      image_size: pixels a side.
      mujoco_version: of the simulator that moved and drew; empty where nobody knows.
      request: the parameters the dataset was made with, JSON values only. Equal
        requests mean equal datasets.
      episodes: in the dataset's order.
    """

    source: str
    render_profile: str
    image_size: int
    mujoco_version: str
    request: Mapping[str, Any]
    episodes: tuple[EpisodeRecord, ...]


def write_manifest(
    directory: str | os.PathLike[str], manifest: Manifest, name: str = MANIFEST_NAME
) -> None:
    """Writes the manifest, whole or not at all. It is a dataset's last file."""
    contents = {"format": MANIFEST_FORMAT, **dataclasses.asdict(manifest)}
    text = json.dumps(contents, indent=1, sort_keys=True) + "\n"
    write_atomically(Path(directory) / name, text.encode())


def read_manifest(
    directory: str | os.PathLike[str], name: str = MANIFEST_NAME
) -> Manifest:
    """Reads and checks a dataset's manifest.

    Raises:
      DatasetError: where it is missing or malformed; names file and field.
    """
    path = Path(directory) / name
    contents = read_regular_file(path, _MAX_MANIFEST_BYTES)
    try:
        return _manifest(contents)
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}; {_MEND}") from None


def _manifest(contents: bytes) -> Manifest:
    try:
        fields = json.loads(contents)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"not JSON ({error})") from None
    if not isinstance(fields, dict) or fields.pop("format", None) != MANIFEST_FORMAT:
        raise DatasetError(f"field 'format' is not {MANIFEST_FORMAT}")
    records = _typed(fields, "episodes", list)
    episodes = tuple(_read_record(record) for record in records)
    return _from_json(Manifest, {**fields, "episodes": episodes})


def _read_record(fields: Any) -> EpisodeRecord:
    objects = _typed(fields, "objects", list)
    if not all(isinstance(name, str) for name in objects):
        raise DatasetError(f"field 'objects' holds more than names: {objects}")
    record = _from_json(EpisodeRecord, {**fields, "objects": tuple(objects)})
    # A name with a path in it would reach files outside the dataset.
    if not _FILE_NAME.fullmatch(record.file):
        raise DatasetError(f"field 'file' is no plain npz file name: {record.file!r}")
    return record


def _typed(fields: Any, name: str, kind: type) -> Any:
    value = fields.get(name) if isinstance(fields, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DatasetError(f"field '{name}' is missing or no {kind.__name__}")
    return value


def _from_json(kind: type, fields: dict[str, Any]) -> Any:
    """Builds a manifest dataclass, its scalar fields checked, no other accepted."""
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    unknown = sorted(set(fields) - set(types))
    if unknown:
        raise DatasetError(f"unknown field {unknown[0]!r}")
    for name, type_ in types.items():
        if type_ in (str, int):
            _typed(fields, name, type_)
        elif name == "request":
            _typed(fields, name, dict)
    return kind(**fields)


def load_dataset(
    directory: str | os.PathLike[str],
    render_profile: str,
    image_size: int,
    manifest: Manifest | None = None,
) -> list[Episode]:
    """Reads a dataset's episodes in the manifest's order, each checked by its sha256.

    With a manifest they are those that it names. Foreign images are of any profile.

    Raises:
      DatasetError: also where the images were drawn with another profile or size than
        asked for: a policy would see another world than the one it learned from.
    """
    directory = Path(directory)
    manifest = read_manifest(directory) if manifest is None else manifest
    asked_for = {"render_profile": render_profile, "image_size": image_size}
    for name, wanted in asked_for.items():
        found = getattr(manifest, name)
        if found not in (wanted, FOREIGN_PROFILE):
            raise DatasetError(
                f"{directory / MANIFEST_NAME}: field '{name}' is {found!r} where the "
                f"run uses {wanted!r}: make a dataset with {name}={wanted!r}, or set "
                f"config.env.{name}"
            )
    episodes = []
    for record in manifest.episodes:
        path = directory / record.file
        episode = read_episode(path, record.sha256)
        if episode.image.shape[:3] != (record.rows, image_size, image_size):
            raise DatasetError(
                f"{path}: field 'image' is {list(episode.image.shape)} where the "
                f"manifest says {[record.rows, image_size, image_size, 3]}; {_MEND}"
            )
        episodes.append(episode)
    return episodes
