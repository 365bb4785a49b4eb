"""Franka Kitchen from one image, as a Gymnasium environment.

The physics is gymnasium-robotics' FrankaKitchen-v1; the observation is one RGB image of
the paper's camera and nothing else. A control step is 0.08 s.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.kitchen.mujoco_compat import make_simulator
from moto_jax.worlds.kitchen.renderer import KitchenRenderer, check_profile
from moto_jax.worlds.kitchen.task_env import TaskEnv

NUM_ARM_JOINTS = 7


class Renderer(Protocol):
    """What the environment needs of a renderer."""

    image_size: int

    def render(self, qpos: np.ndarray) -> np.ndarray:
        """Returns uint8 [size, size, 3], drawn from the joint positions [30] alone."""
        ...

    def close(self) -> None:
        """Frees the graphics context."""
        ...


class KitchenEnv(TaskEnv):
    """The paper's kitchen: image in, nine joint velocities out, a sparse reward.

    Action: float32 [9] in [-1, 1], joint velocities of seven arm joints and two
    fingers. `info` has `TaskEnv`'s entries, `qpos` float64 [30], and

    * `qvel` float64 [29]: the simulator's velocities, free of noise.
    * `arm_bias` float64 [7]: gravity, Coriolis and centrifugal torques of the arm.
    """

    def __init__(
        self,
        task: str | Sequence[str] = "mixed",
        render_profile: str = "fast",
        image_size: int = 64,
        robot_noise_ratio: float = 0.01,
        object_noise_ratio: float = 0.0005,
        episode_steps: int = tasks.EPISODE_STEPS,
        renderer: Renderer | None = None,
        render_frames: bool = True,
    ):
        """Builds the simulator and, unless told otherwise, the renderer.

        Args:
          task: a task's name, or its objects in order.
          render_profile: "fast", "shaded" or "paper"; see `renderer.RENDER_PROFILES`.
          image_size: width and height of the observation in pixels.
          robot_noise_ratio: scale of the noise on the robot's sensed joints, which its
            controller feeds back into the motion.
          object_noise_ratio: scale of the benchmark's noise on sensed objects; nothing
            here reads those, but the random stream stays the benchmark's.
          episode_steps: control steps until truncation.
          renderer: draws the images instead of one made here; its owner closes it.
          render_frames: False gives all-zero images and makes no graphics context, for
            physics alone.

        Raises:
          ValueError: for an unknown task, object or profile, or an impossible size.
        """
        super().__init__(task, image_size, episode_steps, tasks.NUM_ACTIONS)
        check_profile(render_profile)
        if renderer is not None and renderer.image_size != image_size:
            raise ValueError(
                f"the renderer draws {renderer.image_size} pixels but image_size is "
                f"{image_size}: make them equal"
            )
        self._owned_renderer: Renderer | None = None
        if render_frames and renderer is None:
            renderer = self._owned_renderer = KitchenRenderer(
                render_profile, image_size
            )
        self._renderer = renderer if render_frames else None
        self._simulator = make_simulator(robot_noise_ratio, object_noise_ratio)
        self.render_mode = "rgb_array" if render_frames else None

    def restart(self, seed: int | None) -> None:
        """Resets the simulator."""
        self._simulator.reset(seed=seed)

    def advance(self, action: np.ndarray) -> None:
        """Moves for one control step (0.08 s)."""
        self._simulator.step(action)

    def look(self) -> tuple[np.ndarray | None, dict[str, Any]]:
        """Returns a frame, if frames are drawn, and the simulator's state."""
        data = self._simulator.data
        qpos = data.qpos.copy()
        image = None if self._renderer is None else self._renderer.render(qpos)
        return image, {
            "qpos": qpos,
            "qvel": data.qvel.copy(),
            "arm_bias": data.qfrc_bias[:NUM_ARM_JOINTS].copy(),
        }

    def close(self) -> None:
        """Frees the renderer made here and the simulator."""
        if self._owned_renderer is not None:
            self._owned_renderer.close()
            self._owned_renderer = self._renderer = None
        self._simulator.close()
