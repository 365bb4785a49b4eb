r"""Tells in nine minutes what a GPU at hand does with all this.

    python -m experiments.gpu_report
    python -m experiments.gpu_report --rehearse --out=/tmp/gpu

Versions and card; time of an update at each preset and for several seeds, seconds to
compile it, its arithmetic as a share of a matrix product's; frames a second; a run of
preset `gpu` with what it learns; the largest kernels and the share of time in which the
card idles. Each part is a process with a time limit of its own, those of most worth
first, and what is known is written at once: PATH.csv and PATH.md. --rehearse does the
same with the smallest networks, on a CPU too, in some four minutes on two cores.
"""

import itertools
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags, logging

from experiments.benchmarks.timed_parts import Row, run_part
from experiments.command_line import fail, prepare_jax, run_program
from moto_jax.data.files import write_atomically
from moto_jax.tables import comma_separated, markdown_lines

_OUT = flags.DEFINE_string("out", "results/gpu", "Path of the table, without ending.")
_REHEARSE = flags.DEFINE_bool("rehearse", False, "The same in small, anywhere.")
_MINUTES = flags.DEFINE_float("minutes", 9.0, "All that it may take.", lower_bound=0.5)
_PART = flags.DEFINE_string(
    "part", None, "Do this part here, with a line of JSON a finding."
)
_LIMIT = flags.DEFINE_float("limit", 0.0, "Seconds that --part may take.")

# Before its limit a part should have ended by itself.
_SECONDS_TO_END = 15


def main(argv: Sequence[str]) -> None:
    """Does every part in a process of its own, or one part in this one."""
    del argv
    logging.set_verbosity(logging.ERROR)
    try:
        if _PART.value:
            _do_part(_PART.value, _LIMIT.value)
        else:
            _report(Path(_OUT.value), time.monotonic() + 60 * _MINUTES.value)
    except (ValueError, RuntimeError, OSError) as error:
        fail(error)


def _parts() -> dict:
    from experiments.benchmarks.report_parts import parts

    return parts(_REHEARSE.value, max(1, (os.cpu_count() or 2) - 1))


def _do_part(name: str, limit: float) -> None:
    prepare_jax()
    from moto_jax.worlds.graphics import choose_backend

    choose_backend()
    parts = _parts()
    if name not in parts:
        raise ValueError(f"unknown part {name!r}: use one of {', '.join(parts)}")
    _, do = parts[name]
    for finding in do(limit - _SECONDS_TO_END):
        print(json.dumps(finding._asdict()), flush=True)


def _report(out: Path, until: float) -> None:
    rows: list[Row] = []
    for name, (seconds, _) in _parts().items():
        limit = min(seconds, until - time.monotonic())
        if limit < _SECONDS_TO_END:
            found: Iterator[Row] = iter([Row(name, "not begun", "no time left", "")])
        else:
            found = run_part(name, _command(name, limit), limit)
        for row in found:
            print(f"{row.part:30}  {row.name:45}  {row.value} {row.unit}", flush=True)
            rows.append(row)
            _write(out, rows)


def _command(name: str, limit: float) -> list[str]:
    return [
        *(sys.executable, "-m", "experiments.gpu_report"),
        *(f"--part={name}", f"--limit={limit:.0f}"),
        *(["--rehearse"] if _REHEARSE.value else []),
    ]


def _write(out: Path, rows: Sequence[Row]) -> None:
    """Writes the table, and the same for a reader, a section a part."""
    text = comma_separated([row._asdict() for row in rows])
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out.with_suffix(".csv"), text.encode())
    words = shlex.join(["python", "-m", "experiments.gpu_report", *sys.argv[1:]])
    lines = ["# What a GPU did", "", f"    {words}", ""]
    for part, found in itertools.groupby(rows, key=lambda row: row.part):
        cells = [(row.name, row.value, row.unit) for row in found]
        lines += [f"## {part}", "", *markdown_lines(("what", "value", "unit"), cells)]
        lines += [""]
    write_atomically(out.with_suffix(".md"), "\n".join(lines).encode())


if __name__ == "__main__":
    run_program(main)
