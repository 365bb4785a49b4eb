"""Environments with known episodes, and with known faults, for worker processes.

No jax here: workers import this module.
"""

import os
import pathlib
import sys
import time
from multiprocessing.connection import Connection

import gymnasium
import numpy as np

NUM_ACTIONS = 2
IMAGE_SIZE = 4


class CountingEnv(gymnasium.Env):
    """An episode of `length + seed % 3` steps that is known in full.

    Row j's image is filled with (seed + j) mod 256; qpos[0] sums the first action
    component so far, qpos[1] is 1 if jax is imported here; object j is in its goal in
    row j and no other.
    """

    observation_space = gymnasium.spaces.Box(
        0, 255, (IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8
    )
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (NUM_ACTIONS,), np.float32)

    def __init__(self, length: int = 4):
        self.length = length

    def reset(self, *, seed=None, options=None):
        assert seed is not None
        self.seed, self.row, self.moved = seed, 0, np.float32(0.0)
        return self._observe()

    def step(self, action):
        self.row += 1
        self.moved += action[0]
        image, info = self._observe()
        return image, 0.0, False, self.row >= self.length + self.seed % 3, info

    def _observe(self):
        qpos = np.zeros(30)
        qpos[:2] = self.moved, "jax" in sys.modules
        info = {"objects_in_goal": np.arange(7) == self.row, "qpos": qpos}
        image = np.full(self.observation_space.shape, (self.seed + self.row) % 256)
        return image.astype(np.uint8), info


class WaitingEnv(CountingEnv):
    """At row 2 of the episode with seed 1 waits until others have ended twice.

    `ended` is the path of a file that gets one character an ended episode.
    """

    def __init__(self, ended: pathlib.Path):
        super().__init__()
        self.ended = ended

    def step(self, action):
        result = super().step(action)
        if self.seed != 1 and result[3]:
            with self.ended.open("a") as file:
                file.write(".")
        while self.seed == 1 and self.row == 2:
            if self.ended.exists() and len(self.ended.read_text()) >= 2:
                break
            time.sleep(0.01)
        return result


class FaultyEnv(CountingEnv):
    """Fails in one way at row 2 of the episode with seed 1.

    Always, or `times` times in all processes together if `fuse` is given: the path of a
    file that gets one character a failure.
    """

    def __init__(self, fault: str, fuse: pathlib.Path | None = None, times: int = 1):
        super().__init__()
        self.fault, self.fuse, self.times = fault, fuse, times

    def _observe(self):
        image, info = super()._observe()
        if self.row != 2 or self.seed != 1:
            return image, info
        if self.fuse:
            burnt = self.fuse.read_text() if self.fuse.exists() else ""
            if len(burnt) == self.times:
                return image, info
            self.fuse.write_text(burnt + ".")
        match self.fault:
            case "raises":
                raise RuntimeError("the simulator is unstable")
            case "dies":
                os.kill(os.getpid(), 9)
            case "hangs":
                time.sleep(600)
            case "nan":
                info["qpos"][3] = np.nan
            case "shape":
                image = image[1:]
            case "dtype":
                image = image.astype(np.float32)
        return image, info


def end_on_request(descriptor):
    """A process that says nothing: on "end" it ends, on "close" it goes on alone."""
    with Connection(descriptor) as connection:
        request = connection.recv()
        if request == "end":
            sys.exit(3)
    time.sleep(600)


class BrokenEnv(CountingEnv):
    """Cannot be built."""

    def __init__(self):
        raise ValueError("no such kitchen")
