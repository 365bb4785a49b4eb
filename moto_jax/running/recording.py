"""The numbers of a run of several seeds: a record and sinks for each, one terminal."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from moto_jax.running import machines
from moto_jax.running.metrics import MetricsWriter, to_floats
from moto_jax.running.sinks import SeedSinks
from moto_jax.running.terminal import TerminalView


class Recorder:
    """Writes each seed's metrics.jsonl and shows the seeds' mean; use it as a context.

    A line is in metrics.jsonl before a sink sees it, so none can cost the record one.
    Only the first process of a run writes and shows; in the others nothing happens.
    """

    def __init__(
        self,
        directories: Sequence[Path],
        total_steps: int,
        shown: Sequence[str],
        sinks: Sequence[str] = (),
    ):
        """Opens the files.

        Args:
          directories: of the seeds.
          total_steps: updates of the whole run.
          shown: names of the metrics that the terminal shows.
          sinks: names of those that get each seed's numbers too, from `sink_names`.

        Raises:
          ValueError: if a file is damaged.
        """
        self._writers: list[MetricsWriter] = []
        self._sinks: list[SeedSinks] = []
        self._view: TerminalView | None = None
        self._open = contextlib.ExitStack()
        if machines.is_first():
            with contextlib.ExitStack() as opened:
                for directory in directories:
                    writer = MetricsWriter(directory)
                    self._writers.append(opened.enter_context(writer))
                    own = SeedSinks(directory, sinks)
                    self._sinks.append(own)
                    opened.callback(own.close)
                view = TerminalView(total_steps, shown)
                self._view = opened.enter_context(view)
                self._open = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def truncate_after(self, step: int) -> None:
        """Removes what was written after `step`, so that those steps can be redone."""
        for keeper in [*self._writers, *self._sinks]:
            keeper.truncate_after(step)

    def write(
        self, step: int, phase: str, by_seed: Sequence[Mapping[str, Any]]
    ) -> None:
        """Writes a line for each seed; on return the lines are on the disk."""
        if not self._writers:
            return
        seeds = zip(self._writers, self._sinks, by_seed, strict=True)
        for writer, sinks, metrics in seeds:
            numbers = to_floats(metrics)
            writer.write(step, phase, numbers)
            sinks.write(step, phase, numbers)

    def show(
        self,
        step: int,
        phase: str,
        by_seed: Sequence[Mapping[str, Any]] = (),
        place: Mapping[str, str] | None = None,
    ) -> None:
        """Shows the run's place, and the mean over seeds of new numbers.

        Args:
          step: updates done.
          phase: part of the run.
          by_seed: each seed's numbers, if there are new ones.
          place: see `TerminalView.show`.
        """
        if self._view is not None:
            names = by_seed[0] if by_seed else ()
            means = {
                name: float(np.mean([metrics[name] for metrics in by_seed]))
                for name in names
            }
            self._view.show(step, phase, means, place)

    def message(self, text: str) -> None:
        """Prints a line that stays."""
        if self._view is not None:
            self._view.message(text)


def split_seeds(metrics: Mapping[str, Any]) -> list[dict[str, float]]:
    """Returns each seed's metrics as floats, fetched from the device at once.

    Args:
      metrics: name -> array [seeds].
    """
    fetched = jax.device_get(dict(metrics))
    for name, values in fetched.items():
        if np.ndim(values) != 1:
            raise ValueError(
                f"metric {name!r} has shape {np.shape(values)} instead of one number a "
                "seed: reduce it in the update"
            )
    count = len(next(iter(fetched.values())))
    return [
        {name: float(values[index]) for name, values in fetched.items()}
        for index in range(count)
    ]
