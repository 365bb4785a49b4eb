"""Online episodes: collected one ahead of training, kept on disk, known by checksum.

Episodes come in rounds: as many of every seed. Each process of a run collects some of
them and stores all that it feeds.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from moto_jax.data.episodes import Episode, read_episode, write_episode
from moto_jax.running import machines
from moto_jax.running.schedule import Round
from moto_jax.types import Params

# Index of a seed -> its episodes of a round, in order.
Collected = dict[int, list[Episode]]


class OnlineEpisodes:
    """Collects rounds one ahead of training, and keeps their episodes on disk."""

    def __init__(
        self,
        directories: Sequence[Path],
        collect: Callable[[Round, Params], Collected],
        known: Sequence[Mapping[str, str]],
    ):
        """Takes up what a checkpoint knows of.

        Args:
          directories: where the episodes of each seed lie; made where missing.
          collect: (round, acting parameters) -> the episodes that this process is to
            collect. The parameters are its own to keep.
          known: for each seed sha256 by file name, in order of collection; other
            episodes of a run in the directory are of updates that were lost, and are
            removed.
        """
        self.known = [dict(files) for files in known]
        self._directories = list(directories)
        self._collect = collect
        self._executor = ThreadPoolExecutor(max_workers=1)
        self._pending: tuple[Round, Future[Collected]] | None = None
        if machines.is_first():
            for directory, files in zip(self._directories, self.known, strict=True):
                directory.mkdir(parents=True, exist_ok=True)
                for path in collected(directory).values():
                    if path.name not in files:
                        path.unlink()
        machines.wait_for_all("online episodes")

    def take(
        self, new: Round, wanted: Sequence[int], params: Callable[[], Params]
    ) -> dict[int, list[tuple[str, Episode]]]:
        """Returns some seeds' episodes of a round, collected now if they are new.

        Args:
          new: the round; where one is under way it is that one.
          wanted: indices of seeds.
          params: returns what the round is collected with, if it must be.

        Returns:
          Index of the seed -> file name and episode of each.
        """
        if self._pending is None:
            self.start(new, params)
        if self._pending is not None and self._pending[0] != new:
            raise RuntimeError(
                f"round {new.number} is asked for while "
                f"{self._pending[0].number} is under way"
            )
        here = self.finish()
        names = _names(new)
        taken = {}
        for index in wanted:
            episodes = here.get(index)
            if episodes is None:
                known = self.known[index]
                episodes = [
                    read_episode(self._directories[index] / name, known[name])
                    for name in names
                ]
            taken[index] = list(zip(names, episodes, strict=True))
        return taken

    def start(self, new: Round, params: Callable[[], Params]) -> None:
        """Begins to collect a round in the background, unless it is known."""
        names = _names(new)
        if any(name not in files for files in self.known for name in names):
            self._pending = new, self._executor.submit(self._collect, new, params())

    def finish(self) -> Collected:
        """Waits for the round under way and writes it down; returns its episodes."""
        if self._pending is None:
            return {}
        collecting, future = self._pending
        collected_here = future.result()
        names = _names(collecting)
        checksums = {
            str(index): {
                name: write_episode(self._directories[index] / name, episode)
                for name, episode in zip(names, episodes, strict=True)
            }
            for index, episodes in collected_here.items()
        }
        for of_process in machines.gather(checksums):
            for index, of_seed in of_process.items():
                self.known[int(index)] |= of_seed
        self._pending = None
        return collected_here

    def close(self) -> None:
        """Waits for the thread to end."""
        self._executor.shutdown(wait=True, cancel_futures=True)


def collected(directory: Path) -> dict[int, Path]:
    """Returns a run's online episodes in a directory, by number.

    A file of any other name is somebody else's.
    """
    return {
        int(path.stem): path
        for path in sorted(directory.glob("*.npz"))
        if path.stem.isdecimal() and path.name == _name(int(path.stem))
    }


def _names(one: Round) -> list[str]:
    return [_name(number) for number in one.episodes]


def _name(number: int) -> str:
    return f"{number:06d}.npz"
