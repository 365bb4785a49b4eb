"""Tables as text: Markdown for people, CSV for programs."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

Table = Sequence[Mapping[str, Any]]


def markdown_lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a Markdown table."""
    return [
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def comma_separated(rows: Table) -> str:
    """Returns rows as CSV, one value a cell; empty where there is none, or it is NaN.

    Columns are the rows' keys, in the order in which they first appear.
    """
    file = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(row.get(name)) for name in names] for row in rows)
    return file.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, bool | int | str):
        return str(value)
    # NaN alone differs from itself.
    return "" if value is None or value != value else f"{value:.6g}"
