"""Episodes as rows: what leads where, what a world says they are worth.

An episode of L steps becomes L + 1 rows, as `types.Batch` has them.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from moto_jax.data.episodes import Episode


@dataclasses.dataclass(frozen=True)
class Rows:
    """An episode as the world model reads it; every field is [L + 1, ...].

    The fields are those of `types.Batch`: `prev_action[j]` led to `image[j]`, and the
    action taken at row j is `prev_action[j + 1]`; `behaviour_action[j]` is what is
    cloned at row j.
    """

    image: np.ndarray
    prev_action: np.ndarray
    reward: np.ndarray
    is_first: np.ndarray
    is_last: np.ndarray
    is_terminal: np.ndarray
    is_behaviour: np.ndarray
    behaviour_action: np.ndarray
    return_to_go: np.ndarray
    row: np.ndarray


@dataclasses.dataclass(frozen=True)
class Labels:
    """What an episode's rows are worth in a world, for one task.

    Attributes:
      reward: float32 [L + 1], received on arriving at the row; row 0's is not read.
      is_terminal: bool [L + 1], the decision process ended at the row.
      events: bool [L + 1, K], which of the world's K events are so at the row. An
        episode that had each of them at some row is a success.
      behaviour_rows: how many rows at the start have their actions cloned.
    """

    reward: np.ndarray
    is_terminal: np.ndarray
    events: np.ndarray
    behaviour_rows: int


# What a world says of an episode, which must be one of its own kind.
Label = Callable[[Episode], Labels]


def to_rows(
    episode: Episode,
    labels: Labels,
    first_row: int = 0,
    clone_intended: bool = False,
    discount: float = 1.0,
) -> Rows:
    """Aligns an episode: L + 1 observations, L actions -> L + 1 rows.

    The rows are numbered from `first_row`. With `clone_intended` the intended actions
    are to be cloned where the episode has them; what led from row to row stays what was
    executed. `discount` is that of the returns to go.

    Row 0 has a zero action and a zero reward. The end of an episode is `is_last`, and
    `is_terminal` only where the labels say so: a time limit ends no decision process.
    """
    rows = np.arange(episode.num_rows)
    no_action = np.zeros_like(episode.action[:1])
    reward = labels.reward.copy()
    reward[0] = 0.0
    cloned = episode.action
    if clone_intended and episode.intended_action is not None:
        cloned = episode.intended_action
    return Rows(
        image=episode.image,
        prev_action=np.concatenate([no_action, episode.action]),
        reward=reward,
        is_first=rows == 0,
        is_last=rows == episode.num_rows - 1,
        is_terminal=labels.is_terminal,
        is_behaviour=rows < labels.behaviour_rows,
        behaviour_action=np.concatenate([cloned, no_action]),
        return_to_go=_returns_to_go(reward, discount),
        row=(first_row + rows).astype(np.int32),
    )


def _returns_to_go(reward: np.ndarray, discount: float) -> np.ndarray:
    """Returns float32 [L + 1]: the discounted rewards after each row, 0 at the last."""
    returns = np.zeros(len(reward))
    for row in reversed(range(len(reward) - 1)):
        returns[row] = reward[row + 1] + discount * returns[row + 1]
    return returns.astype(np.float32)


def first_rows(events: np.ndarray) -> np.ndarray:
    """Returns int [K]: the first row at which each event [L + 1, K] is so, else -1."""
    return np.where(events.any(axis=0), events.argmax(axis=0), -1)
