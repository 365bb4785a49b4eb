"""A kitchen without a simulator, in which every bit of every action has consequences.

No jax here: workers import this module.
"""

import gymnasium
import numpy as np

from moto_jax.data.episodes import Episode
from moto_jax.worlds.kitchen import tasks


class FakeKitchen(gymnasium.Env):
    """Episodes of `length` steps; nine numbers move chaotically with the actions.

    Equal seeds and actions give equal episodes, and an action that differs in its last
    bit soon gives another image, other objects in their goals and another `qpos`.
    """

    action_space = gymnasium.spaces.Box(-1.0, 1.0, (tasks.NUM_ACTIONS,), np.float32)

    def __init__(self, image_size: int = 8, length: int = 7):
        self.observation_space = gymnasium.spaces.Box(
            0, 255, (image_size, image_size, 3), np.uint8
        )
        self.length = length

    def reset(self, *, seed=None, options=None):
        self.position = np.random.default_rng(seed).normal(size=tasks.NUM_ACTIONS)
        self.row = 0
        return self._observe()

    def step(self, action):
        self.position = np.sin(9.0 * self.position + action)
        self.row += 1
        image, info = self._observe()
        return image, 0.0, False, self.row == self.length, info

    def _observe(self):
        # Three channels a pixel: the low bits of the numbers show as well.
        levels = np.concatenate([self.position, 1e6 * self.position % 1.0])
        levels = (127.0 * (1.0 + np.sin(levels))).astype(np.uint8)
        qpos = np.zeros(30)
        qpos[: tasks.NUM_ACTIONS] = self.position
        in_goal = self.position[: len(tasks.OBJECTS)] > 0.5
        image = np.resize(levels, self.observation_space.shape)
        return image, {"objects_in_goal": in_goal, "qpos": qpos}


def demonstrations(
    count: int = 4, image_size: int = 8, length: int = 7
) -> list[tuple[str, Episode]]:
    """Returns episodes of random actions by file name."""
    env = FakeKitchen(image_size, length)
    named = []
    for number in range(count):
        generator = np.random.default_rng([7, number])
        actions = generator.uniform(-1, 1, (length, tasks.NUM_ACTIONS))
        actions = actions.astype(np.float32)
        seen = [env.reset(seed=number)]
        for action in actions:
            image, _, _, _, info = env.step(action)
            seen.append((image, info))
        episode = Episode(
            image=np.stack([image for image, _ in seen]),
            action=actions,
            objects_in_goal=np.stack([info["objects_in_goal"] for _, info in seen]),
            qpos=np.stack([info["qpos"] for _, info in seen]).astype(np.float32),
        )
        named.append((f"{number:06d}.npz", episode))
    return named
