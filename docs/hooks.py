"""What the site has beside the pages of this folder: the README, its like, the results.

Pages link to `../results/...` as they do where the repository is browsed; here those
files become part of the site under the names that such links have.
"""

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


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds them."""
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


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Makes links from the root such from this folder; the first page is README."""
    name = page.file.src_uri
    if name == "index.md":
        markdown = (_ROOT / "README.md").read_text(encoding="utf-8")
    if name in ("index.md", *_TEXTS):
        markdown = markdown.replace("](docs/", "](")
        return markdown.replace("](results/", "](../results/")
    # What lies beside the folder is here in it: one step less.
    beside = "|".join(map(re.escape, _BESIDE))
    return re.sub(rf"\]\(\.\./((?:\.\./)*(?:{beside}))", r"](\1", markdown)
