r"""What trained policies do in the kitchen, over many evaluation episodes, run by run.

    python -m experiments.success_table results/kitchen/* \
        --out=results/kitchen_solved --title="The real kitchen"

Writes `results/kitchen_solved.md` and `.csv`. A result is the mean over a phase's last
evaluations: as few as have so many episodes together, or all where the phase has not so
many, and the table says how many they were. None is picked: an evaluation counts
because of when it was, not of how it went.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments.command_line import fail, run_program
from experiments.success_rows import PHASES, Row, table_row
from moto_jax.data.files import write_atomically
from moto_jax.run_layout import POLICIES
from moto_jax.study.runs import read_each_once
from moto_jax.tables import comma_separated, markdown_lines
from moto_jax.worlds.kitchen import tasks

_OUT = flags.DEFINE_string(
    "out", None, "Where to write, without .md and .csv.", required=True
)
_OFFLINE_EPISODES = flags.DEFINE_integer(
    "offline_episodes", 50, "Evaluation episodes, the offline phase's last.", 1
)
_ONLINE_EPISODES = flags.DEFINE_integer(
    "online_episodes", 200, "Evaluation episodes, the online phase's last.", 1
)
_TITLE = flags.DEFINE_string("title", "Runs", "First line of the table.")
_NOTE = flags.DEFINE_string("note", "", "A paragraph below the title.")


def main(argv: Sequence[str]) -> None:
    """Writes the table and prints it; what is wrong is said in one sentence."""
    try:
        if len(argv) < 2:
            raise ValueError("no run to tabulate: give the directories of runs")
        runs, notes = read_each_once(argv[1:])
        episodes = {
            "offline": _OFFLINE_EPISODES.value,
            "online": _ONLINE_EPISODES.value,
        }
        rows = [table_row(run, episodes) for run in runs]
        command = ["python", "-m", "experiments.success_table", *sys.argv[1:]]
        text = markdown(rows, _TITLE.value, shlex.join(command), _NOTE.value)
        out = Path(_OUT.value)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out.with_name(f"{out.name}.md"), text.encode())
        write_atomically(
            out.with_name(f"{out.name}.csv"), comma_separated(rows).encode()
        )
    except (ValueError, OSError) as error:
        fail(error)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(text)


def markdown(rows: Sequence[Row], title: str, command: str, note: str = "") -> str:
    """Returns the table, each run's command below it."""
    objects = tuple(
        dict.fromkeys(name for row in rows for name in tasks.resolve_task(row["task"]))
    )
    head = ["run", "task", "seed", "phase", "policy", "episodes", "success"]
    head += ["at the end", "objects", *objects, "minutes"]
    lines = [
        title,
        "",
        *([note, ""] if note else []),
        f"    {command}",
        "",
    ]
    shown = []
    for row in rows:
        for phase in PHASES:
            for policy in POLICIES:
                cells = _cells(row, f"{phase}_{policy}_", objects)
                if cells:
                    named = [row["run"], row["task"], str(row["seed"]), phase, policy]
                    minutes = _number(row["minutes"], 0)
                    shown.append([*named, *cells, minutes])
    lines += [
        *markdown_lines(head, shown),
        "",
        "The same again with the presets of today, and the commit that each was of:",
        "",
    ]
    for row in rows:
        lines += [f"    {row['command']}  # {row['commit'] or 'commit unknown'}"]
    return "\n".join(lines) + "\n"


def _cells(row: Row, prefix: str, objects: Sequence[str]) -> list[str]:
    """Returns episodes, success in all and at the end, objects, each object's rate."""
    if f"{prefix}episodes" not in row:
        return []
    low, high = row[f"{prefix}success_low"], row[f"{prefix}success_high"]
    return [
        f"{row[f'{prefix}episodes']:.0f}",
        f"{row[f'{prefix}success']:.0%} ({100 * low:.0f} to {100 * high:.0f})",
        f"{row[f'{prefix}success_at_end']:.0%}",
        f"{row[f'{prefix}objects']:.2f}",
        *(_percent(row.get(f"{prefix}reached/{name}")) for name in objects),
    ]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    run_program(main, positional=True)
