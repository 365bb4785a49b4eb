"""Makes a dataset: many episodes, in several processes, resumable and made once.

While a dataset is being made, its directory holds the finished episodes and a journal,
which is a manifest of those episodes. The real manifest is written last, so a dataset
that has one is whole.
"""

import contextlib
import dataclasses
import importlib.metadata
import multiprocessing.connection
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from moto_jax.acting.processes import Process, ProcessDied
from moto_jax.data.episodes import (
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

Progress = Callable[[int, int], None]


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
      DatasetError: where the directory holds another dataset, or an episode cannot be
        made. Finished episodes stay, and the same call takes them up again.
      ValueError: if `num_workers` is not positive.
    """
    if num_workers < 1:
        raise ValueError(f"num_workers is {num_workers}: use at least 1")
    directory = Path(directory)
    finished = finished_dataset(directory, head)
    if finished is not None:
        return finished
    jobs = make_jobs()
    directory.mkdir(parents=True, exist_ok=True)
    records = _kept_records(directory, head, jobs)

    def manifest() -> Manifest:
        order = (job.file for job in jobs)
        kept = tuple(records[file] for file in order if file in records)
        return dataclasses.replace(head, episodes=kept)

    def on_record(record: EpisodeRecord | None) -> None:
        if record is not None:
            records[record.file] = record
        write_manifest(directory, manifest(), JOURNAL_NAME)
        if progress is not None:
            progress(len(records), len(jobs))

    on_record(None)
    missing = [job for job in jobs if job.file not in records]
    _run(missing, directory, min(num_workers, len(missing)), on_record)
    write_manifest(directory, manifest())
    (directory / JOURNAL_NAME).unlink()
    for leftover in directory.glob(".*.tmp"):
        leftover.unlink()
    return manifest()


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
    return Manifest(
        source=source,
        render_profile=render_profile,
        image_size=image_size,
        mujoco_version=importlib.metadata.version("mujoco"),
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
            "another directory, or remove this one to make the dataset again"
        )


def _kept_records(
    directory: Path, head: Manifest, jobs: Sequence[Job]
) -> dict[str, EpisodeRecord]:
    """Returns what an interrupted call finished, each file checked."""
    journal = _read_same(directory, JOURNAL_NAME, head)
    wanted = {job.file for job in jobs}
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


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Progress]:
    """Shows progress on standard error: a bar on a terminal, else a line each tenth."""
    # Not needed in the processes that make the episodes.
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if console.is_terminal:
        with Bar(console=console) as bar:
            task = bar.add_task(label)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return

    def print_tenth(done: int, total: int) -> None:
        if done * 10 // total > (done - 1) * 10 // total:
            print(f"{label}: {done} of {total}", file=sys.stderr, flush=True)

    yield print_tenth


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
