"""A figure with its caption and its numbers, and the files that these become."""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from moto_jax.study.style import PRINT_STYLE, save

# Of every figure: one to look at, one to print.
PICTURE_FORMATS = (".png", ".pdf")

# Captions of the figures in a directory, and what was left out of them.
CONTENTS_NAME = "figures.json"

Table = Sequence[Mapping[str, Any]]


class Drawing(NamedTuple):
    """A figure of the paper.

    Attributes:
      name: of its files.
      title: one line.
      caption: what is drawn, from how much, and by which rules.
      figure: the picture.
      tables: ending of a file's name -> rows, the numbers of the picture.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    tables: Mapping[str, Table]


class Contents(NamedTuple):
    """What a directory of figures holds.

    Attributes:
      figures: name, title, caption of each figure, and the names of its tables.
      notes: sentences on what was left out.
    """

    figures: list[dict[str, Any]]
    notes: list[str]


def write(drawing: Drawing, directory: Path) -> None:
    """Writes NAME.png, NAME.pdf and a CSV a table; the directory exists."""
    with matplotlib.rc_context(PRINT_STYLE):
        for ending in PICTURE_FORMATS:
            save(drawing.figure, directory / f"{drawing.name}{ending}")
    for ending, rows in drawing.tables.items():
        _write_text(directory / table_name(drawing, ending), comma_separated(rows))


def table_name(drawing: Drawing, ending: str) -> str:
    """Returns NAME.csv, or NAME-ENDING.csv."""
    return f"{drawing.name}-{ending}.csv" if ending else f"{drawing.name}.csv"


def write_contents(
    drawings: Sequence[Drawing], notes: Sequence[str], directory: Path
) -> None:
    """Writes what a page about the figures needs besides their files."""
    figures = [
        {
            "name": drawing.name,
            "title": drawing.title,
            "caption": drawing.caption,
            "tables": [table_name(drawing, ending) for ending in drawing.tables],
        }
        for drawing in drawings
    ]
    text = json.dumps({"figures": figures, "notes": list(notes)}, indent=2)
    _write_text(directory / CONTENTS_NAME, text + "\n")


def read_contents(directory: Path) -> Contents:
    """Returns what `write_contents` wrote.

    Raises:
      ValueError: if it is not there, or is not such.
    """
    path = directory / CONTENTS_NAME
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        contents = Contents(list(fields["figures"]), list(fields["notes"]))
        for one in contents.figures:
            text = (one["name"], one["title"], one["caption"], *one["tables"])
            # A name with a path in it would reach files outside the directory.
            names = (one["name"], *one["tables"])
            if not all(isinstance(word, str) for word in text) or any(
                Path(name).name != name for name in names
            ):
                raise ValueError("a name is none")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} does not list figures ({error}): make them with "
            "experiments.figures"
        ) from None
    return contents


def comma_separated(rows: Table) -> str:
    """Returns rows as CSV under the first one's keys; empty where a number is NaN."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = list(rows[0]) if rows else []
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(row[name]) for name in names])
    return file.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, bool | int | str):
        return str(value)
    return "" if value != value else f"{value:.6g}"


def _write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
