"""What the site has beside the pages of this folder: the README, its like, the results.

Pages link to `../results/...` as they do where the repository is browsed; here those
files become part of the site under the names that such links have. The notebook becomes
a page too.
"""

import json
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).resolve().parents[1]
_SHOWN = {".md", ".csv", ".png", ".gif", ".pdf", ".html"}
# They lie beside this folder, and in the site beside its pages.
_TEXTS = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md")
_BESIDE = (*_TEXTS, "CITATION.cff", "LICENSE")
_NOTEBOOK = "tour.ipynb"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds them."""
    notebook = (_ROOT / "docs" / _NOTEBOOK).read_text(encoding="utf-8")
    files.append(File.generated(config, "tour.md", content=notebook_page(notebook)))
    for name in _BESIDE:
        files.append(_file(config, _ROOT / name, name))
    for path in sorted((_ROOT / "results").rglob("*")):
        if path.suffix in _SHOWN:
            name = path.relative_to(_ROOT).as_posix()
            file = _file(config, path, f"../{name}")
            page = path.suffix == ".md"
            file.dest_uri = name.removesuffix(".md") + ".html" if page else name
            files.append(file)
    return files


def _file(config: MkDocsConfig, path: Path, uri: str) -> File:
    # A name that begins with a dot would be left out.
    return File.generated(
        config, uri, abs_src_path=str(path), inclusion=InclusionLevel.NOT_IN_NAV
    )


def notebook_page(notebook: str) -> str:
    """Returns a notebook's cells, JSON, as a page: text, and code in blocks."""
    parts = []
    for cell in json.loads(notebook)["cells"]:
        source = "".join(cell["source"])
        parts.append(
            source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
        )
    # Behind the title, which comes first.
    title, _, rest = "\n\n".join(parts).partition("\n")
    return f"{title}\n\n[The notebook]({_NOTEBOOK}), cell by cell.\n{rest}\n"


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Makes links from the root such from this folder; the first page is README."""
    name = page.file.src_uri
    if name == "index.md":
        markdown = (_ROOT / "README.md").read_text(encoding="utf-8")
    if name in ("index.md", *_TEXTS):
        markdown = markdown.replace(f"](docs/{_NOTEBOOK})", "](tour.md)")
        markdown = markdown.replace("](docs/", "](")
        return markdown.replace("](results/", "](../results/")
    # What lies beside the folder is here in it: one step less.
    beside = "|".join(map(re.escape, _BESIDE))
    return re.sub(rf"\]\(\.\./((?:\.\./)*(?:{beside}))", r"](\1", markdown)
