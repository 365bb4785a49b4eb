"""Online episodes: collected one ahead of training, kept on disk, known by checksum."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from moto_jax.data.episodes import Episode, read_episode, write_episode


def copy_beside_training(params: Any) -> Any:
    """Returns a copy for a policy that acts while updates run.

    A copy, since the next update donates its state; on the CPU, since an accelerator
    does things in the order they were asked for, and each of an episode's 280 calls
    would wait behind the updates that are queued already.
    """
    copied = jax.tree.map(jnp.copy, params)
    if jax.default_backend() == "cpu":
        return copied
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        # $JAX_PLATFORMS leaves the CPU out: slower, and no worse.
        return copied
    return jax.device_put(copied, cpu)


class OnlineEpisodes:
    """Collects online episodes one ahead of training, and keeps them on disk."""

    def __init__(
        self,
        directory: Path,
        collect: Callable[[int, Any], Episode],
        known: dict[str, str],
    ):
        """Takes up what a checkpoint knows of.

        Args:
          directory: where the episodes lie.
          collect: (episode number, acting parameters) -> Episode.
          known: sha256 by file name, in order of collection; any other file in the
            directory is of updates that were lost, and is removed.
        """
        self.known = dict(known)
        self._directory = directory
        self._collect = collect
        self._executor = ThreadPoolExecutor(max_workers=1)
        self._pending: tuple[str, Future[Episode]] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        for path in directory.glob("*.npz"):
            if path.name not in self.known:
                path.unlink()

    def take(self, number: int, params: Any) -> tuple[str, Episode]:
        """Returns an episode by number, collecting it with `params` if it is new."""
        name = f"{number:06d}.npz"
        if self._pending is None:
            self.start(number, params)
        if self._pending is not None:
            episode = self._pending[1].result()
            self.finish()
            return name, episode
        return name, read_episode(self._directory / name, self.known[name])

    def start(self, number: int, params: Any) -> None:
        """Begins to collect an episode in the background, unless it is known."""
        name = f"{number:06d}.npz"
        if name not in self.known:
            params = copy_beside_training(params)
            future = self._executor.submit(self._collect, number, params)
            self._pending = (name, future)

    def finish(self) -> None:
        """Waits for the episode under way and writes it down."""
        if self._pending is not None:
            name, future = self._pending
            self.known[name] = write_episode(self._directory / name, future.result())
            self._pending = None

    def close(self) -> None:
        """Waits for the thread to end."""
        self._executor.shutdown(wait=True, cancel_futures=True)
