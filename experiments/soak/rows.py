"""The rows of the table, in its order."""

import functools
from pathlib import Path

from experiments.soak import (
    checkpoint_rows,
    data_rows,
    fuzzing,
    machine_rows,
    number_rows,
    process_rows,
    refusal_rows,
    watching,
    worker_rows,
)
from experiments.soak.corpus import CORPUS
from experiments.soak.faulty_environment import FAULTS
from experiments.soak.runs import World, unbroken
from experiments.soak.trials import Row


def make_rows(world: World, minutes: float, results: Path) -> tuple[Row, ...]:
    """Returns the rows.

    Args:
      world: where their runs learn.
      minutes: that R14 watches a run.
      results: directory of what R14 draws.
    """
    return (
        *_faults_from_outside(world),
        *_data_and_numbers(world),
        *_refusals_and_hours(world, minutes, results),
    )


def _faults_from_outside(world: World) -> tuple[Row, ...]:
    """R1 to R7: processes, disks and environments that fail."""
    prepare = functools.partial(unbroken, world)
    return (
        Row(
            "R1",
            "kill -9 at a random moment; the same command ends bit for bit as an "
            "unbroken run",
            20,
            functools.partial(process_rows.killed, world),
            prepare,
            "orbax: the state alone, no replay, random numbers or metrics",
        ),
        Row(
            "R2",
            "SIGTERM at a random moment: saved within 30 s, status 143, no update lost",
            20,
            functools.partial(process_rows.stopped, world),
            prepare,
            "0 of 1: status -15, nothing saved",
        ),
        Row(
            "R3",
            "a random bit of the newest checkpoint flips: restored alike, or named and "
            "the step before taken",
            200,
            functools.partial(checkpoint_rows.flipped_bit, world),
            prepare,
            "97 of 108 flips in data silent",
        ),
        Row(
            "R4",
            "the newest checkpoint is damaged: the run goes on from the step before, "
            "or one sentence names every step",
            len(checkpoint_rows.DAMAGES),
            functools.partial(checkpoint_rows.damaged, world),
            prepare,
            "an exception, no step before",
        ),
        Row(
            "R5",
            "a write fails: one sentence, checkpoints intact, the same command ends as "
            "an unbroken run",
            9,
            functools.partial(checkpoint_rows.failing_write, world),
            prepare,
            "the error is hidden until one waits",
        ),
        Row(
            "R6",
            "a worker is killed in an episode: a new one within 10 s, the run ends as "
            "an unbroken one",
            10,
            functools.partial(worker_rows.killed_workers, world),
            prepare,
            "EOFError, the run dead",
            each=worker_rows.KILLS,
        ),
        Row(
            "R7",
            "an environment hangs, stops, raises, returns nonsense: seen within the "
            "deadline and 1 s, episodes equal unharmed ones",
            10 * len(FAULTS),
            functools.partial(worker_rows.failing_worker, world),
            bare="after a timeout, answers of another step in silence",
        ),
    )


def _data_and_numbers(world: World) -> tuple[Row, ...]:
    """R8 to R11: what is read, and what is computed twice."""
    prepare = functools.partial(unbroken, world)
    return (
        Row(
            "R8",
            "a data set is malformed: one sentence with file and field, under 500 MB "
            "and 2 s",
            len(CORPUS),
            data_rows.malformed,
            bare="a bomb loads 1.5 GB; D5RL's loader unpickles",
        ),
        Row(
            "R9",
            "NaN and infinities in rewards, actions and losses: the update is "
            "skipped and counted, parameters stay, the next one learns",
            len(number_rows.INJECTIONS),
            number_rows.not_finite,
        ),
        Row(
            "R10",
            "the same seed in a new process, with other hashes and 1 or 4 workers: "
            "demonstrations, metrics, episodes and state bit for bit",
            5,
            functools.partial(number_rows.again, world),
            prepare,
        ),
        Row(
            "R11",
            "five seeds by vmap and each alone, 200 updates: within 1e-4",
            1,
            number_rows.together,
            bare="2.5e-7 of a toy network",
        ),
    )


def _refusals_and_hours(world: World, minutes: float, results: Path) -> tuple[Row, ...]:
    """R12 on: what a run must not accept, what it does in hours, and with others."""
    prepare = functools.partial(unbroken, world)
    return (
        Row(
            "R12",
            "a run is taken up with another configuration, version, number of devices "
            "or dtype: refused in one sentence, nothing written",
            len(refusal_rows.CHANGES),
            functools.partial(refusal_rows.changed, world),
            prepare,
            "orbax casts dtypes in silence",
        ),
        Row(
            "R13",
            "what nobody trusts: refused in one sentence, nothing of it is run",
            len(refusal_rows.UNTRUSTED),
            functools.partial(refusal_rows.untrusted, world),
            prepare,
            "Minari's entry point runs",
        ),
        Row(
            "R14",
            "a run is watched: resident memory grows by less than 1 MB an hour, files "
            "and processes do not, nothing is compiled after update 100",
            1,
            functools.partial(watching.watched, world, minutes, results),
            prepare,
        ),
        Row(
            "R15",
            "further processes in a run's directory: each refused, the first ends as "
            "an unbroken run",
            1,
            functools.partial(refusal_rows.second_process, world),
            prepare,
            each=refusal_rows.SECONDS,
        ),
        Row(
            "R15 sinks",
            "TensorBoard cannot write: one warning, the run ends as without it",
            10,
            functools.partial(refusal_rows.sink_down, world),
            prepare,
        ),
        Row(
            "processes",
            "one of a run's two processes is killed, stopped or cut off: the other "
            "says so within a minute, the same commands go on to the same end",
            20 * len(machine_rows.FAULTS),
            functools.partial(machine_rows.broken, world),
            functools.partial(machine_rows.unbroken, world),
        ),
        *(
            Row(
                f"fuzz {name}",
                "files changed at random: read, or refused in one sentence",
                5,
                functools.partial(fuzzing.fuzz, name),
                each=fuzzing.BATCH,
            )
            for name in fuzzing.NAMES
        ),
    )
