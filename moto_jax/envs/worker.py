"""The process that steps one environment for a `collection.WorkerPool`.

`main` runs in a `processes.Process`, free of jax: it holds the simulator and little
else.
"""

import contextlib
import signal
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import gymnasium
import numpy as np


class Reset(NamedTuple):
    """Starts an episode; answered by an `Observation`."""

    seed: int


class Step(NamedTuple):
    """Takes one step with `action`, float32 [A]; answered by an `Observation`."""

    action: np.ndarray


class Observation(NamedTuple):
    """What an environment shows after a reset or a step.

    Attributes:
      image: uint8 [height, width, 3].
      objects_in_goal: bool [K].
      qpos: float32 [30].
      is_last: the episode ends here.
    """

    image: np.ndarray
    objects_in_goal: np.ndarray
    qpos: np.ndarray
    is_last: bool


class Failure(NamedTuple):
    """The answer to a request that raised; the worker is not to be used again."""

    error: str


def main(descriptor: int) -> None:
    """Builds the environment that is sent first, then answers until the pipe closes."""
    # Ctrl-C reaches every process of the terminal; only the pool decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A closed pipe means that the pool let go of this worker, or died itself.
    with (
        contextlib.suppress(EOFError, ConnectionError),
        Connection(descriptor) as connection,
    ):
        try:
            env: gymnasium.Env = connection.recv()()
            while True:
                connection.send(_answer(env, connection.recv()))
        except (EOFError, ConnectionError):
            raise
        except Exception as error:
            connection.send(Failure(f"{type(error).__name__}: {error}"))


def _answer(env: gymnasium.Env, request: Reset | Step) -> Observation:
    if isinstance(request, Reset):
        image, info = env.reset(seed=request.seed)
        return _observation(env, image, info, False)
    image, _, terminated, truncated, info = env.step(request.action)
    return _observation(env, image, info, terminated or truncated)


def _observation(
    env: gymnasium.Env, image: Any, info: dict[str, Any], is_last: bool
) -> Observation:
    """Checks what the environment returned, before it can reach an episode."""
    space = env.observation_space
    image = np.asarray(image)
    if image.shape != space.shape or image.dtype != space.dtype:
        raise ValueError(
            f"the environment returned an image of {image.dtype}{list(image.shape)} "
            f"where its observation space says {space.dtype}{list(space.shape or ())}"
        )
    qpos = np.asarray(info["qpos"], np.float32)
    if not np.isfinite(qpos).all():
        raise ValueError("the environment returned NaN or infinite joint positions")
    in_goal = np.asarray(info["objects_in_goal"], np.bool_)
    return Observation(image, in_goal, qpos, bool(is_last))
