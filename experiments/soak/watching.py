"""R14: a long run watched from outside: what it holds must not grow."""

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from experiments.soak.runs import Program, World, begun, metrics
from experiments.soak.trials import Lost, Outcome
from moto_jax.data.files import write_atomically
from moto_jax.study.style import BLUE, GREY, STYLE, save
from moto_jax.tables import comma_separated

_EVERY_S = 10.0
_PAGE = os.sysconf("SC_PAGE_SIZE")

# Compilations after this update count.
_WARM_UPDATES = 100
# The first part of the time is left out of the slopes.
_WARM_SHARE = 0.25
# Shorter, a slope an hour says nothing.
_JUDGED_MINUTES = 60.0
_MOST_RSS_SLOPE = 1.0

# It never ends by itself, saves and plays. Not online: the replay keeps every episode,
# whose memory is the plan that a run tells at its start.
_ENDLESS = (
    "--config.training.offline_updates=100000000",
    "--config.training.log_every=10",
    "--config.training.evaluate_every=100",
    "--config.training.checkpoint_every=100",
    "--config.training.keep_checkpoints=3",
)


class Sample(NamedTuple):
    """What a run holds at a moment.

    Attributes:
      hours: since the first sample.
      updates: done.
      rss_mb: resident memory of the run and its workers, in 10^6 bytes.
      descriptors: open files of the run's process.
      processes: the run's and its workers.
      disk_mb: of its directory, in 10^6 bytes.
      compilations: so far.
    """

    hours: float
    updates: int
    rss_mb: float
    descriptors: int
    processes: int
    disk_mb: float
    compilations: int


# Column -> what it is called.
TITLES = {
    "rss_mb": "resident memory, MB",
    "descriptors": "open files",
    "processes": "processes",
    "disk_mb": "disk, MB",
    "compilations": "compilations",
}


def _resident(process: int) -> int:
    try:
        return _PAGE * int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0


def _disk(workdir: Path) -> int:
    total = 0
    for path in workdir.rglob("*"):
        # Files come and go meanwhile.
        with contextlib.suppress(OSError):
            if path.is_file():
                total += path.stat().st_size
    return total


def take_sample(program: Program, start: float) -> Sample:
    """Returns what a run holds now.

    Args:
      program: the run.
      start: of the first sample, seconds of the monotonic clock.
    """
    main = program.process.pid
    every = [main, *program.children]
    steps = [line["step"] for line in metrics(program.workdir)]
    with contextlib.suppress(OSError):
        descriptors = len(os.listdir(f"/proc/{main}/fd"))
    return Sample(
        hours=(time.monotonic() - start) / 3600,
        updates=max(steps, default=0),
        rss_mb=sum(map(_resident, every)) / 1e6,
        descriptors=descriptors,
        processes=len(every),
        disk_mb=_disk(program.workdir) / 1e6,
        compilations=program.said.count("Finished XLA compilation of"),
    )


def slope(samples: Sequence[Sample], column: str) -> float:
    """Returns how much of a column an hour adds, once the run is warm."""
    warm = [one for one in samples if one.hours >= _WARM_SHARE * samples[-1].hours]
    if len(warm) < 3:
        return float("nan")
    values = [getattr(one, column) for one in warm]
    fitted: Any = stats.linregress([one.hours for one in warm], values)
    return float(fitted.slope)


def draw(samples: Sequence[Sample], path: Path) -> None:
    """Draws the columns over time, each with its slope."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.0, 8.0), layout="constrained")
        axes = figure.subplots(len(TITLES), 1, sharex=True)
        minutes = [60 * one.hours for one in samples]
        for axis, (column, title) in zip(axes, TITLES.items(), strict=True):
            values = [getattr(one, column) for one in samples]
            axis.plot(minutes, values, color=BLUE)
            axis.axvline(_WARM_SHARE * minutes[-1], color=GREY, linestyle=":")
            axis.set_title(f"{title}: {slope(samples, column):+.2f} an hour")
            low, high = min(values), max(values)
            axis.set_ylim(low - 0.1 * (high - low) - 1, high + 0.1 * (high - low) + 1)
        axes[-1].set_xlabel("minutes; slopes are of what is right of the dotted line")
        save(figure, path)


def judge(samples: Sequence[Sample]) -> str:
    """Returns what a run of an hour or more holds too much of, or nothing."""
    warm = [one for one in samples if one.updates > _WARM_UPDATES]
    faults = []
    if (grows := slope(samples, "rss_mb")) >= _MOST_RSS_SLOPE:
        faults.append(f"resident memory grows by {grows:.1f} MB an hour")
    for column in ("descriptors", "processes"):
        late = [getattr(one, column) for one in warm[len(warm) // 4 :]]
        # A save or a worker under way may hold one or two more.
        if late and np.ptp(late) > 4 and slope(samples, column) >= 1.0:
            faults.append(f"{TITLES[column]} grow from {late[0]} to {late[-1]}")
    if warm and warm[-1].compilations > warm[0].compilations:
        number = warm[-1].compilations - warm[0].compilations
        faults.append(f"{number} compilations after update {_WARM_UPDATES}")
    return "; ".join(faults)


def watched(
    world: World, minutes: float, results: Path, number: int, directory: Path
) -> Outcome:
    """R14: memory, files, processes and disk stay as they are, nothing is recompiled.

    Args:
      world: of the run.
      minutes: that it is watched, from its first update on.
      results: directory of the picture and its numbers.
      number: of the trial.
      directory: of the trial.
    """
    del number
    workdir = begun(world, directory)
    samples: list[Sample] = []
    environment = {"JAX_LOG_COMPILES": "1"}
    with Program(world, workdir, *_ENDLESS, environment=environment) as program:
        program.until(lambda: bool(metrics(workdir)))
        start = time.monotonic()
        while time.monotonic() < start + 60 * minutes:
            if program.process.poll() is not None:
                raise Lost(f"the run ended by itself: {program.last_words}")
            samples.append(take_sample(program, start))
            time.sleep(_EVERY_S)
        status = program.end(signal.SIGTERM)
    rows = [one._asdict() for one in samples]
    results.mkdir(parents=True, exist_ok=True)
    write_atomically(results / "soak.csv", comma_separated(rows).encode())
    draw(samples, results / "soak.png")
    slopes = ", ".join(
        f"{title} {slope(samples, column):+.2f}" for column, title in TITLES.items()
    )
    said = f"{minutes:g} minutes, {samples[-1].updates} updates; an hour: {slopes}"
    if status != 128 + signal.SIGTERM:
        raise Lost(f"{said}; status {status}: {program.last_words}")
    if minutes < _JUDGED_MINUTES:
        return Outcome(f"{said}; too short to be judged", tried=0)
    if faults := judge(samples):
        raise Lost(f"{said}; {faults}")
    return Outcome(said)
