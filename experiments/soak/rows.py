"""The rows of the table, in its order."""

import functools

from experiments.soak import checkpoint_rows, data_rows, process_rows, worker_rows
from experiments.soak.corpus import CORPUS
from experiments.soak.faulty_environment import FAULTS
from experiments.soak.runs import World
from experiments.soak.trials import Row


def make_rows(world: World) -> tuple[Row, ...]:
    """Returns the rows, whose runs learn in a world."""
    return (
        Row(
            "R1",
            "kill -9 at a random moment; the same command ends bit for bit as an "
            "unbroken run",
            20,
            functools.partial(process_rows.killed, world),
            "orbax: the state alone, no replay, random numbers or metrics",
        ),
        Row(
            "R2",
            "SIGTERM at a random moment: saved within 30 s, status 143, no update lost",
            20,
            functools.partial(process_rows.stopped, world),
            "0 of 1: status -15, nothing saved",
        ),
        Row(
            "R3",
            "a random bit of the newest checkpoint flips: restored alike, or named and "
            "the step before taken",
            200,
            functools.partial(checkpoint_rows.flipped_bit, world),
            "97 of 108 flips in data silent",
        ),
        Row(
            "R4",
            "the newest checkpoint is damaged: the run goes on from the step before, "
            "or one sentence names every step",
            len(checkpoint_rows.DAMAGES),
            functools.partial(checkpoint_rows.damaged, world),
            "an exception, no step before",
        ),
        Row(
            "R5",
            "a write fails: one sentence, checkpoints intact, the same command ends as "
            "an unbroken run",
            9,
            functools.partial(checkpoint_rows.failing_write, world),
            "the error is hidden until one waits",
        ),
        Row(
            "R6",
            "a worker is killed in an episode: a new one within 10 s, the run ends as "
            "an unbroken one",
            10,
            functools.partial(worker_rows.killed_workers, world),
            "EOFError, the run dead",
            each=worker_rows.KILLS,
        ),
        Row(
            "R7",
            "an environment hangs, stops, raises, returns nonsense: seen within the "
            "deadline and 1 s, episodes equal unharmed ones",
            10 * len(FAULTS),
            functools.partial(worker_rows.failing_worker, world),
            "after a timeout, answers of another step in silence",
        ),
        Row(
            "R8",
            "a data set is malformed: one sentence with file and field, under 500 MB "
            "and 2 s",
            len(CORPUS),
            data_rows.malformed,
            "a bomb loads 1.5 GB; D5RL's loader unpickles",
        ),
    )
