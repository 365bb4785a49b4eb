"""One HTML page of tables and pictures: text in, text out, everything inside it."""

import base64
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined

_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
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
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for paragraph in intro %}
<p>{{ paragraph }}</p>
{% endfor %}
{% for part in parts %}
<h2>{{ part.title }}</h2>
{% if part.kind == "picture" %}
<figure>
<img src="data:image/png;base64,{{ part.data }}" alt="{{ part.title }}">
<figcaption>{{ part.caption }}</figcaption>
</figure>
{% elif part.kind == "grid" %}
<div class="wide"><table>
<thead><tr>
{%- for column in part.columns %}<th>{{ column }}</th>{% endfor -%}
</tr></thead><tbody>
{% for row in part.rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% if part.note %}
<p class="note">{{ part.note }}</p>
{% endif %}
{% else %}
{% if part.note %}
<p class="note">{{ part.note }}</p>
{% endif %}
{% if part.lines %}
<pre>{{ part.lines | join("\n") }}</pre>
{% endif %}
{% endif %}
{% endfor %}
</body>
</html>
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

    kind = "picture"

    @property
    def data(self) -> str:
        """The file as text."""
        return base64.b64encode(self.png).decode("ascii")


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

    kind = "grid"


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

    kind = "listing"


def page(
    title: str, intro: Iterable[str], parts: Iterable[Picture | Grid | Listing]
) -> str:
    """Returns a page that needs no other file and runs nothing; all text is escaped.

    Args:
      title: heading.
      intro: paragraphs below it.
      parts: in order.
    """
    environment = Environment(
        autoescape=True,
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    return environment.from_string(_TEMPLATE).render(
        title=title, intro=intro, parts=parts
    )
