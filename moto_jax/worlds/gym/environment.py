"""A Gymnasium environment as workers step it: square pixels in, [-1, 1] out; no jax."""

import functools
import importlib
import json
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from moto_jax.worlds.pixel_env import PixelEnv


class GymEnv(PixelEnv):
    """Any environment with a bounded `Box` of actions, seen through one image.

    Observation: uint8 [size, size, 3]: the environment's own where it observes an image
    (uint8 [height, width, 3], alone or as the one image of a `Dict`), else what it
    renders; each pixel is the mean of those that it covers. Action: float32 [A] in
    [-1, 1], scaled to the environment's bounds, its axes flattened. Reward, termination
    and truncation are the environment's; besides, an episode is cut (truncated) after
    `episode_steps`. `info` is empty: nothing but reward and end is recorded.
    """

    def __init__(
        self,
        name: str,
        modules: str = "",
        options: str = "",
        image_size: int = 64,
        episode_steps: int = 500,
    ):
        """Builds the environment.

        Args:
          name: by which it is registered with Gymnasium.
          modules: imported first, as they register it; separated by commas.
          options: a JSON object, the keyword arguments to make it with.
          image_size: width and height of the observation in pixels.
          episode_steps: steps until truncation.

        Raises:
          ValueError: for an environment that cannot be learnt in, an impossible number,
            or options that are no JSON object.
          Exception: what the environment itself raises where it cannot be built.
        """
        self._env, self._key = _build(name, modules, options)
        self._low, self._high = _bounds(self._env.action_space)
        self._image_size = image_size
        super().__init__(image_size, episode_steps, self._low.size)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode of the environment."""
        super().reset(seed=seed)
        observation, _ = self._env.reset(seed=seed, options=options)
        self.begin()
        return self._look(observation), {}

    def step(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Takes one step; `action` is clipped to [-1, 1]."""
        observation, reward, terminated, truncated, _ = self._env.step(
            self._scaled(self.accept(action))
        )
        truncated = bool(truncated) or self.is_cut
        return self._look(observation), float(reward), bool(terminated), truncated, {}

    def close(self) -> None:
        """Closes the environment."""
        self._env.close()

    def _scaled(self, action: np.ndarray) -> np.ndarray:
        """Returns an action [A] of [-1, 1] within the environment's bounds."""
        share = (np.clip(action, -1.0, 1.0).reshape(self._low.shape) + 1.0) / 2.0
        scaled = self._low + share * (self._high - self._low)
        # Rounded to its precision, a bound may lie beyond itself.
        space = self._env.action_space
        return np.clip(scaled.astype(space.dtype), space.low, space.high)  # pyright: ignore[reportAttributeAccessIssue]

    def _look(self, observation: Any) -> np.ndarray:
        """Returns a copy of the image that an observation comes with."""
        if self._key is None:
            image = self._env.render()
        else:
            image = functools.reduce(
                lambda part, key: part[key], self._key, observation
            )
        image = np.asarray(image)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"the environment draws {image.dtype}{list(image.shape)} where a frame "
                "is uint8 [height, width, 3]"
            )
        self._image = resized(image, self._image_size)
        return self._image.copy()


def action_size(name: str, modules: str = "", options: str = "") -> int:
    """Returns A of an environment, which is built here and closed again.

    Raises:
      ValueError: where it cannot be built or learnt in, in one sentence.
    """
    try:
        env = GymEnv(name, modules, options)
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"config.env.name is 'gym:{name}', but nothing can be learnt there: "
            f"{kind}{reason}"
        ) from error
    try:
        return env.action_space.shape[0]  # pyright: ignore[reportOptionalSubscript]
    finally:
        env.close()


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """Returns uint8 [size, size, 3] of an image uint8 [height, width, 3].

    Each pixel is the mean of what it covers, parts of pixels by their share; a picture
    that is not square is squeezed, nothing is cut off.
    """
    height, width, _ = image.shape
    if (height, width) == (size, size):
        return image
    rows, columns = _cover(height, size), _cover(width, size)
    lower = rows @ image.reshape(height, -1).astype(np.float32)
    covered = columns @ lower.reshape(size, width, 3)
    return np.rint(covered).clip(0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=8)
def _cover(length: int, size: int) -> np.ndarray:
    """Returns float32 [size, length]: the shares of each pixel that are of each old."""
    edges = np.linspace(0.0, length, size + 1)[:, None]
    old = np.arange(length)
    covered = np.minimum(edges[1:], old + 1) - np.maximum(edges[:-1], old)
    return (covered.clip(min=0.0) * size / length).astype(np.float32)


def _build(
    name: str, modules: str, options: str
) -> tuple[gymnasium.Env, tuple[str, ...] | None]:
    """Returns an environment, and where its observations hold their image, if at all.

    Without an image it is one that renders.
    """
    for module in modules.split(","):
        if module.strip():
            importlib.import_module(module.strip())
    keywords = _keywords(options)
    # The checker's warnings are for the environment's author.
    env = gymnasium.make(name, disable_env_checker=True, **keywords)
    try:
        _bounds(env.action_space)
        found = _images(env.observation_space)
    except ValueError:
        env.close()
        raise
    if len(found) == 1:
        return env, found[0]
    env.close()
    if found:
        names = ", ".join("/".join(key) for key in found)
        raise ValueError(
            f"it observes several images ({names}) where one is learnt from"
        )
    # Told apart only now, since an environment that observes images may not render.
    keywords = {"render_mode": "rgb_array", **keywords}
    return gymnasium.make(name, disable_env_checker=True, **keywords), None


def _keywords(options: str) -> dict[str, Any]:
    try:
        keywords = json.loads(options or "{}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"config.env.options is no JSON ({error})") from None
    if not isinstance(keywords, dict):
        raise ValueError(f"config.env.options is {options}: use a JSON object")
    return keywords


def _images(space: Any, key: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Returns the keys that lead to images in an observation, none for itself."""
    if isinstance(space, spaces.Dict):
        parts: Mapping[str, Any] = space.spaces
        return [
            image
            for name, part in parts.items()
            for image in _images(part, (*key, name))
        ]
    is_image = (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and len(space.shape) == 3
        and space.shape[2] == 3
    )
    return [key] if is_image else []


def _bounds(space: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lowest and the highest action, float64, in the space's shape.

    Raises:
      ValueError: for anything but a bounded `Box` of real numbers.
    """
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise ValueError(
            f"its actions are {space} where a Box of real numbers is wanted"
        )
    low, high = (np.asarray(bound, np.float64) for bound in (space.low, space.high))
    if not low.size or not np.isfinite([low, high]).all():
        raise ValueError(
            f"its actions are {space}, which has no bounds to scale [-1, 1] to: give "
            "the Box finite ones"
        )
    return low, high
