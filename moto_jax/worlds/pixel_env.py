"""What every environment stepped by workers has: one image, actions, a time limit."""

from typing import Any

import gymnasium
import numpy as np


class PixelEnv(gymnasium.Env):
    """One image in, actions in [-1, 1] out; subclasses move and draw.

    Observation: uint8 [size, size, 3]. Action: float32 [A] in [-1, 1]. An episode is
    cut (truncated) after `episode_steps`. A subclass calls `begin` in its `reset` and
    `accept` in its `step`, and keeps its newest image in `_image`.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, image_size: int, episode_steps: int, num_actions: int):
        """Checks the sizes.

        Args:
          image_size: width and height of the observation in pixels.
          episode_steps: steps until truncation.
          num_actions: A.

        Raises:
          ValueError: for a size that is not positive.
        """
        if image_size < 1 or episode_steps < 1:
            raise ValueError(
                f"image_size {image_size} and episode_steps {episode_steps} must be "
                "positive"
            )
        self._episode_steps = episode_steps
        self._step: int | None = None
        self._image = np.zeros((image_size, image_size, 3), np.uint8)
        self.render_mode: str | None = "rgb_array"
        self.observation_space = gymnasium.spaces.Box(
            0, 255, self._image.shape, np.uint8
        )
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (num_actions,), np.float32)

    def begin(self) -> None:
        """Counts the steps of a new episode."""
        self._step = 0

    def accept(self, action: Any) -> np.ndarray:
        """Counts a step; returns its action as float64 [A], not yet clipped.

        Raises:
          ValueError: for an action of another shape, or with a NaN or an infinity.
          RuntimeError: before the first `reset`.
        """
        if self._step is None:
            raise RuntimeError("call reset before the first step")
        action = np.asarray(action, np.float64)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            size = int(np.prod(self.action_space.shape or ()))
            raise ValueError(
                f"action must be {size} finite numbers, got {action.tolist()}"
            )
        self._step += 1
        return action

    @property
    def is_cut(self) -> bool:
        """Whether the time limit ends the episode here."""
        return self._step is not None and self._step >= self._episode_steps

    def render(self) -> np.ndarray:
        """Returns a copy of the current observation."""
        return self._image.copy()
