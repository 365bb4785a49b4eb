"""Ratios of interleaved runs: machines that others use too change their speed."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence


@dataclasses.dataclass(frozen=True)
class Figure:
    """One measured number beside what it is compared with.

    Attributes:
      name: "what/where", such as "update/cpu".
      value: the median over the rounds.
      unit: of both values.
      reference: what the number is compared with, in words.
      reference_value: its median.
      ratio: above 1 where the number is the better one.
      low: least ratio of a round.
      high: largest.
    """

    name: str
    value: float
    unit: str
    reference: str
    reference_value: float
    ratio: float
    low: float
    high: float


# What a part of the benchmark yields: numbers, and lines that say what no number does.
Part = Iterator[Figure | str]


def compare(
    name: str,
    unit: str,
    ours: Callable[[], float],
    reference: str,
    theirs: Callable[[], float],
    *,
    rounds: int,
    warm_up: int = 1,
    less_is_better: bool = False,
) -> Figure:
    """Measures two things in turn and compares them round by round.

    Args:
      name: of the figure.
      unit: of what both return.
      ours: measures once.
      reference: what `theirs` is.
      theirs: measures the reference once.
      rounds: that count.
      warm_up: rounds before that do not.
      less_is_better: for seconds and bytes; the ratio is then theirs to ours.
    """
    pairs = [(ours(), theirs()) for _ in range(warm_up + rounds)][warm_up:]
    return figure_of(name, unit, reference, pairs, less_is_better=less_is_better)


def figure_of(
    name: str,
    unit: str,
    reference: str,
    pairs: Sequence[tuple[float, float]],
    *,
    less_is_better: bool = False,
) -> Figure:
    """Returns the figure of (ours, theirs) a round; see `compare`."""
    ratios = [b / a if less_is_better else a / b for a, b in pairs]
    return Figure(
        name=name,
        value=statistics.median(a for a, _ in pairs),
        unit=unit,
        reference=reference,
        reference_value=statistics.median(b for _, b in pairs),
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
    )


def seconds(function: Callable[[], object]) -> float:
    """Returns the wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def rate(function: Callable[[], object], calls: int) -> float:
    """Returns calls a second of wall time."""
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return calls / (time.perf_counter() - start)


def cpu_rate(function: Callable[[], object], calls: int) -> float:
    """Returns calls a second of the process's CPU time, which others do not stretch."""
    start = time.process_time()
    for _ in range(calls):
        function()
    return calls / (time.process_time() - start)
