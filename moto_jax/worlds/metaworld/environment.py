"""A MetaWorld task from one image, as a Gymnasium environment; free of jax.

The physics is the `metaworld` package's environment class itself, not what
`gymnasium.make` wraps it in; its shaped reward is dropped, and frames are drawn here.
"""

# MuJoCo's names come from compiled modules, which pyright cannot read.
# pyright: reportAttributeAccessIssue=false

import atexit
import weakref
from typing import Any

import numpy as np

from moto_jax.worlds.graphics import cannot_draw, choose_backend
from moto_jax.worlds.metaworld import tasks
from moto_jax.worlds.pixel_env import PixelEnv

# Where the hand starts, and the standard deviation around it, metres.
_HAND_START = np.array([0.1, 0.5, 0.3])
_HAND_NOISE = 0.02
# Simulator steps without an action after a reset, in which things come to rest.
_SETTLING_STEPS = 10
# The camera, in degrees and metres.
_CAMERA = {"elevation": -22.5, "azimuth": 15.0, "distance": 0.75}
_CAMERA_LOOKAT = (-0.15, 0.65, 0.25)
# Second word of the hand's random numbers: the simulator draws from the seed alone.
_HAND_STREAM = 1


class MetaWorldEnv(PixelEnv):
    """One of `tasks.TASKS`: an image in, four numbers out, reward 1 while it is done.

    Observation: uint8 [size, size, 3]. Action: float32 [4] in [-1, 1], taken for two
    steps of the simulator (0.025 s). Reward: the simulator's success flag, 0 or 1,
    after the second of them. The decision process never ends: an episode is cut
    (truncated) after `episode_steps`. `reset` and `step` return this `info`:

    * `success`: bool, the flag.
    * `state`: float64 [39], what MetaWorld's scripted policies see; an agent sees the
      image alone.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 40}

    def __init__(
        self,
        task: str,
        image_size: int = 64,
        episode_steps: int = tasks.EPISODE_STEPS,
        render_frames: bool = True,
    ):
        """Builds the simulator and, unless told otherwise, the graphics context.

        Args:
          task: one of `tasks.TASKS`.
          image_size: width and height of the observation in pixels.
          episode_steps: decisions until truncation, at most 245: the simulator refuses
            to go on after 500 of its steps.
          render_frames: False gives all-zero images and makes no graphics context, for
            physics alone.

        Raises:
          ValueError: for an unknown task, an impossible number, or where the package
            is missing.
          GraphicsError: where the machine cannot draw.
        """
        tasks.check_task(task)
        tasks.require_package()
        super().__init__(image_size, episode_steps, tasks.NUM_ACTIONS)
        # MuJoCo is imported only once its graphics backend is chosen.
        choose_backend()
        from metaworld.env_dict import ENV_CLS_MAP  # pyright: ignore[reportMissingImports]

        simulator: Any = ENV_CLS_MAP[f"{task}-v3"]()
        longest = (simulator.max_path_length - _SETTLING_STEPS) // tasks.ACTION_REPEAT
        if episode_steps > longest:
            raise ValueError(
                f"config.env.episode_steps is {episode_steps}: use 1 to {longest}, "
                "after which the simulator refuses to go on"
            )
        # What its `set_task` would set, which wants a pickled task.
        simulator._set_task_called = True
        simulator._freeze_rand_vec = False
        simulator.seeded_rand_vec = True
        # The goal is part of what scripted policies see.
        simulator._partially_observable = False
        del simulator.sawyer_observation_space
        self._simulator = simulator
        self._camera = Camera(simulator.model, image_size) if render_frames else None
        self.render_mode = "rgb_array" if render_frames else None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode; an equal seed and equal actions give an equal episode."""
        super().reset(seed=seed, options=options)
        if seed is None:
            seed = int(self.np_random.integers(2**32))
        generator = np.random.default_rng([seed, _HAND_STREAM])
        noise = _HAND_NOISE * generator.standard_normal(3)
        simulator = self._simulator
        simulator.hand_init_pos = _HAND_START + noise
        simulator.seed(seed)
        simulator.reset()
        self.begin()
        return self._advance(np.zeros(tasks.NUM_ACTIONS), _SETTLING_STEPS)

    def step(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Moves for two steps of the simulator; `action` is clipped to [-1, 1]."""
        action = self.accept(action)
        image, info = self._advance(np.clip(action, -1.0, 1.0), tasks.ACTION_REPEAT)
        return image, float(info["success"]), False, self.is_cut, info

    def close(self) -> None:
        """Frees the graphics context and the simulator."""
        if self._camera is not None:
            self._camera.close()
            self._camera = None
        self._simulator.close()

    def _advance(
        self, action: np.ndarray, steps: int
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Takes an action for so many steps of the simulator, then looks."""
        for _ in range(steps):
            state, _, _, _, info = self._simulator.step(action)
        if self._camera is not None:
            self._image = self._camera.draw(self._simulator.data)
        return self._image.copy(), {"success": bool(info["success"]), "state": state}


class Camera:
    """Draws a model through the experiments' camera, without shadows."""

    def __init__(self, model: Any, image_size: int):
        """Makes the graphics context.

        Args:
          model: MuJoCo's; its buffer's size and its quality are set here.
          image_size: pixels a side.

        Raises:
          GraphicsError: where no graphics context can be made.
        """
        import mujoco

        model.vis.global_.offwidth = model.vis.global_.offheight = image_size
        model.vis.quality.offsamples = 0
        model.vis.quality.shadowsize = 0
        try:
            self._renderer = mujoco.Renderer(model, image_size, image_size)
        except Exception as error:
            raise cannot_draw(error) from error
        for flag in (
            mujoco.mjtRndFlag.mjRND_SHADOW,
            mujoco.mjtRndFlag.mjRND_REFLECTION,
        ):
            self._renderer.scene.flags[flag] = 0
        self._view = mujoco.MjvCamera()
        self._view.type = mujoco.mjtCamera.mjCAMERA_FREE
        self._view.lookat[:] = _CAMERA_LOOKAT
        for name, value in _CAMERA.items():
            setattr(self._view, name, value)
        self._release = weakref.finalize(self, self._renderer.close)
        # Before MuJoCo's own exit handler, which ends EGL under our context.
        atexit.register(self._release)

    def draw(self, data: Any) -> np.ndarray:
        """Returns uint8 [size, size, 3] of MuJoCo's data."""
        self._renderer.update_scene(data, self._view)
        return self._renderer.render()

    def close(self) -> None:
        """Frees the graphics context; further calls do nothing."""
        self._release()
        atexit.unregister(self._release)
