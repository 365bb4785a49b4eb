r"""Copies what is worth keeping of runs: small run directories that figures can read.

    python -m experiments.keep_metrics runs/kitchen-seed0 --out=results/kitchen

Of each run and seed: its configuration, its summary, every evaluation and collected
episode of its metrics, and of the rest a line every so many updates. What is written is
a run's directory to `experiments.tabulate`, `success_table` and `figures`.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments.command_line import fail, run_program
from experiments.run_commands import data_place, parent_place
from moto_jax.data.files import write_atomically
from moto_jax.run_layout import (
    CONFIG_NAME,
    METRICS_NAME,
    SUMMARY_NAME,
    program_directory,
)
from moto_jax.study.runs import read_run, seed_directories

_OUT = flags.DEFINE_string(
    "out", None, "Directory of the copies, one folder a run.", required=True
)
_EVERY = flags.DEFINE_integer(
    "every", 250, "Updates between the lines of losses that are kept.", lower_bound=1
)


def main(argv: Sequence[str]) -> None:
    """Copies; what is wrong is said in one sentence."""
    try:
        if len(argv) < 2:
            raise ValueError("no run to keep: give the directories of runs")
        for run in map(Path, argv[1:]):
            kept = [
                keep(directory, Path(_OUT.value), _EVERY.value)
                for directory in seed_directories(run)
            ]
            print(f"{run}: kept in {', '.join(map(str, kept))}")
    except (ValueError, OSError) as error:
        fail(error)


def keep(directory: Path, out: Path, every: int) -> Path:
    """Copies the run of one seed, thinned; returns where it lies.

    Args:
      directory: of the seed.
      out: holds a folder a run; those of several seeds are called RUN-seedSEED.
      every: updates between the lines of losses that are kept.
    """
    run = read_run(directory)
    program = program_directory(directory)
    inside = program != directory.resolve()
    name = f"{program.name}-{directory.name}" if inside else program.name
    kept = out / name
    kept.mkdir(parents=True, exist_ok=True)
    rows = [row for row in run.rows if is_kept(row["step"], row["phase"], every)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    write_atomically(kept / METRICS_NAME, lines.encode())
    config = without_places(json.loads((directory / CONFIG_NAME).read_text()))
    text = json.dumps(config, indent=2) + "\n"
    write_atomically(kept / CONFIG_NAME, text.encode())
    if (directory / SUMMARY_NAME).exists():
        shutil.copyfile(directory / SUMMARY_NAME, kept / SUMMARY_NAME)
    return kept


def without_places(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a configuration without where things lay on the machine of the run.

    The run that it started from is known by its name, and by which of its checkpoints;
    data that it read by the name of the file or folder.
    """
    data = config["data"]
    return {
        **config,
        "data": {**data, "directory": "", "path": data_place(data.get("path", ""))},
        "init_from": parent_place(config.get("init_from", "")),
    }


def is_kept(step: int, phase: str, every: int) -> bool:
    """Whether a line of metrics is kept: of losses those at multiples of `every`."""
    return phase.startswith(("evaluation", "collection")) or step % every == 0


if __name__ == "__main__":
    run_program(main, positional=True)
