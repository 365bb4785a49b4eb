r"""Measures speed and memory, each as a ratio of interleaved runs with its spread.

    python -m experiments.benchmark
    python -m experiments.benchmark --part=update --part=replay --json=figures.jsonl
    python -m experiments.benchmark --out=results/benchmarks.md

A ratio is above 1 where the number is better than its reference; low and high are the
least and the largest of the rounds. --json adds a line a figure to a file, --out writes
the table. `train` is left out unless asked for: it projects the time of the paper's
whole budget, and is meant for a GPU.
"""

import dataclasses
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags, logging
from rich.console import Console
from rich.table import Table

from experiments.command_line import fail, prepare_jax, run_program

if TYPE_CHECKING:
    from experiments.benchmarks.measure import Figure, Part

_PARTS = (
    *("update", "memory", "compile", "frames", "collect", "replay", "overlap"),
    "train",
)
_ON_REQUEST = ("train",)

_PART = flags.DEFINE_multi_enum(
    "part",
    [part for part in _PARTS if part not in _ON_REQUEST],
    _PARTS,
    "What to measure; may be given several times.",
)
_SIZE = flags.DEFINE_enum(
    "size",
    None,
    ["full", "cpu", "tiny"],
    "Preset of parts update, memory and train; their own choice where not given.",
)
_JSON = flags.DEFINE_string("json", None, "File to add a JSON object a figure to.")
_OUT = flags.DEFINE_string("out", None, "Markdown file to write.")


def main(argv: Sequence[str]) -> None:
    """Measures part by part; what is wrong is said in one sentence."""
    del argv
    logging.set_verbosity(logging.WARNING)
    prepare_jax()
    from moto_jax.envs.graphics import choose_backend

    try:
        choose_backend()
        figures, notes = _measure(_parts(_SIZE.value))
        if _OUT.value:
            Path(_OUT.value).parent.mkdir(parents=True, exist_ok=True)
            Path(_OUT.value).write_text(markdown(figures, notes))
    except (ValueError, RuntimeError, OSError) as error:
        fail(error)


def _parts(preset: str | None) -> "dict[str, Callable[[], Part]]":
    from experiments.benchmarks import (
        compilation,
        frames,
        overlap,
        sampling,
        train,
        update,
    )

    def collect() -> "Part":
        yield from frames.measure_steps()
        yield from frames.measure_policy()

    sizes = [size for size in update.SIZES if preset in (None, size.preset)]
    full = update.FULL_BATCH
    return {
        "update": lambda: update.measure_updates(sizes),
        "memory": lambda: update.measure_memory(full),
        "compile": compilation.measure_compilation,
        "frames": frames.measure_frames,
        "collect": collect,
        "replay": sampling.measure_replay,
        "overlap": overlap.measure_overlap,
        "train": lambda: train.measure_training(preset or ""),
    }


def _measure(
    parts: "dict[str, Callable[[], Part]]",
) -> "tuple[list[Figure], list[str]]":
    from experiments.benchmarks.measure import Figure
    from moto_jax.provenance import describe, hardware
    from moto_jax.run_control import return_free_memory

    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    machine = describe(hardware())
    console.print(machine)
    figures, notes = [], []
    for part in dict.fromkeys(_PART.value):
        start = time.perf_counter()
        found = []
        for item in parts[part]():
            if isinstance(item, Figure):
                found.append(item)
                if _JSON.value:
                    _append_json(Path(_JSON.value), item, machine)
            else:
                notes.append(item)
                print(item, flush=True)
        figures += found
        return_free_memory()
        console.print(_table(found))
        console.print(f"{part}: {time.perf_counter() - start:.0f} s\n")
    return figures, notes


def _append_json(path: Path, figure: "Figure", machine: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        record = dataclasses.asdict(figure) | {"hardware": machine}
        file.write(json.dumps(record, allow_nan=False) + "\n")


_HEADINGS = ("figure", "value", "unit", "reference", "its value", "ratio", "low–high")


def _cells(figure: "Figure") -> tuple[str, ...]:
    return (
        figure.name,
        f"{figure.value:,.4g}",
        figure.unit,
        figure.reference,
        f"{figure.reference_value:,.4g}",
        f"{figure.ratio:.2f}",
        f"{figure.low:.2f}–{figure.high:.2f}",
    )


def _table(figures: "Sequence[Figure]") -> Table:
    table = Table()
    for heading in _HEADINGS:
        number = heading in ("value", "its value", "ratio", "low–high")
        table.add_column(heading, justify="right" if number else "left")
    for figure in figures:
        table.add_row(*_cells(figure))
    return table


def markdown(figures: "Sequence[Figure]", notes: Sequence[str]) -> str:
    """Returns the report: machine, versions, command, table, notes."""
    from moto_jax.provenance import describe, hardware, versions

    packages = ", ".join(f"{name} {number}" for name, number in versions().items())
    lines = [
        "# Benchmarks",
        "",
        "A ratio is above 1 where the number is better than its reference; low and",
        "high are the least and the largest of the interleaved rounds.",
        "",
        f"    {shlex.join(['python', '-m', 'experiments.benchmark', *sys.argv[1:]])}",
        "",
        f"Made on {describe(hardware())}, with {packages}.",
        "",
        "| " + " | ".join(_HEADINGS) + " |",
        "|" + "---|" * len(_HEADINGS),
        *("| " + " | ".join(_cells(figure)) + " |" for figure in figures),
        "",
    ]
    for note in notes:
        # Indented notes are drawings, which stay as they are.
        lines += [note] if note.startswith("    ") else ["", f"- {note}", ""]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_program(main)
