"""Episodes of random actions, for learning online from nothing."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from moto_jax.acting.building import Made, build_dataset_here, head_of
from moto_jax.acting.collection import Play, Stage
from moto_jax.acting.environment_seeds import Purpose, check_seed, environment_seed
from moto_jax.acting.progress import Progress
from moto_jax.data.episodes import Manifest
from moto_jax.types import Params, Policy

# Played at once at most: a stage on the device keeps all of them in memory.
_ROUND = 32


def random_episodes(
    directory: str | os.PathLike[str],
    *,
    open_stage: Callable[[], contextlib.AbstractContextManager[Stage]],
    action_size: int,
    num_episodes: int,
    seed: int,
    environment: Mapping[str, Any],
    render_profile: str,
    image_size: int,
    progress: Progress | None = None,
) -> Manifest:
    """Makes a dataset of random episodes, or takes up or returns one that is there.

    Args:
      directory: where the dataset is, or is to be.
      open_stage: where they are played; only called if there is something to do.
      action_size: A.
      num_episodes: how many.
      seed: of environments and actions, in [0, 2**32).
      environment: what the manifest is to say of the environment, JSON values only.
      render_profile: of the images.
      image_size: pixels a side.
      progress: called with the numbers of episodes done and wanted.

    Raises:
      ValueError: for a number out of its range.
      DatasetError: where the directory holds another dataset, or files of others.
    """
    if num_episodes < 1:
        raise ValueError(f"config.data.episodes is {num_episodes}: use at least 1")
    check_seed("config.data.seed", seed)
    key = jax.random.key(np.uint32(seed))

    def make(numbers: Sequence[int]) -> Iterator[Made]:
        with open_stage() as stage:
            play_episodes = stage.player(random_policy(action_size))
            for start in range(0, len(numbers), _ROUND):
                plays = [
                    Play(0, environment_seed(Purpose.DEMONSTRATIONS, seed, 0, number=n))
                    for n in numbers[start : start + _ROUND]
                ]
                yield from map(Made, play_episodes({}, key[None], plays))

    request = {
        "num_episodes": num_episodes,
        "seed": seed,
        "environment": dict(environment),
    }
    head = head_of("random", request, render_profile, image_size)
    return build_dataset_here(directory, head, num_episodes, make, progress)


def random_policy(action_size: int) -> Policy:
    """Returns a policy of uniform actions in [-1, 1]; it has no parameters."""

    def act(
        params: Params,
        carry: Any,
        image: jax.Array,
        is_first: jax.Array,
        key: jax.Array,
    ) -> tuple[jax.Array, Any]:
        del params, is_first
        shape = (len(image), action_size)
        return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0), carry

    # Collection wants a carry of a row each.
    return Policy(initial=lambda count: np.zeros((count, 1), np.float32), act=act)
