"""Demonstrations in the kitchen in miniature, made on the device in one program."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moto_jax.acting.building import (
    Made,
    file_name,
    finished_dataset,
    head_of,
    write_recorded,
)
from moto_jax.acting.environment_seeds import Purpose, check_seed, environment_seed
from moto_jax.acting.progress import Progress
from moto_jax.data.episodes import (
    DatasetError,
    Episode,
    Manifest,
    write_manifest,
)
from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.kitchen.composition import composition
from moto_jax.worlds.kitchen.labels import completion_order, require_objects
from moto_jax.worlds.mini import minikitchen
from moto_jax.worlds.mini.demonstrator import demonstrate
from moto_jax.worlds.mini.minikitchen import MiniKitchen

# Distinct seeds tried until the demonstrator does an episode's objects as asked.
MAX_ATTEMPTS = 8


def mini_episodes(
    directory: str | os.PathLike[str],
    *,
    task: str | Sequence[str],
    num_episodes: int,
    complete_share: float | None = None,
    seed: int = 0,
    action_noise: float = 0.1,
    image_size: int = 32,
    episode_steps: int = minikitchen.EPISODE_STEPS,
    progress: Progress | None = None,
) -> Manifest:
    """Makes a dataset of scripted episodes, or returns one that is there.

    Args:
      directory: where the dataset is, or is to be.
      task: a task's name, or its objects in order; decides the composition only.
      num_episodes: see `composition.composition`, as for `complete_share`.
      complete_share: see `composition.composition`.
      seed: of everything random, in [0, 2**32).
      action_noise: standard deviation of the noise on the demonstrator's actions.
      image_size: pixels a side.
      episode_steps: the longest demonstration.
      progress: called with the numbers of episodes done and wanted.

    Raises:
      ValueError: for a parameter out of its range.
      DatasetError: where the directory holds another dataset, or the demonstrator
        fails.
    """
    objects = tasks.resolve_task(task)
    check_seed("seed", seed)
    if action_noise < 0:
        raise ValueError(f"config.data.action_noise is {action_noise}: use 0 or more")
    sequences = composition(objects, num_episodes, complete_share, seed)
    request = {
        "task": list(objects),
        "num_episodes": num_episodes,
        "complete_share": complete_share,
        "seed": seed,
        "action_noise": action_noise,
        "episode_steps": episode_steps,
    }
    head = head_of("mini", request, minikitchen.RENDER_PROFILE, image_size)
    finished = finished_dataset(directory, head)
    if finished is not None:
        return finished
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    kitchen = MiniKitchen(image_size, episode_steps)
    # As the real kitchen's; see `kitchen.demonstrations.ScriptedJob`.
    seeds = [
        [
            environment_seed(Purpose.DEMONSTRATIONS, seed, attempt, number=index)
            for index in range(num_episodes)
        ]
        for attempt in range(MAX_ATTEMPTS)
    ]
    keys = jax.vmap(jax.vmap(jax.random.key))(np.array(seeds, np.uint32))
    made = _attempts(kitchen, sequences, keys, action_noise)
    records = []
    for index, (episode, attempts) in enumerate(made):
        name = file_name(index, sequences[index])
        made_one = Made(episode, sequences[index], attempts)
        records.append(write_recorded(directory, name, made_one))
        if progress is not None:
            progress(index + 1, num_episodes)
    manifest = dataclasses.replace(head, episodes=tuple(records))
    write_manifest(directory, manifest)
    return manifest


def mini_demonstration(
    objects: Sequence[str],
    seed: int,
    action_noise: float,
    image_size: int = 32,
    episode_steps: int = minikitchen.EPISODE_STEPS,
) -> Episode:
    """Returns one demonstration of objects in order; see `mini_episodes`.

    Args:
      objects: what is done.
      seed: of the environment's and the demonstrator's noise, in [0, 2**32).
      action_noise: see `mini_episodes`, as for the others.
      image_size: see there.
      episode_steps: see there.

    Raises:
      DatasetError: where the demonstrator fails.
    """
    kitchen = MiniKitchen(image_size, episode_steps)
    keys = jax.random.split(jax.random.key(seed), (MAX_ATTEMPTS, 1))
    ((episode, _),) = _attempts(kitchen, [tuple(objects)], keys, action_noise)
    return episode


def _attempts(
    kitchen: MiniKitchen,
    sequences: Sequence[tuple[str, ...]],
    keys: jax.Array,
    action_noise: float,
) -> list[tuple[Episode, int]]:
    """Returns for each sequence the first attempt that did these objects, in order.

    Args:
      kitchen: where.
      sequences: what is done in each of n episodes.
      keys: of the attempts at each, [MAX_ATTEMPTS, n].
      action_noise: see `mini_episodes`.
    """
    done: dict[int, tuple[Episode, int]] = {}
    for attempt in range(MAX_ATTEMPTS):
        left = [index for index in range(len(sequences)) if index not in done]
        if not left:
            break
        wanted = [sequences[index] for index in left]
        episodes = _record(kitchen, wanted, keys[attempt, np.array(left)], action_noise)
        for index, episode in zip(left, episodes, strict=True):
            if completion_order(require_objects(episode)) == sequences[index]:
                done[index] = episode, attempt + 1
    if len(done) < len(sequences):
        lost = next(index for index in range(len(sequences)) if index not in done)
        raise DatasetError(
            f"the demonstrator failed {MAX_ATTEMPTS} times to do "
            f"{', '.join(sequences[lost])} within {kitchen.episode_steps} steps: lower "
            "config.data.action_noise, or raise config.env.episode_steps"
        )
    return [done[index] for index in range(len(sequences))]


def _record(
    kitchen: MiniKitchen,
    sequences: Sequence[tuple[str, ...]],
    keys: jax.Array,
    action_noise: float,
) -> list[Episode]:
    """Returns one attempt at each sequence."""
    longest = max(map(len, sequences))
    numbers = np.full((len(sequences), longest), minikitchen.NOTHING, np.int32)
    for row, sequence in zip(numbers, sequences, strict=True):
        row[: len(sequence)] = [tasks.OBJECTS.index(name) for name in sequence]
    fields = jax.device_get(
        _play_all(kitchen, keys, jnp.asarray(numbers), action_noise)
    )
    episodes = []
    for index, rows in enumerate(fields.pop("rows")):
        own = {name: array[index, :rows] for name, array in fields.items()}
        own["action"] = own["action"][: rows - 1]
        episodes.append(Episode(**own))
    return episodes


@functools.partial(jax.jit, static_argnums=0)
def _play_all(
    kitchen: MiniKitchen, keys: jax.Array, sequences: jax.Array, action_noise: Any
) -> dict[str, jax.Array]:
    def play(key: jax.Array, sequence: jax.Array) -> dict[str, jax.Array]:
        made = demonstrate(
            key,
            sequence,
            steps=kitchen.episode_steps,
            action_noise=action_noise,
        )
        return {
            "image": jax.vmap(kitchen.render)(made.states),
            "action": made.action,
            "objects_in_goal": jax.vmap(kitchen.objects_in_goal)(made.states),
            "qpos": jax.vmap(kitchen.joint_positions)(made.states),
            "rows": made.rows,
        }

    return jax.vmap(play)(keys, sequences)
