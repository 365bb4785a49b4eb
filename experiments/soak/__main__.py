r"""Tries what moto_jax promises with faults from outside, and writes what came of it.

    python -m experiments.soak                       # every row, in full: hours
    python -m experiments.soak --rows=R3 --rows=R8
    python -m experiments.soak --rows=R1 --count=2
    python -m experiments.soak --rows=R14 --minutes=120
    python -m experiments.soak --list

What has been tried is kept in --out and not tried again: the same command goes on where
it was interrupted. Writes reliability.md and reliability.csv to --results.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging

from experiments.command_line import fail, prepare_jax, run_program
from experiments.soak import table
from experiments.soak.trials import Row, forget, read_records, run

_ROWS = flags.DEFINE_multi_string("rows", [], "Rows to try, by name; all by default.")
_COUNT = flags.DEFINE_integer(
    "count", None, "Trials of each row; its own number where not given.", lower_bound=0
)
_WORLD = flags.DEFINE_enum(
    "world", "kitchen", ["kitchen", "mini"], "Where the trials' runs learn."
)
_MINUTES = flags.DEFINE_float(
    "minutes", 120.0, "Minutes that R14 watches a run.", lower_bound=0.1
)
_OUT = flags.DEFINE_string("out", "runs/soak", "Directory of the record.")
_RESULTS = flags.DEFINE_string("results", "results", "Directory of the table.")
_AGAIN = flags.DEFINE_bool("again", False, "Forget what was tried of these rows first.")
_LIST = flags.DEFINE_bool("list", False, "Show the rows and end.")


def main(argv: Sequence[str]) -> None:
    """Tries rows; the status is 1 where a promise was broken."""
    del argv
    logging.set_verbosity(logging.WARNING)
    prepare_jax()
    from experiments.soak.rows import make_rows
    from experiments.soak.runs import WORLDS

    rows = make_rows(WORLDS[_WORLD.value], _MINUTES.value, Path(_RESULTS.value))
    if _LIST.value:
        for row in rows:
            print(f"{row.name:<12} {row.count * row.each:>6}  {row.what}")
        return
    out, cannot = Path(_OUT.value), {}
    chosen = _chosen(rows)
    if _AGAIN.value:
        forget(out, [row.name for row in chosen])
    lost = 0
    for row, number, record in run(chosen, out, _WORLD.value, _COUNT.value):
        if "cannot" in record:
            cannot[row.name] = record["cannot"]
            print(f"{row.name}: not tried: {record['cannot']}", flush=True)
            continue
        lost += record["lost"]
        word = "LOST" if record["lost"] else "ok"
        print(
            f"{row.name} {number + 1}/{row.count} {word} {record['seconds']:.1f} s: "
            f"{record['said'][:200]}",
            flush=True,
        )
        _write(rows, out, cannot)
    _write(rows, out, cannot)
    if lost:
        sys.exit(f"error: {lost} broke a promise; see {_RESULTS.value}/reliability.md")


def _chosen(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows that --rows names, by their whole name or its first word."""
    wanted = _ROWS.value
    names = {name for row in rows for name in (row.name, row.name.split()[0])}
    for name in wanted:
        if name not in names:
            fail(f"--rows={name} is no row: --list shows them")
    return [
        row
        for row in rows
        if not wanted or row.name in wanted or row.name.split()[0] in wanted
    ]


def _write(rows: Sequence[Row], out: Path, cannot: dict[str, str]) -> None:
    from moto_jax.running.provenance import describe, hardware

    lines = table.summarise(rows, read_records(out), cannot)
    table.write(lines, Path(_RESULTS.value), describe(hardware()))


if __name__ == "__main__":
    run_program(main)
