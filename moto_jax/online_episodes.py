"""Online episodes: collected one ahead of training, kept on disk, known by checksum.

Episodes come in rounds: one of every seed. Each process of a run collects some of them
and stores all that it feeds.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from moto_jax import machines
from moto_jax.data.episodes import Episode, read_episode, write_episode
from moto_jax.types import Params

# Index of a seed -> its episode of the round.
Round = dict[int, Episode]


class OnlineEpisodes:
    """Collects rounds one ahead of training, and keeps their episodes on disk."""

    def __init__(
        self,
        directories: Sequence[Path],
        collect: Callable[[int, Params], Round],
        known: Sequence[Mapping[str, str]],
    ):
        """Takes up what a checkpoint knows of.

        Args:
          directories: where the episodes of each seed lie; made where missing.
          collect: (round's number, acting parameters) -> the episodes that this process
            is to collect. The parameters are its own to keep.
          known: for each seed sha256 by file name, in order of collection; other
            episodes of a run in the directory are of updates that were lost, and are
            removed.
        """
        self.known = [dict(files) for files in known]
        self._directories = list(directories)
        self._collect = collect
        self._executor = ThreadPoolExecutor(max_workers=1)
        self._pending: tuple[int, Future[Round]] | None = None
        if machines.is_first():
            for directory, files in zip(self._directories, self.known, strict=True):
                directory.mkdir(parents=True, exist_ok=True)
                for path in collected(directory).values():
                    if path.name not in files:
                        path.unlink()
        machines.wait_for_all("online episodes")

    def take(
        self, number: int, wanted: Sequence[int], params: Callable[[], Params]
    ) -> dict[int, tuple[str, Episode]]:
        """Returns some seeds' episodes of a round, collected now if they are new.

        Args:
          number: of the round; where one is under way it is that one.
          wanted: indices of seeds.
          params: returns what the round is collected with, if it must be.

        Returns:
          Index of the seed -> file name and episode.
        """
        name = _name(number)
        if self._pending is None:
            self.start(number, params)
        if self._pending is not None and self._pending[0] != number:
            raise RuntimeError(
                f"round {number} is asked for while {self._pending[0]} is under way"
            )
        here = self.finish()
        taken = {}
        for index in wanted:
            episode = here.get(index)
            if episode is None:
                path = self._directories[index] / name
                episode = read_episode(path, self.known[index][name])
            taken[index] = (name, episode)
        return taken

    def start(self, number: int, params: Callable[[], Params]) -> None:
        """Begins to collect a round in the background, unless it is known."""
        if any(_name(number) not in files for files in self.known):
            future = self._executor.submit(self._collect, number, params())
            self._pending = (number, future)

    def finish(self) -> Round:
        """Waits for the round under way and writes it down; returns its episodes."""
        if self._pending is None:
            return {}
        number, future = self._pending
        episodes = future.result()
        name = _name(number)
        checksums = {
            str(index): write_episode(self._directories[index] / name, episode)
            for index, episode in episodes.items()
        }
        for of_process in machines.gather(checksums):
            for index, checksum in of_process.items():
                self.known[int(index)][name] = checksum
        self._pending = None
        return episodes

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


def _name(number: int) -> str:
    return f"{number:06d}.npz"
