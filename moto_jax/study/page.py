"""One HTML page of tables and pictures: text in, text out, everything inside it."""

import base64
import html
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_STYLE = """
body { max-width: 56rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a;
  background: #fff; font: 1rem/1.5 Georgia, 'Times New Roman', serif; }
h1, h2, table, figcaption, .note { font-family: system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 0.6rem; }
figure { margin: 0; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption { font-size: 0.85rem; color: #444; margin-top: 0.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; }
th, td { padding: 0.25rem 0.9rem 0.25rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #e2e2e2; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
th { border-bottom: 1px solid #888; font-weight: 600; }
pre { font-size: 0.75rem; line-height: 1.5; background: #f6f6f6; padding: 0.6rem;
  overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
.note { font-size: 0.85rem; color: #444; }
"""


class Picture(NamedTuple):
    """A figure on the page.

    Attributes:
      title: its heading.
      caption: below it.
      png: the file's bytes.
    """

    title: str
    caption: str
    png: bytes


class Grid(NamedTuple):
    """A table on the page.

    Attributes:
      title: its heading.
      note: below it.
      columns: headings; the first column holds names.
      rows: cells.
    """

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class Listing(NamedTuple):
    """Lines of a terminal on the page.

    Attributes:
      title: its heading.
      note: above it.
      lines: as they are.
    """

    title: str
    note: str
    lines: Sequence[str]


def page(
    title: str, intro: Iterable[str], parts: Iterable[Picture | Grid | Listing]
) -> str:
    """Returns a page that needs no other file and runs nothing; all text is escaped.

    Args:
      title: heading.
      intro: paragraphs below it.
      parts: in order.
    """
    body = [f"<h1>{_text(title)}</h1>"]
    body += [f"<p>{_text(paragraph)}</p>" for paragraph in intro]
    for part in parts:
        if isinstance(part, Picture):
            body += _picture(part)
        elif isinstance(part, Grid):
            body += _grid(part)
        else:
            body += _listing(part)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_text(title)}</title>",
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            *body,
            "</body>",
            "</html>",
            "",
        ]
    )


def _text(text: str) -> str:
    return html.escape(text, quote=True)


def _picture(picture: Picture) -> list[str]:
    data = base64.b64encode(picture.png).decode("ascii")
    return [
        f"<h2>{_text(picture.title)}</h2>",
        "<figure>",
        f'<img src="data:image/png;base64,{data}" alt="{_text(picture.title)}">',
        f"<figcaption>{_text(picture.caption)}</figcaption>",
        "</figure>",
    ]


def _grid(grid: Grid) -> list[str]:
    lines = [f"<h2>{_text(grid.title)}</h2>", '<div class="wide"><table>']
    heads = "".join(f"<th>{_text(column)}</th>" for column in grid.columns)
    lines.append(f"<thead><tr>{heads}</tr></thead><tbody>")
    for row in grid.rows:
        cells = "".join(f"<td>{_text(cell)}</td>" for cell in row)
        lines.append(f"<tr>{cells}</tr>")
    lines.append("</tbody></table></div>")
    return [*lines, f'<p class="note">{_text(grid.note)}</p>'] if grid.note else lines


def _listing(listing: Listing) -> list[str]:
    lines = [f"<h2>{_text(listing.title)}</h2>"]
    if listing.note:
        lines.append(f'<p class="note">{_text(listing.note)}</p>')
    text = "\n".join(listing.lines)
    return [*lines, f"<pre>{_text(text)}</pre>"] if text else lines
