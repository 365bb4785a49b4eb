"""The documentation's way from the paper's equations to the code leads somewhere."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_ROW = re.compile(r"\| ((?:Eq\.|Theorem|Alg\.|section) .+?) \| (.+) \|")
_FILE = re.compile(r"`([a-z_0-9/]+\.py)`: ((?:`\w+`(?:, )?)+)")


def entries():
    """(what the paper calls it, file, function) of each entry of the table."""
    found = []
    for what, where in _ROW.findall((ROOT / "docs" / "concepts.md").read_text()):
        for file, names in _FILE.findall(where):
            found += [(what, file, name) for name in re.findall(r"\w+", names)]
    return found


def docstring(file, name):
    tree = ast.parse((ROOT / "moto_jax" / file).read_text())
    functions = {
        node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)
    }
    return ast.get_docstring(functions[name]) or ""


@pytest.mark.parametrize(("what", "file", "name"), entries())
def test_every_entry_is_there_and_names_what_it_is_of(what, file, name):
    text = docstring(file, name)
    wanted = re.findall(r"Eq\. \d+|Theorem [\d.]+|Alg\. \d|section [\d.]+\d", what)
    assert wanted
    for one in wanted:
        assert re.search(re.escape(one) + r"(?!\d)", text), (one, text)


def test_no_equation_is_left_out():
    numbered = {
        int(n) for what, *_ in entries() for n in re.findall(r"Eq\. (\d+)", what)
    }
    assert numbered == set(range(1, 13))
    others = " ".join(what for what, *_ in entries())
    for one in ("Theorem 4.1", "Alg. 1", "section 4.3"):
        assert one in others
