"""A figure with its caption and its numbers, and the files that these become."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from moto_jax.data.files import write_atomically
from moto_jax.study.style import PRINT_STYLE, save
from moto_jax.tables import Table, comma_separated

# Of every figure: one to look at, one to print.
PICTURE_FORMATS = (".png", ".pdf")

# Captions of the figures in a directory, and what was left out of them.
CONTENTS_NAME = "figures.json"


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
        path = directory / table_name(drawing, ending)
        write_atomically(path, comma_separated(rows).encode())


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
    write_atomically(directory / CONTENTS_NAME, f"{text}\n".encode())


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
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} does not list figures ({error}): make them with "
            "experiments.figures"
        ) from None
    return contents
