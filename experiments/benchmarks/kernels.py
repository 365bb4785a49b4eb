"""How many kernels a program compiled for a GPU launches, read from its text.

At small sizes this count, which needs no GPU, predicts the time of an update: each
kernel costs microseconds, however little it does.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

# Instructions that launch nothing.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast"),
    *("after-all", "partition-id", "replica-id", "opt-barrier", "add-dependency"),
}

# "/*index=5*/", which stands between the members of long tuples.
_COMMENT = re.compile(r"/\*.*?\*/")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{")
# "%name = SHAPE opcode(": a shape is one word, or a tuple of them.
_OPCODE = re.compile(r" = (?:\(.*?\)|\S+) ([\w\-]+)\(")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_BRANCHES = re.compile(
    r"branch_computations=\{([^}]*)\}|"
    r"true_computation=(\S+), false_computation=([^\s,]+)"
)


class Loop(NamedTuple):
    """A while loop.

    Attributes:
      trips: how often its body runs.
      kernels: of one trip.
    """

    trips: int
    kernels: int


class Kernels(NamedTuple):
    """What one run of a program launches.

    Attributes:
      outside: kernels outside of every loop.
      loops: the outermost loops, by what they launch, most first.
    """

    outside: int
    loops: tuple[Loop, ...]

    @property
    def total(self) -> int:
        """Kernels of a run; of a conditional those of its larger branch."""
        return self.outside + sum(loop.trips * loop.kernels for loop in self.loops)


def count_kernels(text: str) -> Kernels:
    """Counts the kernels of a compiled program.

    What runs as a captured CUDA graph counts as what it holds.

    Args:
      text: of the program, as `compiled.as_text()` gives it.

    Raises:
      ValueError: if the text is none of a program, or a loop's length is not known.
    """
    entry, computations = _read(text)
    found = _inside(entry, computations)
    loops = sorted(found.loops, key=lambda loop: -loop.trips * loop.kernels)
    return Kernels(found.outside, tuple(loops))


def _read(text: str) -> tuple[str, dict[str, list[str]]]:
    """Returns the entry's name, and the instructions of every computation."""
    entry, computations, lines = "", {}, None
    for line in _COMMENT.sub("", text).splitlines():
        if head := _HEAD.match(line):
            lines = computations[head[2]] = []
            entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            lines = None
        elif lines is not None and " = " in line:
            lines.append(line)
    if not entry:
        raise ValueError("this is not the text of a compiled program")
    return entry, computations


def _opcode(line: str) -> str:
    found = _OPCODE.search(line)
    return found[1] if found else ""


def _inside(name: str, computations: dict[str, list[str]]) -> Kernels:
    """Returns what a computation launches, and what it calls in turn."""
    parts = [_launched(line, computations) for line in computations[name]]
    return Kernels(
        sum(part.outside for part in parts),
        tuple(loop for part in parts for loop in part.loops),
    )


def _launched(line: str, computations: dict[str, list[str]]) -> Kernels:
    """Returns what one instruction launches."""
    opcode = _opcode(line)
    # Of an asynchronous pair the start is what runs.
    if not opcode or opcode in _FREE or opcode.endswith("-done"):
        return Kernels(0, ())
    if opcode == "while":
        trips = _TRIPS.search(line)
        if not trips:
            raise ValueError(f"a loop's length is not known: {line.strip()[:80]}")
        body = _inside(_attribute(line, "body"), computations)
        return Kernels(0, (Loop(int(trips[1]), body.total),))
    if opcode == "conditional":
        branches = [_inside(name, computations) for name in _branches(line)]
        return max(branches, key=lambda branch: branch.total)
    if opcode == "call":
        return _inside(_attribute(line, "to_apply"), computations)
    return Kernels(1, ())


def _attribute(line: str, name: str) -> str:
    found = re.search(rf"{name}=%?([\w.\-]+)", line)
    if not found:
        raise ValueError(f"no {name} in {line.strip()[:80]}")
    return found[1]


def _branches(line: str) -> Iterator[str]:
    found = _BRANCHES.search(line)
    if not found:
        raise ValueError(f"no branches in {line.strip()[:80]}")
    names = found[1].split(",") if found[1] else [found[2], found[3]]
    return (name.strip().lstrip("%") for name in names)
