r"""Measures speed and memory, each as a ratio of interleaved runs with its spread.

    python -m experiments.benchmark
    python -m experiments.benchmark --part=update --part=replay --json=figures.jsonl
    python -m experiments.benchmark --out=results/benchmarks.md

A ratio is above 1 where the number is better than its reference; low and high are the
least and the largest of the rounds. --json adds a line a figure to a file, --out adds a
table of what was measured and on which machine. Three parts are left out unless asked
for: `scale` is of many seeds, of several devices and of larger sizes;
`plan` compiles updates of the paper's sizes to tell their memory; `train` projects the
time of the paper's whole budget, and is meant for a GPU.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags, logging
from rich.table import Table

from experiments.command_line import fail, output_console, prepare_jax, run_program
from moto_jax.data.files import write_atomically
from moto_jax.tables import markdown_lines

if TYPE_CHECKING:
    from experiments.benchmarks.measure import Figure, Part

_PARTS = (
    *("update", "memory", "compile", "frames", "collect", "mini", "replay"),
    *("overlap", "scale", "plan", "train"),
)
_ON_REQUEST = ("scale", "plan", "train")

_PART = flags.DEFINE_multi_enum(
    "part",
    [part for part in _PARTS if part not in _ON_REQUEST],
    _PARTS,
    "What to measure; may be given several times.",
)
_SIZE = flags.DEFINE_enum(
    "size",
    None,
    ["full", "cpu"],
    "Preset of parts update, memory, scale, plan and train; where not given, update "
    "takes cpu and full, memory and plan full, scale cpu, and train full on an "
    "accelerator and cpu without.",
)
_JSON = flags.DEFINE_string("json", None, "File to add a JSON object a figure to.")
_OUT = flags.DEFINE_string("out", None, "Markdown file to add a section to.")

_HEADER = """# Benchmarks

A ratio is above 1 where the number is better than its reference; low and high are the
least and the largest of the interleaved rounds. A section was measured by the command
above its table.
"""


def main(argv: Sequence[str]) -> None:
    """Measures part by part; what is wrong is said in one sentence."""
    del argv
    logging.set_verbosity(logging.WARNING)
    prepare_jax()
    from moto_jax.worlds.graphics import choose_backend

    try:
        choose_backend()
        _measure(_parts(_SIZE.value))
    except (ValueError, RuntimeError, OSError) as error:
        fail(error)


def _parts(preset: str | None) -> "dict[str, Callable[[], Part]]":
    from experiments.benchmarks import (
        compilation,
        frames,
        overlap,
        plan,
        sampling,
        scale,
        train,
        update,
    )

    def collect() -> "Part":
        yield from frames.measure_steps()
        yield from frames.measure_policy()
        yield from frames.measure_rounds()

    def measure_scale() -> "Part":
        yield from scale.measure_scale(preset or "cpu")
        yield from plan.measure_sizes(preset or "cpu")

    sizes = [size for size in update.SIZES if preset in (None, size.preset)]
    return {
        "update": lambda: update.measure_updates(sizes),
        "memory": lambda: update.measure_memory(update.own_batch(preset or "full")),
        "compile": compilation.measure_compilation,
        "frames": frames.measure_frames,
        "collect": collect,
        "mini": frames.measure_mini,
        "replay": sampling.measure_replay,
        "overlap": overlap.measure_overlap,
        "scale": measure_scale,
        "plan": lambda: plan.measure_plan(preset or "full"),
        "train": lambda: train.measure_training(preset or ""),
    }


def _measure(parts: "dict[str, Callable[[], Part]]") -> None:
    """Measures, shows and writes down part by part: an error loses what follows."""
    from experiments.benchmarks.measure import Figure
    from moto_jax.running.provenance import describe, hardware
    from moto_jax.running.run_control import return_free_memory

    console = output_console(100)
    machine = describe(hardware())
    console.print(machine)
    for part in dict.fromkeys(_PART.value):
        start = time.perf_counter()
        figures, notes = [], []
        for item in parts[part]():
            if isinstance(item, Figure):
                figures.append(item)
                if _JSON.value:
                    _append_json(Path(_JSON.value), item, machine)
            else:
                notes.append(item)
                print(item, flush=True)
        return_free_memory()
        console.print(_table(figures))
        console.print(f"{part}: {time.perf_counter() - start:.0f} s\n")
        if _OUT.value:
            arguments = [f"--part={part}"]
            arguments += [f"--size={_SIZE.value}"] if _SIZE.value else []
            _append_section(Path(_OUT.value), markdown(arguments, figures, notes))


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
        table.add_column(
            heading,
            justify="right" if number else "left",
            no_wrap=heading == "figure",
        )
    for figure in figures:
        table.add_row(*_cells(figure))
    return table


def markdown(
    arguments: Sequence[str], figures: "Sequence[Figure]", notes: Sequence[str]
) -> str:
    """Returns a section of the report: command, machine, versions, table, notes."""
    from moto_jax.running.provenance import describe, hardware, versions

    packages = ", ".join(f"{name} {number}" for name, number in versions().items())
    kinds = dict.fromkeys(figure.name.split("/")[0] for figure in figures)
    lines = [
        f"## {', '.join(kinds)}",
        "",
        f"    python -m experiments.benchmark {' '.join(arguments)}",
        "",
        f"Made on {describe(hardware())}, with {packages}.",
        "",
        *markdown_lines(_HEADINGS, [_cells(figure) for figure in figures]),
        "",
        *(f"- {note}" for note in notes if not _is_drawing(note)),
    ]
    drawings = [note for note in notes if _is_drawing(note)]
    return "\n".join([*lines, *([""] if drawings else []), *drawings]) + "\n"


def _is_drawing(note: str) -> bool:
    return note.startswith("    ")


def _append_section(path: Path, section: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_text(encoding="utf-8") if path.exists() else _HEADER
    write_atomically(path, f"{before}\n{section}".encode())


if __name__ == "__main__":
    run_program(main)
