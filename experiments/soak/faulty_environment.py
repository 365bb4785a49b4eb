"""Environments that fail once, in a way and at a step that are chosen; no jax here."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

FAULTS = ("hangs", "raises", "NaN", "wrong shape", "is stopped (SIGSTOP)")


class Walk(gymnasium.Env):
    """Ten numbers that move with the actions, bit by bit told by the image.

    Image uint8 [16, 16, 3], action float32 [2], 20 steps.
    """

    observation_space = gymnasium.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    length = 20

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode, a function of its seed."""
        super().reset(seed=seed)
        self._position = self.np_random.normal(size=10)
        self._row = 0
        return self._image(), {}

    def step(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Moves; the reward is the first number."""
        self._position = np.sin(9.0 * self._position + np.resize(action, 10))
        self._row += 1
        over = self._row == self.length
        return self._image(), float(self._position[0]), False, over, {}

    def _image(self) -> np.ndarray:
        levels = np.concatenate([self._position, 1e6 * self._position % 1.0])
        return np.resize((127 * (1 + levels)).astype(np.uint8), (16, 16, 3))


class Faulty(gymnasium.Wrapper):
    """Fails once, in whichever process comes first to a step after a reset."""

    def __init__(self, env: gymnasium.Env, fault: str, step: int, fuse: Path):
        """Wraps an environment.

        Args:
          env: works.
          fault: of `FAULTS`.
          step: of an episode at which it fails.
          fuse: file that is made when it does; while it is there nothing fails.
        """
        super().__init__(env)
        self._fault, self._step, self._fuse = fault, step, fuse
        self._taken = 0

    def reset(self, **keywords: Any) -> tuple[Any, dict[str, Any]]:
        """Starts an episode."""
        self._taken = 0
        return self.env.reset(**keywords)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Takes a step, or fails."""
        image, reward, terminated, truncated, info = self.env.step(action)
        self._taken += 1
        if self._taken == self._step and self._burns():
            if self._fault == "hangs":
                time.sleep(3600)
            elif self._fault == "raises":
                raise RuntimeError("the simulator is unstable")
            elif self._fault == "NaN":
                reward, info = np.nan, _spoilt(info)
            elif self._fault == "wrong shape":
                image = image[1:]
            else:
                os.kill(os.getpid(), signal.SIGSTOP)
        return image, reward, terminated, truncated, info

    def _burns(self) -> bool:
        try:
            self._fuse.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def _spoilt(info: dict[str, Any]) -> dict[str, Any]:
    if "qpos" not in info:
        return info
    qpos = np.array(info["qpos"], np.float64)
    qpos[0] = np.nan
    return {**info, "qpos": qpos}


def make_walk() -> gymnasium.Env:
    """Returns the environment of numbers, which never fails."""
    return Walk()


def make_kitchen() -> gymnasium.Env:
    """Returns the kitchen, with episodes of as many steps."""
    from moto_jax.worlds.kitchen.environment import KitchenEnv

    return KitchenEnv(
        ("microwave",), render_profile="fast", image_size=64, episode_steps=Walk.length
    )


def make_faulty(world: str, fault: str, step: int, fuse: Path) -> gymnasium.Env:
    """Returns an environment of a world that fails once; see `Faulty`."""
    return Faulty(MAKERS[world](), fault, step, fuse)


MAKERS = {"mini": make_walk, "kitchen": make_kitchen}
