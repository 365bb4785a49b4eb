"""The process that steps one environment for a `worker_pool.WorkerPool`.

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
      fields: the episode's other fields at this row; see `data.episodes.Episode`.
      is_last: the episode ends here.
    """

    image: np.ndarray
    fields: dict[str, np.ndarray]
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
        return _observation(env, image, _fields(info, 0.0, False), False)
    image, reward, terminated, truncated, info = env.step(request.action)
    fields = _fields(info, reward, terminated)
    return _observation(env, image, fields, terminated or truncated)


def _fields(info: dict[str, Any], reward: Any, terminated: bool) -> dict[str, Any]:
    """Returns what happened: by objects where the environment tells of them."""
    if "objects_in_goal" not in info:
        return {"reward": np.float32(reward), "is_terminal": np.bool_(terminated)}
    return {
        "objects_in_goal": np.asarray(info["objects_in_goal"], np.bool_),
        "qpos": np.asarray(info["qpos"], np.float32),
    }


def _observation(
    env: gymnasium.Env, image: Any, fields: dict[str, Any], is_last: bool
) -> Observation:
    """Checks what the environment returned, before it can reach an episode."""
    space = env.observation_space
    image = np.asarray(image)
    if image.shape != space.shape or image.dtype != space.dtype:
        raise ValueError(
            f"the environment returned an image of {image.dtype}{list(image.shape)} "
            f"where its observation space says {space.dtype}{list(space.shape or ())}"
        )
    for name, value in fields.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ValueError(f"the environment returned NaN or infinite {name}")
    return Observation(image, fields, bool(is_last))
