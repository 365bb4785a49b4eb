"""How often the scripted demonstrator succeeds, as a table.

    python -m experiments.demonstrator_table

Physics alone, no frames are drawn. Writes `results/demonstrator.md` and `.csv`.
"""

import contextlib
import functools
import multiprocessing
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from experiments.command_line import fail, run_program
from moto_jax.data.files import write_atomically
from moto_jax.data.rows import first_rows
from moto_jax.tables import comma_separated, markdown_lines
from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.kitchen.demonstrations import record_episode
from moto_jax.worlds.kitchen.demonstrator import Demonstrator
from moto_jax.worlds.kitchen.environment import KitchenEnv
from moto_jax.worlds.kitchen.labels import require_objects

_OUTPUT = flags.DEFINE_string(
    "output", "results/demonstrator", "Where to write, without .md and .csv."
)
_SEEDS = flags.DEFINE_integer("seeds", 50, "Episodes of each row.", lower_bound=1)
_ACTION_NOISE = flags.DEFINE_float(
    "action_noise", 0.1, "Standard deviation of the noise on each action."
)
_NUM_WORKERS = flags.DEFINE_integer("num_workers", 2, "Processes.", lower_bound=1)

_COLUMNS: tuple[str, ...] = (
    "objects",
    "episodes",
    "all reached",
    "all in goal at the end",
    "another object in goal at the end",
    "median step of the last completion",
    "mean length in steps",
)


@functools.cache
def _environment() -> KitchenEnv:
    return KitchenEnv(render_frames=False)


def _run(
    arguments: tuple[tuple[str, ...], int, float],
) -> tuple[bool, bool, bool, int, int]:
    """Returns reached, at end, other at end, step of the last completion, length."""
    objects, seed, action_noise = arguments
    demonstrator = Demonstrator(objects, seed, action_noise)
    episode = record_episode(_environment(), demonstrator, seed, tail_steps=0)
    in_goal = require_objects(episode)
    columns = tasks.object_columns(objects)
    reached = bool(in_goal[:, columns].any(axis=0).all())
    at_end = bool(in_goal[-1, columns].all())
    other = int(in_goal[-1].sum()) > int(in_goal[-1, columns].sum())
    last = int(first_rows(in_goal)[columns].max())
    return reached, at_end, other, last, len(in_goal) - 1


def _rows(seeds: int, action_noise: float, num_workers: int) -> list[list[str]]:
    sequences = [(name,) for name in tasks.OBJECTS] + list(tasks.TASKS.values())
    episodes = [
        (objects, seed, action_noise) for objects in sequences for seed in range(seeds)
    ]
    with multiprocessing.get_context("spawn").Pool(num_workers) as pool:
        results = pool.map(_run, episodes, chunksize=5)
    rows = []
    for index, objects in enumerate(sequences):
        group = np.array(results[index * seeds : (index + 1) * seeds])
        reached, at_end, other, last, length = group.T
        rows.append(
            [
                ", ".join(objects),
                str(seeds),
                f"{reached.mean():.2f}",
                f"{at_end.mean():.2f}",
                f"{other.mean():.2f}",
                f"{np.median(last[reached == 1]):.0f}" if reached.any() else "-",
                f"{length.mean():.0f}",
            ]
        )
    return rows


def _markdown(rows: list[list[str]], command: str) -> str:
    lines = [
        f"The scripted demonstrator, action noise {_ACTION_NOISE.value}, made by",
        "",
        f"    {command}",
        "",
        "One row a sequence of objects, one episode a seed, cut off after "
        f"{tasks.EPISODE_STEPS} steps. Figures are shares of the episodes, and control "
        "steps of 0.08 s.",
        "",
        *markdown_lines(_COLUMNS, rows),
    ]
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Ends the program in one sentence where nothing can be written there."""
    try:
        yield
    except OSError as error:
        fail(f"--output={output} cannot be written ({error.strerror}): give another")


def main(argv: Sequence[str]) -> None:
    """Runs the episodes and writes the table."""
    del argv
    output = Path(_OUTPUT.value)
    with _writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        # That nothing can be written shows here, not after minutes of episodes.
        tempfile.TemporaryFile(dir=output.parent).close()
    try:
        rows = _rows(_SEEDS.value, _ACTION_NOISE.value, _NUM_WORKERS.value)
    except ValueError as error:
        fail(error)
    command = shlex.join(
        ["python", "-m", "experiments.demonstrator_table", *sys.argv[1:]]
    )
    text = _markdown(rows, command)
    table = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
    with _writing(output):
        write_atomically(output.with_suffix(".md"), text.encode())
        write_atomically(output.with_suffix(".csv"), comma_separated(table).encode())
    print(text)


if __name__ == "__main__":
    run_program(main)
