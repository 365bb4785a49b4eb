"""A trained policy in a few lines: a file or a run goes in, actions come out."""

# What jax leaves open in its own types is jax's.
# pyright: reportUnknownMemberType=false

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from moto_jax.run_layout import POLICIES
from moto_jax.running.exports import SUFFIX, TrainedPolicy, read_export, trained_policy
from moto_jax.running.restoring import restore_agent
from moto_jax.types import Config


class LoadedPolicy:
    """Acts in one environment; remembers the episode that it plays.

    Attributes:
      config: of the run that it was trained in.
      image_size: of the square frames that it takes, pixels.
    """

    def __init__(self, trained: TrainedPolicy, which: str = "mean", seed: int = 0):
        """Makes it begin an episode.

        Args:
          trained: what acts.
          which: "mean", or "sampled" for a draw from the distribution of actions.
          seed: of those draws.

        Raises:
          ValueError: for a policy that there is not.
        """
        if which not in POLICIES:
            raise ValueError(f"which is {which!r}: use one of {', '.join(POLICIES)}")
        policy = trained.agent.policies[which]
        self.config: Config = trained.config
        self.image_size: int = trained.config.env.image_size
        self._params = jax.device_put(trained.params)
        self._key = jax.random.key(seed)
        self._initial = policy.initial(1)
        self._act: Callable[..., tuple[jax.Array, Any]] = jax.jit(policy.act)
        self._steps = 0
        self.reset()

    def reset(self) -> None:
        """Forgets what was seen: the next frame is an episode's first."""
        self._carry: Any = self._initial
        self._is_first = True

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Returns the action, float32 [A] in [-1, 1], for the newest frame.

        Args:
          image: uint8 [image_size, image_size, 3].

        Raises:
          ValueError: for a frame of another kind.
        """
        image = np.asarray(image)
        wanted = (self.image_size, self.image_size, 3)
        if image.shape != wanted or image.dtype != np.uint8:
            raise ValueError(
                f"the frame is {image.dtype} {list(image.shape)}: this policy takes "
                f"uint8 {list(wanted)} from 0 to 255, so resize and convert it"
            )
        action, self._carry = self._act(
            self._params,
            self._carry,
            image[None],
            np.array([self._is_first]),
            jax.random.fold_in(self._key, self._steps),
        )
        self._steps, self._is_first = self._steps + 1, False
        return np.asarray(action[0])


def read_policy(
    path: str | os.PathLike[str], seed: int | None = None
) -> tuple[TrainedPolicy, Path | None]:
    """Returns an exported policy, or that of a run's checkpoint.

    Args:
      path: a file that `experiments.export` wrote, a run, or one of its checkpoints.
      seed: which of a run's; may be left out where there is one.

    Returns:
      The policy, and where its checkpoint lies, None for a file.

    Raises:
      ValueError: for what is no policy, or a seed that it lacks.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        restored = restore_agent(path, seed)
        return trained_policy(restored), restored.path
    trained = read_export(path)
    if seed not in (None, trained.seed):
        raise ValueError(f"{path} is of seed {trained.seed} alone: leave --seed out")
    return trained, None
