r"""Finished runs as one table: Markdown for people, CSV for programs.

    python -m experiments.tabulate runs/mixed-cpu-moto-seed0 \
        runs/mixed-cpu-moto-seed1 --out=results/demo --title="The demo, two seeds"

Writes `results/demo.md` and `results/demo.csv`: a row a run and seed with the
configuration values in which they differ, and a row with the mean of those that differ
in nothing but the seed.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from experiments.command_line import fail, run_program
from experiments.run_commands import as_flag, run_command
from moto_jax import tables
from moto_jax.data.files import write_atomically
from moto_jax.run_layout import PHASES, POLICY_SUFFIXES
from moto_jax.study.runs import (
    RunFiles,
    differing_keys,
    mean_results,
    read_each_once,
    results,
    seed_groups,
    up_to,
)
from moto_jax.study.systems import episodes_played

_OUT = flags.DEFINE_string(
    "out", None, "Where to write, without .md and .csv.", required=True
)
_AT = flags.DEFINE_integer(
    "at", None, "Compare the runs after so many updates instead of at their ends."
)
_TITLE = flags.DEFINE_string("title", "Runs", "First line of the table.")
_NOTE = flags.DEFINE_string("note", "", "A paragraph below the title.")

_PHASES_IN_WORDS = "before training / after offline / after online training"

Figures = Mapping[str, float | None]


def main(argv: Sequence[str]) -> None:
    """Writes the table and prints it; what is wrong is said in one sentence."""
    try:
        if len(argv) < 2:
            raise ValueError("no run to tabulate: give the directories of runs")
        runs, notes = read_each_once(argv[1:])
        if _AT.value is not None:
            runs = [up_to(run, _AT.value) for run in runs]
        command = ["python", "-m", "experiments.tabulate", *sys.argv[1:]]
        out = Path(_OUT.value)
        text = markdown(runs, _TITLE.value, shlex.join(command), _NOTE.value)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out.with_name(f"{out.name}.md"), text.encode())
        write_atomically(
            out.with_name(f"{out.name}.csv"), comma_separated(runs).encode()
        )
    except (ValueError, OSError) as error:
        fail(error)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(text)


def table_rows(runs: Sequence[RunFiles]) -> list[tuple[str, list[str], Figures]]:
    """Returns (name, differing values, figures) a run, and a mean a group of seeds.

    A mean's seed is empty; its other values are the group's.
    """
    keys = differing_keys(runs)
    rows = []
    for group in seed_groups(runs):
        figures = [results(run) for run in group]
        for run, own in zip(group, figures, strict=True):
            rows.append((run.name, [as_flag(run.config.get(key)) for key in keys], own))
        if len(group) > 1:
            values = [
                "" if key == "seeds" else as_flag(group[0].config.get(key))
                for key in keys
            ]
            rows.append((f"mean of {len(group)}", values, mean_results(figures)))
    return rows


def markdown(runs: Sequence[RunFiles], title: str, command: str, note: str = "") -> str:
    """Returns the table with the commands that made it above.

    Args:
      runs: in order.
      title: first line.
      command: that made the table.
      note: paragraph below the title.
    """
    columns = [
        "run",
        *differing_keys(runs),
        *(
            f"{figure}, {policy} policy"
            for figure in ("objects", "success")
            for policy in POLICY_SUFFIXES.values()
        ),
        "updates",
        "minutes",
    ]
    lines = [
        title,
        "",
        *([note, ""] if note else []),
        *dict.fromkeys(f"    {run_command(run)}" for run in runs),
        f"    {command}",
        "",
        f"Objects completed and success {_PHASES_IN_WORDS}; means over "
        f"{_episodes(runs)} evaluation episodes with each policy.",
        *_hardware_lines(runs),
        "",
    ]
    rows = []
    for name, values, figures in table_rows(runs):
        cells = [name, *values]
        for figure in ("objects", "success"):
            for suffix in POLICY_SUFFIXES:
                triple = (figures[f"{figure}_{phase}{suffix}"] for phase in PHASES)
                cells.append(" / ".join(_number(value, 2) for value in triple))
        cells += [_number(figures["updates"], 0), _number(figures["minutes"], 1)]
        rows.append(cells)
    return "\n".join([*lines, *tables.markdown_lines(columns, rows)]) + "\n"


def comma_separated(runs: Sequence[RunFiles]) -> str:
    """Returns the table as CSV, one number a cell; empty where a run has none."""
    keys = differing_keys(runs)
    return tables.comma_separated(
        [
            {"run": name, **dict(zip(keys, values, strict=True)), **figures}
            for name, values, figures in table_rows(runs)
        ]
    )


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _episodes(runs: Sequence[RunFiles]) -> str:
    """Returns the evaluations' episodes, "10", or "5 or 10" where runs differ."""
    counts = sorted({played for run in runs for played in episodes_played(run)})
    return " or ".join(str(count) for count in counts)


def _hardware_lines(runs: Sequence[RunFiles]) -> list[str]:
    """Returns a sentence a machine that runs were made on."""
    # With jax, which nothing else here needs.
    from moto_jax.running.provenance import describe

    lines = []
    for run in runs:
        facts = run.summary.get("hardware")
        if facts:
            line = f"Made on {describe(facts)}."
            if line not in lines:
                lines.append(line)
    return ["", *lines] if lines else []


if __name__ == "__main__":
    run_program(main, positional=True)
