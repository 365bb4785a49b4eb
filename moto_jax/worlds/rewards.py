"""What an episode is worth where no objects are told of: its rewards alone.

NumPy only.
"""

import numpy as np

from moto_jax.data.episodes import DatasetError, Episode
from moto_jax.data.rows import Label, Labels


def make_reward_label(success_reward: float, rows_after: int) -> Label:
    """Returns what labels episodes that have a reward; K is 1.

    Args:
      success_reward: the one event is a reward of at least so much.
      rows_after: rows after the reward's last rise that are cloned too.
    """

    def label(episode: Episode) -> Labels:
        reward = require_reward(episode)
        never = np.zeros(episode.num_rows, np.bool_)
        # Nothing led to row 0, whose zero is no reward where others are below it.
        reached = reward >= success_reward
        reached[0] = False
        return Labels(
            reward=reward,
            is_terminal=never if episode.is_terminal is None else episode.is_terminal,
            events=reached[:, None],
            behaviour_rows=rewarded_rows(reward, rows_after),
        )

    return label


def require_reward(episode: Episode) -> np.ndarray:
    """Returns an episode's reward, float32 [L + 1].

    Raises:
      DatasetError: for an episode that has none.
    """
    if episode.reward is None:
        raise DatasetError(
            "field 'reward' is missing where there are no known objects: add it to "
            "every episode"
        )
    return episode.reward


def rewarded_rows(reward: np.ndarray, rows_after: int) -> int:
    """Returns how many rows at an episode's start have their actions cloned.

    The success filter by rewards alone: of an episode that ends with a reward above
    zero the rows up to some after the reward's last rise; of another none.

    Args:
      reward: float32 [L + 1].
      rows_after: the last rise.
    """
    rises = np.flatnonzero(np.diff(reward) > 0) + 1
    if reward[-1] <= 0 or not len(rises):
        return 0
    return min(int(rises[-1]) + rows_after, len(reward) - 1)
