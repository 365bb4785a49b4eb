"""The kitchen in miniature as a Gymnasium environment, for people and other libraries.

Training plays it on the device instead: see `moto_jax.acting.device_stage`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from moto_jax.worlds.kitchen.task_env import TaskEnv
from moto_jax.worlds.mini import minikitchen
from moto_jax.worlds.mini.minikitchen import MiniKitchen, State


class MiniKitchenEnv(TaskEnv):
    """`minikitchen`'s functions, jitted, one environment at a time.

    Action: float32 [3] in [-1, 1], acceleration in x and y, and whether the gripper
    closes (positive) or opens.
    """

    def __init__(
        self,
        task: str | Sequence[str] = "mixed",
        image_size: int = 32,
        episode_steps: int = minikitchen.EPISODE_STEPS,
    ):
        """Compiles nothing yet.

        Args:
          task: a task's name, or its objects in order.
          image_size: pixels a side.
          episode_steps: steps until truncation.

        Raises:
          ValueError: for an unknown task or object, or an impossible size.
        """
        super().__init__(task, image_size, episode_steps, minikitchen.NUM_ACTIONS)
        kitchen = MiniKitchen(image_size, episode_steps)
        self._restart = jax.jit(kitchen.reset)
        self._advance = jax.jit(kitchen.step)
        self._look = jax.jit(
            lambda state: (kitchen.render(state), kitchen.joint_positions(state))
        )
        self._state: State = kitchen.reset(jax.random.key(0))
        self._key = jax.random.key(0)

    def restart(self, seed: int | None) -> None:
        """Draws where the gripper starts."""
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        reset_key, self._key = jax.random.split(jax.random.key(seed))
        self._state = self._restart(reset_key)

    def advance(self, action: np.ndarray) -> None:
        """Moves for one step, with the noise of the episode's seed."""
        key = jax.random.fold_in(self._key, self._state.steps)
        self._state = self._advance(self._state, action.astype(np.float32), key)

    def look(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Returns the picture, and the state as the real kitchen's joint positions."""
        image, qpos = map(np.asarray, self._look(self._state))
        return image, {"qpos": qpos}
