"""Makes a dataset: many episodes, in several processes, resumable and made once.

While a dataset is being made, its directory holds the finished episodes and a journal,
which is a manifest of those episodes. The real manifest is written last, so a dataset
that has one is whole. Nothing is written among files of others.
"""

import contextlib
import dataclasses
import importlib.metadata
import multiprocessing.connection
import os
import re
import signal
from collections.abc import Callable, Collection, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from moto_jax.acting.processes import Process, ProcessDied
from moto_jax.acting.progress import Progress
from moto_jax.data.episodes import (
    FOREIGN_PROFILE,
    MANIFEST_NAME,
    DatasetError,
    Episode,
    EpisodeRecord,
    Manifest,
    read_episode,
    read_manifest,
    write_episode,
    write_manifest,
)

JOURNAL_NAME = "journal.json"

# An episode that names its objects, as `file_name` makes them: of a dataset without a
# journal that was interrupted.
_OWN_FILE = re.compile(r"\d{6}(-[a-z_]+)+\.npz")


class Made(NamedTuple):
    """An episode, and what the manifest says of it beside.

    Attributes:
      episode: one.
      objects: see `episodes.EpisodeRecord`.
      attempts: see there.
    """

    episode: Episode
    objects: tuple[str, ...] = ()
    attempts: int = 1


class Job(Protocol):
    """What makes one episode; picklable, and a function of its fields alone."""

    @property
    def file(self) -> str:
        """The episode's file name in the dataset."""
        ...

    def run(self) -> Made:
        """Returns the episode.

        Raises:
          DatasetError: where it cannot be made.
        """
        ...


class _Failure(NamedTuple):
    error: str


def build_dataset(
    directory: str | os.PathLike[str],
    head: Manifest,
    make_jobs: Callable[[], Sequence[Job]],
    num_workers: int,
    progress: Progress | None = None,
) -> Manifest:
    """Makes the dataset that `head` describes, or what is missing of it.

    Args:
      directory: of the dataset; made if need be.
      head: the manifest without episodes.
      make_jobs: returns a job an episode, in the dataset's order; only called if there
        is something to do.
      num_workers: processes.
      progress: called with the numbers of episodes done and wanted.

    Returns:
      The manifest of the whole dataset.

    Raises:
      DatasetError: where the directory holds another dataset or files of others, or an
        episode cannot be made. Finished episodes stay, and the same call takes them up
        again.
      ValueError: if `num_workers` is not positive.
    """
    if num_workers < 1:
        raise ValueError(f"num_workers is {num_workers}: use at least 1")
    directory = Path(directory)
    finished = finished_dataset(directory, head)
    if finished is not None:
        return finished
    require_own_directory(directory)
    jobs = make_jobs()
    unfinished = _Unfinished(directory, head, [job.file for job in jobs], progress)
    missing = [jobs[index] for index in unfinished.missing()]
    _run(missing, directory, min(num_workers, len(missing)), unfinished.add)
    return unfinished.finish()


def build_dataset_here(
    directory: str | os.PathLike[str],
    head: Manifest,
    num_episodes: int,
    make: Callable[[Sequence[int]], Iterator[Made]],
    progress: Progress | None = None,
) -> Manifest:
    """Makes a dataset as `build_dataset` does, in this process.

    Args:
      directory: of the dataset; made if need be.
      head: the manifest without episodes.
      num_episodes: wanted.
      make: numbers of episodes -> those, in that order.
      progress: called with the numbers of episodes done and wanted.

    Raises:
      DatasetError: where the directory holds another dataset, or files of others.
    """
    directory = Path(directory)
    finished = finished_dataset(directory, head)
    if finished is not None:
        return finished
    require_own_directory(directory)
    files = [file_name(index, ()) for index in range(num_episodes)]
    unfinished = _Unfinished(directory, head, files, progress)
    missing = unfinished.missing()
    for index, made in zip(missing, make(missing), strict=True):
        unfinished.add(write_recorded(directory, files[index], made))
    return unfinished.finish()


class _Unfinished:
    """A dataset that is being made: its journal, and what is still missing."""

    def __init__(
        self,
        directory: Path,
        head: Manifest,
        files: Sequence[str],
        progress: Progress | None,
    ):
        """Keeps what an interrupted call finished, and writes the journal.

        The files are those of all episodes, in order; for the others see
        `build_dataset`.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._head = head
        self._files = files
        self._progress = progress
        self._records = _kept_records(directory, head, files)
        self._write_journal()

    def missing(self) -> list[int]:
        """Returns the numbers of the episodes that are still to be made."""
        files = enumerate(self._files)
        return [index for index, file in files if file not in self._records]

    def add(self, record: EpisodeRecord) -> None:
        """Takes an episode whose file is written."""
        self._records[record.file] = record
        self._write_journal()

    def finish(self) -> Manifest:
        """Writes the manifest, and removes what was needed to get there."""
        write_manifest(self._directory, self._manifest())
        (self._directory / JOURNAL_NAME).unlink()
        for leftover in self._directory.glob(".*.tmp"):
            leftover.unlink()
        return self._manifest()

    def _write_journal(self) -> None:
        write_manifest(self._directory, self._manifest(), JOURNAL_NAME)
        if self._progress is not None:
            self._progress(len(self._records), len(self._files))

    def _manifest(self) -> Manifest:
        kept = (self._records[file] for file in self._files if file in self._records)
        return dataclasses.replace(self._head, episodes=tuple(kept))


def require_own_directory(directory: Path) -> None:
    """Raises DatasetError where a directory holds more than datasets of ours.

    It may be missing or empty, and hold datasets that are not whole; hidden files are
    passed over.
    """
    if directory.exists() and not directory.is_dir():
        raise DatasetError(f"{directory}: no folder to make a dataset in: give another")
    foreign = _foreign_entry(directory) if directory.exists() else None
    if foreign is not None:
        raise DatasetError(
            f"{directory}: holds {foreign.name!r}, which is no part of a dataset of "
            "ours, and nothing is written beside it: give an empty directory; npz "
            "episodes of your own are read with config.data.source=pixels and "
            f"config.data.path={directory} (or --source and --path)"
        )


def _foreign_entry(directory: Path) -> Path | None:
    """Returns the first entry that is no part of a dataset, here or in a folder."""
    if any((directory / name).exists() for name in (MANIFEST_NAME, JOURNAL_NAME)):
        return None
    for entry in sorted(directory.iterdir()):
        if entry.name.startswith(".") or _OWN_FILE.fullmatch(entry.name):
            continue
        # Datasets of several sources lie in a folder each.
        folder = entry.is_dir() and not entry.is_symlink()
        foreign = _foreign_entry(entry) if folder else entry
        if foreign is not None:
            return foreign
    return None


def require_long_enough(what: str, rows: Sequence[int], min_rows: int) -> None:
    """Raises DatasetError, for what holds the episodes, unless one fills a sequence."""
    if max(rows, default=0) < min_rows:
        raise DatasetError(
            f"{what}: the longest of {len(rows)} episodes has {max(rows, default=0)} "
            f"rows, fewer than config.replay.sequence_length, {min_rows}: shorten the "
            "sequences"
        )


def finished_dataset(
    directory: str | os.PathLike[str], head: Manifest
) -> Manifest | None:
    """Returns the manifest of a whole dataset that is there already.

    Raises:
      DatasetError: if it is not the one that `head` describes.
    """
    return _read_same(Path(directory), MANIFEST_NAME, head)


def head_of(
    source: str, request: dict[str, Any], render_profile: str, image_size: int
) -> Manifest:
    """Returns a manifest without episodes."""
    drawn_here = render_profile != FOREIGN_PROFILE
    return Manifest(
        source=source,
        render_profile=render_profile,
        image_size=image_size,
        mujoco_version=importlib.metadata.version("mujoco") if drawn_here else "",
        request=request,
        episodes=(),
    )


def file_name(index: int, objects: Sequence[str]) -> str:
    """Returns the name of a dataset's episode: its number and its objects."""
    parts = [f"{index:06d}", *(name.replace(" ", "_") for name in objects)]
    return "-".join(parts) + ".npz"


def write_recorded(directory: Path, file: str, made: Made) -> EpisodeRecord:
    """Writes an episode; returns what the manifest is to say of it."""
    return EpisodeRecord(
        file=file,
        sha256=write_episode(directory / file, made.episode),
        rows=made.episode.num_rows,
        objects=made.objects,
        attempts=made.attempts,
    )


def _read_same(directory: Path, name: str, head: Manifest) -> Manifest | None:
    """Returns the manifest or journal that is there, if it is of the same request."""
    path = directory / name
    if not path.exists():
        return None
    found = read_manifest(directory, name)
    for field in ("source", "render_profile", "image_size", "mujoco_version"):
        _require_equal(path, field, getattr(found, field), getattr(head, field))
    for field in sorted({*found.request, *head.request}):
        _require_equal(path, field, found.request.get(field), head.request.get(field))
    return found


def _require_equal(path: Path, field: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise DatasetError(
            f"{path}: field '{field}' is {found!r} where {wanted!r} is asked for: use "
            "another directory, or, to train on what is there, "
            "config.data.source=directory"
        )


def _kept_records(
    directory: Path, head: Manifest, wanted: Collection[str]
) -> dict[str, EpisodeRecord]:
    """Returns what an interrupted call finished, each file checked."""
    journal = _read_same(directory, JOURNAL_NAME, head)
    kept = {}
    for record in journal.episodes if journal is not None else ():
        # Anything wrong with a file means that it is made again.
        with contextlib.suppress(DatasetError):
            if record.file in wanted:
                read_episode(directory / record.file, record.sha256)
                kept[record.file] = record
    return kept


def _run(
    jobs: Sequence[Job],
    directory: Path,
    num_workers: int,
    on_record: Callable[[EpisodeRecord], None],
) -> None:
    """Runs the jobs, each in the first process that is free."""
    waiting = iter(jobs)
    processes = [Process(__name__, "worker_main") for _ in range(num_workers)]
    try:
        busy = {process.connection: process for process in processes}
        for process in processes:
            process.send((next(waiting), directory))
        while busy:
            for connection in multiprocessing.connection.wait(list(busy)):
                process = busy[connection]  # pyright: ignore[reportArgumentType]
                answer = process.receive()
                if isinstance(answer, _Failure):
                    raise DatasetError(f"{directory}: {answer.error}")
                on_record(answer)
                job = next(waiting, None)
                if job is None:
                    del busy[process.connection]
                else:
                    process.send((job, directory))
    except ProcessDied as error:
        raise DatasetError(
            f"{directory}: a process that makes episodes died ({error}): run again, "
            "finished episodes are kept"
        ) from None
    finally:
        for process in processes:
            process.kill()


def worker_main(descriptor: int) -> None:
    """Makes and writes one episode after another, until the pipe closes."""
    # Ctrl-C reaches every process of the terminal; the parent decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with (
        contextlib.suppress(EOFError, ConnectionError),
        Connection(descriptor) as connection,
    ):
        while True:
            connection.send(_answer(*connection.recv()))


def _answer(job: Job, directory: Path) -> EpisodeRecord | _Failure:
    try:
        return write_recorded(directory, job.file, job.run())
    except DatasetError as error:
        return _Failure(str(error))
    except Exception as error:
        return _Failure(f"{job.file}: {type(error).__name__}: {error}")
