"""One HTML page of tables, pictures and videos: text in, text out, all inside it."""

import base64
import re
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
figure img, figure video { display: block; max-width: 100%; height: auto;
  margin: 0 auto; }
.gallery { display: grid; gap: 1.2rem 1rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(var(--least), 1fr)); }
.gallery img, .gallery video { width: 100%; }
.plates { --least: min(100%, 20rem); }
.clips { --least: min(12.5rem, 50% - 0.5rem); }
.narrow img { margin: 0; max-width: min(100%, 30rem); }
figcaption { font-size: 0.85rem; color: #444; margin-top: 0.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; }
th, td { padding: 0.25rem 0.9rem 0.25rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #e2e2e2; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0;
  background: #fff; }
wbr { display: none; }
th { border-bottom: 1px solid #888; font-weight: 600; }
pre span { display: inline-block; max-width: 100%; }
pre .line { display: block; padding-left: 2ch; text-indent: -2ch; }
pre .line span { text-indent: 0; word-break: break-all; }
pre { font-size: 0.75rem; line-height: 1.5; background: #f6f6f6; padding: 0.6rem;
  overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
.note { font-size: 0.85rem; color: #444; }
/* On a phone a wide picture scrolls, where its letters would be specks, and so does a
   table, whose names stay in sight and take several lines. */
@media (max-width: 40rem) {
  .wide img { max-width: none; width: 40rem; }
  wbr { display: inline; }
  th, td { padding-right: 0.6rem; }
  th, td:first-child { white-space: normal; }
  td:first-child { overflow-wrap: break-word; min-width: 6rem; max-width: 10rem; }
}
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
<div class="{{ 'wide' if part.is_wide else 'narrow' }}">
<img src="{{ part.png | inside('image/png') }}" alt="{{ part.title }}">
</div>
<figcaption>{{ part.caption }}</figcaption>
</figure>
{% elif part.kind == "grid" %}
<div class="wide"><table>
<thead><tr>
{%- for column in part.columns %}<th>{{ column }}</th>{% endfor -%}
</tr></thead><tbody>
{% for row in part.rows %}
<tr>
{%- for cell in row %}<td>{{ cell | pieces | join("<wbr>" | safe) }}</td>
{%- endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% if part.note %}
<p class="note">{{ part.note }}</p>
{% endif %}
{% elif part.kind == "gallery" %}
{% if part.note %}
<p class="note">{{ part.note }}</p>
{% endif %}
<div class="gallery {{ part.look }}">
{% for one in part.shown %}
<figure>
{% if one.kind == "clip" %}
<video controls muted loop playsinline src="{{ one.mp4 | inside('video/mp4') }}">
</video>
{% else %}
<img src="{{ one.png | inside('image/png') }}" alt="{{ one.title }}">
{% endif %}
{% if one.caption %}
<figcaption>{{ one.caption }}</figcaption>
{% endif %}
</figure>
{% endfor %}
</div>
{% else %}
{% if part.note %}
<p class="note">{{ part.note }}</p>
{% endif %}
{% if part.lines %}
<pre>
{%- for line in part.lines %}<span class="line">
{%- for word in line.split(" ") %}<span>{{ word }}</span>{{ " " if not loop.last }}
{%- endfor %}</span>{% endfor -%}
</pre>
{% endif %}
{% endif %}
{% endfor %}
</body>
</html>
"""

# A picture of one column of a page has less, one of two columns more.
_WIDE_DOTS = 900


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
    def is_wide(self) -> bool:
        """Whether its letters are specks on a phone: by a PNG's width, in dots."""
        return int.from_bytes(self.png[16:20], "big") > _WIDE_DOTS


class Clip(NamedTuple):
    """A video in a gallery.

    Attributes:
      caption: below it.
      mp4: the file's bytes.
    """

    caption: str
    mp4: bytes

    kind = "clip"


class Gallery(NamedTuple):
    """Small pictures or videos side by side, as many as the screen has room for.

    Attributes:
      title: its heading.
      note: above them.
      shown: in order; all pictures, or all videos.
    """

    title: str
    note: str
    shown: Sequence[Picture] | Sequence[Clip]

    kind = "gallery"

    @property
    def look(self) -> str:
        """How wide they are."""
        return "clips" if self.shown[0].kind == "clip" else "plates"


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
    """Lines of a terminal on the page, or a sentence alone.

    Attributes:
      title: its heading.
      note: above it.
      lines: as they are; may be none.
    """

    title: str
    note: str
    lines: Sequence[str]

    kind = "listing"


Part = Picture | Gallery | Grid | Listing


def page(title: str, intro: Iterable[str], parts: Iterable[Part]) -> str:
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
    environment.filters |= {"inside": _inside, "pieces": _pieces}
    return environment.from_string(_TEMPLATE).render(
        title=title, intro=intro, parts=parts
    )


def _pieces(text: str) -> list[str]:
    """Returns keys and paths in parts that fit a phone; numbers stay whole."""
    return re.split(r"(?<=[/_])|(?<=[a-z]\.)(?=[a-z])", text)


def _inside(data: bytes, kind: str) -> str:
    """Returns a file as a link that holds it."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
