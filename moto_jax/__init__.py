"""MOTO: offline to online model-based reinforcement learning from pixels, in JAX."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moto_jax.running.loading import LoadedPolicy

__all__ = ["load_policy"]


def load_policy(
    path: str | os.PathLike[str],
    which: str = "mean",
    seed: int | None = None,
    noise_seed: int = 0,
) -> "LoadedPolicy":
    """Returns a trained policy: frames in, actions out, `reset()` before an episode.

    Args:
      path: a file that `experiments.export` wrote, a run, or one of its checkpoints.
      which: "mean", or "sampled" for a draw from the distribution of actions.
      seed: which of a run's seeds; may be left out where there is one.
      noise_seed: of those draws.

    Raises:
      ValueError: for what is no policy, a seed that it lacks, or another `which`.
    """
    # Environment workers import this package and stay free of JAX.
    from moto_jax.running.loading import LoadedPolicy, read_policy

    return LoadedPolicy(read_policy(path, seed)[0], which, noise_seed)
