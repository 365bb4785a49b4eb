"""What has been tried as a table: Markdown for people, CSV for programs."""

import collections
import statistics
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from experiments.soak.trials import Row
from moto_jax.data.files import write_atomically
from moto_jax.tables import comma_separated, markdown_lines

_HEADER = """# What was tried, and what survived

Each row is a promise that was tried with faults from outside, as often as its column
`tried` says; `docs/reliability.md` tells what each row does and how to try it.
`asked for` is the full count. What was lost broke the promise, and is quoted. Runs are
of the kitchen where the note does not say `mini`. Seconds are a trial's, median and
worst, on {machine}, beside other work.

    make soak

"""


def summarise(
    rows: Sequence[Row], records: Sequence[dict[str, Any]], cannot: dict[str, str]
) -> list[dict[str, Any]]:
    """Returns a line of the table for each row, tried or not.

    Args:
      rows: of the table.
      records: see `trials.read_records`.
      cannot: name of a row -> why this machine cannot try it.
    """
    return [
        _summarise(
            row,
            [one for one in records if one["row"] == row.name],
            cannot.get(row.name, ""),
        )
        for row in rows
    ]


def _summarise(
    row: Row, records: Sequence[dict[str, Any]], cannot: str
) -> dict[str, Any]:
    tried = sum(one["tried"] for one in records)
    lost = sum(one["lost"] for one in records)
    seconds = [one["seconds"] for one in records]
    kinds = collections.Counter(map(_kind, filter(itemgetter("kind"), records)))
    notes = [", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))]
    notes += [f"LOST: {one['said']}" for one in records if one["lost"]][:3]
    notes += [f"not tried here: {cannot}"] if cannot else []
    if not kinds and not lost and len({one["said"] for one in records}) == 1:
        notes.append(records[0]["said"])
    return {
        "row": row.name,
        "what": row.what,
        "asked for": row.count * row.each,
        "tried": tried,
        "survived": tried - lost,
        "lost": lost,
        "seconds, median": round(statistics.median(seconds), 1) if seconds else None,
        "seconds, worst": round(max(seconds), 1) if seconds else None,
        "bare libraries": row.bare,
        "note": "; ".join(filter(None, notes)),
    }


def _kind(record: dict[str, Any]) -> str:
    where = "" if record["world"] == "kitchen" else f" ({record['world']})"
    return record["kind"] + where


def write(lines: Sequence[dict[str, Any]], out: Path, machine: str) -> None:
    """Writes OUT/reliability.md and OUT/reliability.csv."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "reliability.csv", comma_separated(lines).encode())
    cells = [
        ["" if value is None else _cell(value) for value in line.values()]
        for line in lines
    ]
    table = "\n".join(markdown_lines(list(lines[0]), cells))
    text = _HEADER.format(machine=machine) + table + "\n"
    write_atomically(out / "reliability.md", text.encode())


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
