"""What both kitchens share as Gymnasium environments: task, reward, success, time."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.pixel_env import PixelEnv


class TaskEnv(PixelEnv):
    """An image in, an action out, a sparse reward; subclasses move and draw.

    Observation: uint8 [size, size, 3]. Action: float32 [A] in [-1, 1]. Reward: how many
    of the task's objects are in their goal after the step. The decision process never
    ends: an episode is cut (truncated) after `episode_steps`. `reset` and `step` return
    this `info`, and what the subclass adds:

    * `objects_in_goal`: bool [7] in the order of `tasks.OBJECTS`, now.
    * `objects_done`: the names of those objects, sorted.
    * `success`: whether each of the task's objects was in its goal at some step so far.
    * `qpos`: [30], the joint positions, free of noise.

    They are copies, for demonstrations and analysis; an agent sees the image alone.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}

    def __init__(
        self,
        task: str | Sequence[str],
        image_size: int,
        episode_steps: int,
        num_actions: int,
    ):
        """Checks the sizes.

        Raises:
          ValueError: for an unknown task or object, or an impossible size.
        """
        self.task = tasks.resolve_task(task)
        super().__init__(image_size, episode_steps, num_actions)
        self._ever_in_goal = np.zeros(len(tasks.OBJECTS), bool)

    def restart(self, seed: int | None) -> None:
        """Puts everything where an episode begins."""
        raise NotImplementedError

    def advance(self, action: np.ndarray) -> None:
        """Moves for one step by a float64 action [A], which it clips to [-1, 1]."""
        raise NotImplementedError

    def look(self) -> tuple[np.ndarray | None, dict[str, Any]]:
        """Returns the image, None for the one before, and `qpos` with what is added."""
        raise NotImplementedError

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode; an equal seed and equal actions give an equal episode."""
        super().reset(seed=seed, options=options)
        self.restart(seed)
        self.begin()
        self._ever_in_goal[:] = False
        return self._observe()

    def step(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Moves for one step; `action` is clipped to [-1, 1]."""
        self.advance(self.accept(action))
        image, info = self._observe()
        reward = float(tasks.task_reward(info["objects_in_goal"], self.task))
        return image, reward, False, self.is_cut, info

    def _observe(self) -> tuple[np.ndarray, dict[str, Any]]:
        image, more = self.look()
        if image is not None:
            self._image = image
        in_goal = tasks.objects_in_goal(more["qpos"])
        self._ever_in_goal |= in_goal
        done = (name for name, yes in zip(tasks.OBJECTS, in_goal, strict=True) if yes)
        info = {
            "objects_in_goal": in_goal,
            "objects_done": tuple(sorted(done)),
            "success": bool(self._ever_in_goal[tasks.object_columns(self.task)].all()),
            **more,
        }
        return self._image.copy(), info
