"""A row of the table, a trial of it, and the record of what has been tried."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from moto_jax.data.files import write_atomically

_RECORD_NAME = "trials.jsonl"
_SHARED = "shared"


class Outcome(NamedTuple):
    """What came of a trial.

    Attributes:
      said: the fault that was found, or what the program said of the one it met.
      kind: of fault that was tried; the table counts them.
      tried: how many things the trial tried.
      lost: how many of them broke the promise.
    """

    said: str = ""
    kind: str = ""
    tried: int = 1
    lost: int = 0


class Lost(AssertionError):
    """A promise was broken; the message says how."""

    def __init__(self, said: str, kind: str = ""):
        super().__init__(said)
        self.kind = kind


class CannotTryError(RuntimeError):
    """This machine cannot make the fault; the message says why."""


def _nothing(directory: Path) -> None:
    """Of trials that share nothing."""
    del directory


class Row(NamedTuple):
    """A promise, and what tries it once.

    Attributes:
      name: R1 to R15, or another.
      what: is done, and what must come of it.
      count: trials in full.
      trial: (number, an empty directory of its own) -> outcome; raises `Lost`. What its
        number decides is the same each time.
      prepare: (a directory as a trial's) makes what the trials share, before the first.
      bare: what the bare libraries do instead.
      each: things that a trial tries.
    """

    name: str
    what: str
    count: int
    trial: Callable[[int, Path], Outcome]
    prepare: Callable[[Path], object] = _nothing
    bare: str = ""
    each: int = 1


def attempt(row: Row, number: int, directory: Path) -> Outcome:
    """Tries a row once; whatever is raised, but for `CannotTryError`, is a loss.

    Args:
      row: tried.
      number: of the trial.
      directory: of the trial, made anew; it stays where the trial was lost.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    try:
        outcome = row.trial(number, directory)
    except CannotTryError:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    except Lost as error:
        return Outcome(str(error), error.kind, lost=1)
    # Whatever else comes out of the package is not what was promised either.
    except Exception as error:
        return Outcome(f"{type(error).__name__}: {error}", lost=1)
    if not outcome.lost:
        shutil.rmtree(directory, ignore_errors=True)
    return outcome


def run(
    rows: Iterable[Row], out: Path, world: str, count: int | None = None
) -> Iterator[tuple[Row, int, dict[str, Any]]]:
    """Tries what has not been tried yet; yields each trial's record once it is kept.

    Args:
      rows: in this order.
      out: directory of the record, and of the trials while they last.
      world: where the rows' runs learn; what was tried in another counts beside.
      count: trials of each row; its own where not given.
    """
    tried = {(one["row"], one["world"], one["number"]) for one in read_records(out)}
    for row in rows:
        for number in range(row.count if count is None else count):
            if (row.name, world, number) in tried:
                continue
            place = out / row.name.replace(" ", "-") / str(number)
            row.prepare(place)
            start = time.monotonic()
            record: dict[str, Any] = {
                "row": row.name,
                "world": world,
                "number": number,
            }
            try:
                outcome = attempt(row, number, place)
            except CannotTryError as error:
                yield row, number, {**record, "cannot": str(error)}
                break
            seconds = round(time.monotonic() - start, 2)
            record |= {**outcome._asdict(), "seconds": seconds}
            _append(out, record)
            yield row, number, record


def shared(directory: Path, name: str, make: Callable[[Path], None]) -> Path:
    """Returns what several trials need, made by the first of them.

    Args:
      directory: of a trial.
      name: of what is needed.
      make: makes it in the directory that it is given, which appears when it is whole.
    """
    place = directory.parents[1] / _SHARED / name
    if not place.exists():
        partial = place.with_name(f"{name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        make(partial)
        partial.rename(place)
    return place


def read_records(out: Path) -> list[dict[str, Any]]:
    """Returns the trials that were kept; a line that was cut short is left out."""
    path = out / _RECORD_NAME
    if not path.exists():
        return []
    records = []
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return records


def forget(out: Path, names: Sequence[str]) -> None:
    """Removes some rows' trials from the record, to try them again."""
    kept = [one for one in read_records(out) if one["row"] not in names]
    text = "".join(json.dumps(record) + "\n" for record in kept)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / _RECORD_NAME, text.encode())


def _append(out: Path, record: dict[str, Any]) -> None:
    """Adds a line, beside another soak that may be adding its own."""
    with (out / _RECORD_NAME).open("a+b") as file:
        file.seek(0)
        whole = file.read()[-1:] in (b"", b"\n")
        file.write(b"" if whole else b"\n")
        file.write(json.dumps(record).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
