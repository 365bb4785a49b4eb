"""Episodes of pixels that others wrote: a folder of npz files, as DreamerV2 keeps them.

Row j of a file holds the image, the action that led to it and the reward received on
arriving at it; row 0's action is zero. The authors' data and D5RL's are such folders.
They are converted once into a dataset of ours; the folder itself is only read. NumPy
only: the processes that convert stay free of jax.
"""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moto_jax.acting.building import (
    Made,
    build_dataset,
    file_name,
    head_of,
    require_long_enough,
)
from moto_jax.acting.progress import Progress
from moto_jax.data.episodes import (
    FOREIGN_PROFILE,
    MANIFEST_NAME,
    MAX_EPISODE_BYTES,
    DatasetError,
    Episode,
    Manifest,
)
from moto_jax.data.files import array_names, read_foreign_arrays, read_regular_file

_NUMBERS = "fiub"
_FLAGS = "biuf"

# What the rounding of another dtype may add to an action of 1.
_ROUNDING = 1e-5


def pixel_episodes(
    directory: str | os.PathLike[str],
    *,
    path: str | os.PathLike[str],
    events: Sequence[str],
    action_size: int | None = None,
    image_size: int = 64,
    min_rows: int = 2,
    num_workers: int = 2,
    progress: Progress | None = None,
) -> Manifest:
    """Makes a dataset of a folder's npz files, or takes up or returns one.

    Every file is read once before anything is written, so that a fault leaves nothing
    behind.

    Args:
      directory: where the dataset is, or is to be.
      path: of the folder; its files named `*.npz` are the episodes, in order of name.
      events: the task's objects. Where the files have a field `reward NAME` of each,
        the reward is their sum, and field `reward` otherwise.
      action_size: A; the first file's where not given.
      image_size: pixels a side.
      min_rows: rows of a sequence; nothing is written if no episode is as long.
      num_workers: processes.
      progress: called with the numbers of episodes done and wanted.

    Raises:
      DatasetError: where a file is not as it must be, or the directory holds another
        dataset or files of others; names file and field.
    """
    folder = Path(path)
    files = _npz_files(folder)
    if folder.resolve() == Path(directory).resolve():
        raise DatasetError(
            f"{folder}: the folder that is read (config.data.path, --path) and the one "
            "that is written are the same: leave config.data.directory empty, or "
            "convert into another"
        )
    rewards = _reward_fields(files[0], events)
    digest = hashlib.sha256()
    for file in files:
        contents = read_regular_file(file, MAX_EPISODE_BYTES)
        digest.update(hashlib.sha256(contents).digest())

    def make_jobs() -> list[PixelJob]:
        jobs = [
            PixelJob(index, file, rewards, image_size)
            for index, file in enumerate(files)
        ]
        shapes = [job.run().episode.action.shape for job in jobs]
        wanted = action_size or shapes[0][1]
        for job, (_, columns) in zip(jobs, shapes, strict=True):
            if columns != wanted:
                raise _faulty(
                    job.path,
                    f"field 'action' has {columns} columns where {wanted} are wanted",
                )
        rows = [length + 1 for length, _ in shapes]
        require_long_enough(str(folder), rows, min_rows)
        return jobs

    request = {
        "files": len(files),
        "sha256": digest.hexdigest(),
        "reward": " + ".join(rewards),
    }
    head = head_of("pixels", request, FOREIGN_PROFILE, image_size)
    return build_dataset(directory, head, make_jobs, num_workers, progress)


@dataclasses.dataclass(frozen=True)
class PixelJob:
    """One episode.

    Attributes:
      index: of the episode in the dataset.
      path: of the file.
      rewards: names of the fields whose sum is the reward.
      image_size: pixels a side.
    """

    index: int
    path: Path
    rewards: tuple[str, ...]
    image_size: int

    @property
    def file(self) -> str:
        """The episode's file name in the dataset."""
        return file_name(self.index, ())

    def run(self) -> Made:
        """Returns the episode; the message of a DatasetError names file and field."""
        contents = read_regular_file(self.path, MAX_EPISODE_BYTES)
        try:
            return Made(_read_episode(contents, self.rewards, self.image_size))
        except DatasetError as error:
            raise _faulty(self.path, error) from None


def _faulty(path: Path, fault: object) -> DatasetError:
    return DatasetError(f"{path}: {fault}; mend it, or take it out of the folder")


def _read_episode(contents: bytes, rewards: Sequence[str], image_size: int) -> Episode:
    wanted = {
        "image": ("u", 4),
        "action": (_NUMBERS, 2),
        **{name: (_NUMBERS, 1) for name in rewards},
        **{name: (_FLAGS, 1) for name in ("is_first", "is_last", "is_terminal")},
    }
    fields = read_foreign_arrays(contents, wanted, MAX_EPISODE_BYTES)
    for name in ("image", "action", *rewards):
        if name not in fields:
            raise DatasetError(f"field '{name}' is missing")
    image = fields["image"]
    rows = len(image)
    if image.shape[1:] != (image_size, image_size, 3) or image.dtype != np.uint8:
        raise DatasetError(
            f"field 'image' is {image.dtype}{list(image.shape)} where "
            "config.env.image_size (--image_size) asks for "
            f"uint8[*, {image_size}, {image_size}, 3]: set that, or save such frames"
        )
    for name, field in fields.items():
        if len(field) != rows:
            raise DatasetError(
                f"field '{name}' has {len(field)} rows, field 'image' {rows}: a row "
                "is an image, the action that led to it and the reward on arriving"
            )
    return Episode(
        image=np.ascontiguousarray(image),
        action=_taken_actions(fields["action"]),
        reward=np.sum([_float32(name, fields[name]) for name in rewards], axis=0),
        is_terminal=_check_ends(fields, rows),
    )


def _taken_actions(led_to: np.ndarray) -> np.ndarray:
    """Returns the actions taken at rows, float32 [L, A]; those given led to rows."""
    actions = _float32("action", led_to)
    if len(actions) == 1:
        raise DatasetError("field 'action' has a single row, and so no action")
    if actions[0].any():
        raise DatasetError(
            f"field 'action' begins with {actions[0].tolist()}: a row's action is the "
            "one that led to it, so that row 0's is zero"
        )
    if np.abs(actions).max() > 1.0 + _ROUNDING:
        raise DatasetError(
            f"field 'action' leaves [-1, 1]: its largest is {np.abs(actions).max()}"
        )
    return actions[1:].clip(-1.0, 1.0)


def _check_ends(fields: dict[str, np.ndarray], rows: int) -> np.ndarray | None:
    """Returns bool [rows], where the decision process ended, or None without a field.

    Marks of the first and the last row may be missing or all zero.
    """
    for name, only in (
        ("is_first", 0),
        ("is_last", rows - 1),
        ("is_terminal", rows - 1),
    ):
        marked = np.flatnonzero(fields.get(name, np.zeros(0)))
        others = marked[marked != only]
        if len(others):
            raise DatasetError(
                f"field '{name}' is set in row {others[0]} of {rows}: a file holds one "
                "episode, from its first row to its last"
            )
    ended = fields.get("is_terminal")
    return None if ended is None else ended.astype(np.bool_)


def _float32(name: str, field: np.ndarray) -> np.ndarray:
    # What is too large for float32 becomes infinite, and is refused as such.
    with np.errstate(over="ignore"):
        values = np.asarray(field, np.float32, order="C")
    if not np.isfinite(values).all():
        raise DatasetError(f"field '{name}' holds NaN or infinite values")
    return values


def _npz_files(folder: Path) -> list[Path]:
    """Returns a folder's npz files by name, links followed."""
    if not folder.is_dir():
        raise DatasetError(
            f"{folder}: is no folder: give that of the npz episodes "
            "(config.data.path, --path)"
        )
    if (folder / MANIFEST_NAME).exists():
        raise DatasetError(
            f"{folder}: holds a {MANIFEST_NAME}, so it is a dataset of ours: "
            f"config.data.source=directory with config.data.directory={folder} reads it"
        )
    files = [path for path in sorted(folder.glob("*.npz")) if path.name[0] != "."]
    if not files:
        raise DatasetError(
            f"{folder}: holds no npz file, where each is an episode: give the folder "
            "that holds them (config.data.path, --path)"
        )
    return [path.resolve() if path.is_symlink() else path for path in files]


def _reward_fields(path: Path, events: Sequence[str]) -> tuple[str, ...]:
    """Returns the fields whose sum is the reward, by what the first file has."""
    contents = read_regular_file(path, MAX_EPISODE_BYTES)
    try:
        names = array_names(contents)
    except DatasetError as error:
        raise _faulty(path, error) from None
    by_object = tuple(f"reward {name}" for name in events)
    missing = [name for name in by_object if name not in names]
    if not missing:
        return by_object
    if "reward" in names:
        return ("reward",)
    raise DatasetError(
        f"{path}: field 'reward' is missing, as is field '{missing[0]}': add 'reward' "
        "to every file"
    )
