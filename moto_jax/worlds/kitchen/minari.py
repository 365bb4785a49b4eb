"""Reads the kitchen in Minari's layout, without trust in what is in it.

The file is opened by h5py alone: Minari's own loader would run code that is named in
the dataset's metadata.
"""

import os
from pathlib import Path

import h5py
import numpy as np

from moto_jax.data.files import DatasetError
from moto_jax.worlds.kitchen.d4rl import (
    NUM_ACTIONS,
    OtherFile,
    Recorded,
    faults_of,
    read_actions,
    read_field,
    stored,
)

# In a Minari dataset's directory.
_FILE = Path("data", "main_data.hdf5")

# FrankaKitchen-v1's observation: 9 positions and 9 velocities of the robot's joints,
# then 21 positions and 20 velocities of the objects'. The positions of both together
# are the simulator's 30.
_COLUMNS = 59
_QPOS_COLUMNS = np.r_[0:9, 18:39]


def minari_file(path: str | os.PathLike[str]) -> Path:
    """Returns a dataset's hdf5 file, given that or the dataset's directory."""
    path = Path(path)
    return path / _FILE if path.is_dir() else path


def read_minari(path: str | os.PathLike[str]) -> list[Recorded]:
    """Reads a kitchen dataset of Minari: joint positions and actions of its episodes.

    Its groups `episode_0`, `episode_1` and so on hold `observations`, a dataset
    [L + 1, 59] or a group with one of the name `observation`, and `actions` [L, 9];
    nothing else of them is read. An episode without an action is skipped.

    Args:
      path: of the hdf5 file.

    Raises:
      DatasetError: names file and field.
    """
    path = Path(path)
    with faults_of(path), h5py.File(path, "r") as file:
        episodes = [_read_episode(file, name) for name in _episode_names(file)]
        if not episodes:
            raise OtherFile(
                "group 'episode_0' is missing: this is not Minari's layout; "
                "config.data.source=d4rl reads D4RL's"
            )
        episodes = [episode for episode in episodes if len(episode.action)]
        if not episodes:
            raise OtherFile(
                "field 'actions' holds no action in any group: give a file with longer "
                "episodes"
            )
    return episodes


def _episode_names(file: h5py.File) -> list[str]:
    """Returns the names of the episodes' groups, by number."""
    start = "episode_"
    numbered = [
        (int(name.removeprefix(start)), name)
        for name in map(str, file)
        if name.startswith(start) and name.removeprefix(start).isdecimal()
    ]
    return [name for _, name in sorted(numbered)]


def _read_episode(file: h5py.File, name: str) -> Recorded:
    group = stored(file, name)
    if not isinstance(group, h5py.Group):
        raise DatasetError(f"'{name}' is no group")
    within, field = group, "observations"
    observations = stored(group, field)
    if isinstance(observations, h5py.Group):
        within, field = observations, "observation"
    qpos = read_field(within, field, "f", (_COLUMNS,))[:, _QPOS_COLUMNS]
    if len(qpos) == 1:
        return Recorded(qpos, np.zeros((0, NUM_ACTIONS), np.float32))
    return Recorded(qpos, read_actions(group, len(qpos) - 1, f"{name}/observations"))
