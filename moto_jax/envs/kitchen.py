"""Franka Kitchen from one image, as a Gymnasium environment.

The physics is gymnasium-robotics' FrankaKitchen-v1; the observation is one RGB image of
the paper's camera and nothing else. The decision process never ends: an episode is cut
(truncated) after `episode_steps` control steps of 0.08 s.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np

from moto_jax.envs import tasks
from moto_jax.envs.mujoco_compat import make_simulator
from moto_jax.envs.renderer import KitchenRenderer, check_profile

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


class KitchenEnv(gymnasium.Env):
    """The paper's kitchen: image in, nine joint velocities out, a sparse reward.

    Observation: uint8 [size, size, 3]. Action: float32 [9] in [-1, 1], joint velocities
    of seven arm joints and two fingers. Reward: how many of the task's objects are in
    their goal after the step. `reset` and `step` return this `info`:

    * `objects_in_goal`: bool [7] in the order of `tasks.OBJECTS`, now.
    * `objects_done`: the names of those objects, sorted.
    * `success`: whether each of the task's objects was in its goal at some step so far.
    * `qpos` float64 [30], `qvel` float64 [29]: the simulator's state, free of noise.
    * `arm_bias` float64 [7]: gravity, Coriolis and centrifugal torques of the arm.

    They are copies, for demonstrations and analysis; an agent sees the image alone.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}

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
          render_profile: "fast" or "paper"; see `renderer.RENDER_PROFILES`.
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
        self.task = tasks.resolve_task(task)
        check_profile(render_profile)
        if image_size < 1 or episode_steps < 1:
            raise ValueError(
                f"image_size {image_size} and episode_steps {episode_steps} must be "
                "positive"
            )
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
        self._image_size = image_size
        self._episode_steps = episode_steps
        self._step: int | None = None
        self._ever_in_goal = np.zeros(len(tasks.OBJECTS), bool)
        self._image = np.zeros((image_size, image_size, 3), np.uint8)
        self.render_mode = "rgb_array" if render_frames else None
        self.observation_space = gymnasium.spaces.Box(
            0, 255, (image_size, image_size, 3), np.uint8
        )
        self.action_space = gymnasium.spaces.Box(
            -1.0, 1.0, (tasks.NUM_ACTIONS,), np.float32
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode; an equal seed and equal actions give an equal episode."""
        super().reset(seed=seed, options=options)
        self._simulator.reset(seed=seed)
        self._step = 0
        self._ever_in_goal[:] = False
        return self._observe()

    def step(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Moves for one control step (0.08 s); `action` is clipped to [-1, 1].

        Raises:
          ValueError: for an action of another shape, or with a NaN or an infinity.
          RuntimeError: before the first `reset`.
        """
        if self._step is None:
            raise RuntimeError("call reset before the first step")
        action = np.asarray(action, np.float64)
        if action.shape != (tasks.NUM_ACTIONS,) or not np.isfinite(action).all():
            raise ValueError(
                f"action must be {tasks.NUM_ACTIONS} finite numbers, got "
                f"{action.tolist()}"
            )
        self._simulator.step(action)
        self._step += 1
        image, info = self._observe()
        reward = float(tasks.task_reward(info["objects_in_goal"], self.task))
        return image, reward, False, self._step >= self._episode_steps, info

    def render(self) -> np.ndarray:
        """Returns a copy of the current observation."""
        return self._image.copy()

    def close(self) -> None:
        """Frees the renderer made here and the simulator."""
        if self._owned_renderer is not None:
            self._owned_renderer.close()
            self._owned_renderer = self._renderer = None
        self._simulator.close()

    def _observe(self) -> tuple[np.ndarray, dict[str, Any]]:
        data = self._simulator.data
        qpos = data.qpos.copy()
        in_goal = tasks.objects_in_goal(qpos)
        self._ever_in_goal |= in_goal
        if self._renderer is not None:
            self._image = self._renderer.render(qpos)
        done = (name for name, yes in zip(tasks.OBJECTS, in_goal, strict=True) if yes)
        info = {
            "objects_in_goal": in_goal,
            "objects_done": tuple(sorted(done)),
            "success": bool(self._ever_in_goal[tasks.object_columns(self.task)].all()),
            "qpos": qpos,
            "qvel": data.qvel.copy(),
            "arm_bias": data.qfrc_bias[:NUM_ARM_JOINTS].copy(),
        }
        return self._image.copy(), info
