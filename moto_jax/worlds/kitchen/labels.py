"""What an episode of a kitchen is worth: reward, and the rows that are cloned.

Of the real kitchen and of the one in miniature; NumPy only.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from moto_jax.data.episodes import DatasetError, Episode
from moto_jax.data.rows import Label, Labels, first_rows
from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.rewards import make_reward_label

# Cloning goes on for a while after the last accepted object, so that the policy learns
# to let go of it.
BEHAVIOUR_ROWS_AFTER = 10


def make_label(
    task: Sequence[str],
    rows_after: int = BEHAVIOUR_ROWS_AFTER,
    success_reward: float = 0.0,
) -> Label:
    """Returns what labels a kitchen's episodes for one task.

    The reward counts the task's objects that are in their goal. The kitchen never ends
    by itself, so no row is terminal. Its K events are the task's objects in their goal;
    of an episode from elsewhere that has rewards alone, all of them or none.

    Args:
      task: the task's objects in order.
      rows_after: see `behaviour_rows`.
      success_reward: the reward with which an episode without objects is a success; 0:
        as many as the task has objects.
    """
    columns = tasks.object_columns(task)
    by_reward = make_reward_label(success_reward or len(columns), rows_after)

    def label(episode: Episode) -> Labels:
        if episode.objects_in_goal is None:
            labels = by_reward(episode)
            events = np.repeat(labels.events, len(columns), axis=1)
            return dataclasses.replace(labels, events=events)
        in_goal = require_objects(episode)
        return Labels(
            reward=tasks.task_reward(in_goal, task),
            is_terminal=np.zeros(episode.num_rows, np.bool_),
            events=in_goal[:, columns],
            behaviour_rows=behaviour_rows(in_goal, task, rows_after),
        )

    return label


def require_objects(episode: Episode) -> np.ndarray:
    """Returns which of the seven objects are in their goal, bool [L + 1, 7].

    Raises:
      DatasetError: for an episode that does not say so.
    """
    in_goal = episode.objects_in_goal
    if in_goal is None or in_goal.shape[1] != len(tasks.OBJECTS):
        found = "missing" if in_goal is None else f"bool{list(in_goal.shape)}"
        raise DatasetError(
            f"field 'objects_in_goal' is {found} where a kitchen's has "
            f"{len(tasks.OBJECTS)} objects ({', '.join(tasks.OBJECTS)}): store all of "
            "them in this order, or 'reward' instead"
        )
    return in_goal


def completion_order(
    in_goal: np.ndarray, task: Sequence[str] = tasks.OBJECTS
) -> tuple[str, ...]:
    """Returns the objects in their goal at the last row, by first completion.

    Of objects first completed in the same row, those of the task come first, in the
    task's order.

    Args:
      in_goal: bool [rows, K].
      task: the task's objects in order.
    """
    first = dict(zip(tasks.OBJECTS, first_rows(in_goal), strict=True))
    done = [
        name for name, at_end in zip(tasks.OBJECTS, in_goal[-1], strict=True) if at_end
    ]
    rank = {name: index for index, name in enumerate(task)}
    return tuple(
        sorted(done, key=lambda name: (first[name], rank.get(name, len(rank))))
    )


def behaviour_rows(
    objects_in_goal: np.ndarray,
    task: Sequence[str],
    rows_after: int = BEHAVIOUR_ROWS_AFTER,
) -> int:
    """Returns how many rows at an episode's start have their actions cloned.

    The success filter of behaviour cloning (section 4.3): of all objects that are in
    their goal at the end, in order of completion, accept while the i-th is the i-th of
    the task. The rows up to some after the last accepted completion count; none if none
    was accepted.

    Args:
      objects_in_goal: bool [rows, 7].
      task: the task's objects in order.
      rows_after: the last accepted completion, ten in the kitchen.
    """
    last_accepted = None
    order = completion_order(objects_in_goal, task)
    for done, wanted in zip(order, task, strict=False):
        if done != wanted:
            break
        last_accepted = done
    if last_accepted is None:
        return 0
    completion = first_rows(objects_in_goal)
    row = int(completion[tasks.OBJECTS.index(last_accepted)])
    return min(row + rows_after, len(objects_in_goal) - 1)
