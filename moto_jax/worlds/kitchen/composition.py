"""Which objects each scripted episode does, after the human demonstrations."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.kitchen.demonstrator import demonstrable_order

# The 581 human demonstrations of Relay Policy Learning by object sequence: the real
# data behind D4RL's and D5RL's kitchen datasets.
HUMAN_SEQUENCES: dict[tuple[str, ...], int] = {
    ("microwave", "kettle", "light switch", "slide cabinet"): 19,
    ("microwave", "kettle", "bottom burner", "slide cabinet"): 29,
    ("microwave", "kettle", "bottom burner", "hinge cabinet"): 20,
    ("microwave", "kettle", "top burner", "light switch"): 22,
    ("microwave", "kettle", "top burner", "hinge cabinet"): 20,
    ("microwave", "kettle", "hinge cabinet", "slide cabinet"): 24,
    ("microwave", "kettle", "light switch", "hinge cabinet"): 20,
    ("microwave", "bottom burner", "light switch", "slide cabinet"): 48,
    ("microwave", "bottom burner", "hinge cabinet", "slide cabinet"): 28,
    ("microwave", "top burner", "bottom burner", "hinge cabinet"): 31,
    ("microwave", "top burner", "bottom burner", "slide cabinet"): 21,
    ("microwave", "light switch", "hinge cabinet", "slide cabinet"): 21,
    ("microwave", "top burner", "bottom burner", "light switch"): 22,
    ("microwave", "top burner", "light switch", "hinge cabinet"): 21,
    ("kettle", "bottom burner", "light switch", "slide cabinet"): 27,
    ("kettle", "bottom burner", "light switch", "hinge cabinet"): 22,
    ("kettle", "bottom burner", "hinge cabinet", "slide cabinet"): 25,
    ("kettle", "light switch", "hinge cabinet", "slide cabinet"): 20,
    ("kettle", "top burner", "bottom burner", "slide cabinet"): 25,
    ("kettle", "top burner", "light switch", "slide cabinet"): 19,
    ("kettle", "top burner", "bottom burner", "hinge cabinet"): 19,
    ("kettle", "top burner", "bottom burner", "light switch"): 21,
    ("top burner", "bottom burner", "hinge cabinet", "slide cabinet"): 30,
    ("top burner", "bottom burner", "light switch", "slide cabinet"): 27,
}

# A small dataset in the real proportion would often hold no complete demonstration.
MIN_COMPLETE_EPISODES = 2


def composition(
    task: str | Sequence[str],
    num_episodes: int,
    complete_share: float | None = None,
    seed: int = 0,
) -> list[tuple[str, ...]]:
    """Returns which objects each scripted episode does, in order.

    The episodes are shared out over the human demonstrations' sequences in proportion
    to their number (largest remainder), and shuffled. The sequence that is the task
    itself gets its own share. A task that no human did as a whole, as `partial`, has no
    complete episode.

    Args:
      task: a task's name, or its objects in order.
      num_episodes: how many sequences to return.
      complete_share: share of the episodes that do the whole task; None for that of
        the human demonstrations (19 of 581 for `mixed`), but at least two episodes.
      seed: of the shuffle.

    Raises:
      ValueError: for a parameter out of its range, or a share of complete episodes
        where no human demonstration is complete.
    """
    if num_episodes < 1:
        raise ValueError(
            f"config.data.episodes (--num_episodes) is {num_episodes}: use at least 1"
        )
    counts = {demonstrable_order(key): n for key, n in HUMAN_SEQUENCES.items()}
    whole_task = demonstrable_order(tasks.resolve_task(task))
    total = sum(counts.values())
    human_complete = counts.pop(whole_task, 0)
    if complete_share is None:
        num_complete = round(num_episodes * human_complete / total)
        if human_complete:
            num_complete = max(num_complete, MIN_COMPLETE_EPISODES)
        num_complete = min(num_complete, num_episodes)
    elif not 0.0 <= complete_share <= 1.0:
        raise ValueError(
            f"config.data.complete_share (--complete_share) is {complete_share}: use 0 "
            "to 1; for the humans' share give the key -1, or leave the flag out"
        )
    elif complete_share and not human_complete:
        raise ValueError(
            f"config.data.complete_share (--complete_share) is {complete_share}, but "
            f"no human demonstration does {', '.join(whole_task)}: give the key -1, or "
            "leave the flag out"
        )
    else:
        num_complete = round(num_episodes * complete_share)
    sequences = [whole_task] * num_complete
    for sequence, n in _allocate(counts, num_episodes - num_complete).items():
        sequences += [sequence] * n
    order = np.random.default_rng([seed, num_episodes]).permutation(num_episodes)
    return [sequences[index] for index in order]


def _allocate(weights: dict[tuple[str, ...], int], total: int) -> dict[Any, int]:
    """Shares `total` out in proportion to the weights, by largest remainder."""
    scale = total / sum(weights.values())
    shares = {key: math.floor(weight * scale) for key, weight in weights.items()}
    by_remainder = sorted(
        weights, key=lambda key: weights[key] * scale - shares[key], reverse=True
    )
    for key in by_remainder[: total - sum(shares.values())]:
        shares[key] += 1
    return shares
