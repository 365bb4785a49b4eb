"""A tiny task from pixels with a known optimum: push a bright bar to the middle.

NumPy alone, n environments in lock step. Only the first action dimension does
something; the second must be ignored. Every episode ends by its time limit, and no
reward is hidden: what an agent misses, it has not learnt.
"""

from collections.abc import Callable

import jax
import numpy as np

from moto_jax.types import Batch

ACTION_SIZE, IMAGE_SIZE = 2, 64
STEPS = 16
# Of the returns to go.
DISCOUNT = 0.9
# Of the bar a step; its position is in [-1, 1]: four lead from an edge to the middle.
SPEED = 0.25
# Half of its width, and of the stretch that its centre moves along, pixels.
_HALF_WIDTH, _HALF_STRETCH = 4.0, 24.0

Act = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def draw(position: np.ndarray) -> np.ndarray:
    """Images uint8 [n, 64, 64, 3]; its edges are smooth, as positions are."""
    middle = (IMAGE_SIZE - 1) / 2 + _HALF_STRETCH * position
    distance = np.abs(np.arange(IMAGE_SIZE) - middle[:, None])
    brightness = np.clip(_HALF_WIDTH + 0.5 - distance, 0.0, 1.0)
    shape = (len(position), IMAGE_SIZE, IMAGE_SIZE, 3)
    column = (255 * brightness).astype(np.uint8)[:, None, :, None]
    return np.broadcast_to(column, shape)


def best_returns(start: np.ndarray) -> np.ndarray:
    """Sums [n] of rewards when each bar takes the shortest way and then stays."""
    left = np.abs(start) - SPEED * np.arange(1, STEPS + 1)[:, None]
    return np.sum(1.0 - np.maximum(left, 0.0), axis=0)


def play(act: Act, start: np.ndarray) -> Batch:
    """Whole episodes from the positions [n], as sequences [STEPS + 1, n, ...].

    Args:
      act: (images, is_first [n], positions [n]) -> actions [n, A].
      start: positions [n].
    """
    rows = (STEPS + 1, len(start))
    image = np.zeros((*rows, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    prev_action = np.zeros((*rows, ACTION_SIZE), np.float32)
    reward = np.zeros(rows, np.float32)
    is_first, is_last = np.zeros(rows, np.bool_), np.zeros(rows, np.bool_)
    is_first[0] = is_last[-1] = True
    position, image[0] = start, draw(start)
    for step in range(STEPS):
        action = act(image[step], is_first[step], position)
        position = np.clip(position + SPEED * action[:, 0], -1.0, 1.0)
        image[step + 1] = draw(position)
        prev_action[step + 1] = action
        reward[step + 1] = 1.0 - np.abs(position)
    return_to_go = np.zeros(rows, np.float32)
    for step in reversed(range(STEPS)):
        return_to_go[step] = reward[step + 1] + DISCOUNT * return_to_go[step + 1]
    return Batch(
        image=image,
        prev_action=prev_action,
        reward=reward,
        is_first=is_first,
        is_last=is_last,
        is_terminal=np.zeros(rows, np.bool_),
        is_behaviour=np.zeros(rows, np.bool_),
        behaviour_action=np.roll(prev_action, -1, axis=0),
        return_to_go=return_to_go,
        row=np.arange(np.prod(rows), dtype=np.int32).reshape(rows, order="F"),
    )


def random_episodes(count: int, generator: np.random.Generator) -> Batch:
    """Uniform actions: nothing here is worth imitating."""

    def act(image, is_first, position):
        return generator.uniform(-1, 1, (len(position), ACTION_SIZE))

    return play(act, generator.uniform(-1, 1, count))


def demonstrations(count: int, generator: np.random.Generator) -> Batch:
    """Noisy ways to the middle, marked as worth cloning."""

    def act(image, is_first, position):
        action = generator.normal(0.0, 0.2, (len(position), ACTION_SIZE))
        action[:, 0] -= position / SPEED
        return np.clip(action, -1.0, 1.0)

    episodes = play(act, generator.uniform(-1, 1, count))
    # No action is taken at the last row.
    return episodes.replace(is_behaviour=~episodes.is_last)


def join(first: Batch, second: Batch) -> Batch:
    """Both sets of episodes; those of the second are numbered on."""
    second = second.replace(row=second.row + first.row.size)
    return jax.tree.map(lambda *both: np.concatenate(both, axis=1), first, second)


def sample(
    episodes: Batch, shape: tuple[int, int], generator: np.random.Generator
) -> Batch:
    """A batch of `shape` (T, B): slices of episodes, their ends as likely as others."""
    length, size = shape
    rows, count = episodes.reward.shape
    row = generator.integers(rows, size=size) - generator.integers(length, size=size)
    start = np.clip(row, 0, rows - length)
    index = start + np.arange(length)[:, None], generator.integers(count, size=size)
    return jax.tree.map(lambda field: field[index], episodes)
