"""Where a run's numbers go: metrics.jsonl always, TensorBoard on request, the terminal.

metrics.jsonl holds one JSON object a line with `step`, `phase`, `wall_seconds` and the
numbers of that step. Keys that begin with `wall_` depend on the machine and the hour;
all others are equal in two runs of one program, and in an interrupted and an unbroken
run.
"""

import collections
import contextlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from moto_jax.run_layout import METRICS_NAME

WALL_PREFIX = "wall_"

# The live panel is drawn at most this often.
_PANEL_SECONDS = 0.25

_RESERVED = ("step", "phase", "wall_seconds")

_log = logging.getLogger(__name__)


def to_floats(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Returns the metrics as Python floats, fetched from the device at once.

    Args:
      metrics: name -> number or array of one element.

    Raises:
      ValueError: naming the metric that is not one number.
    """
    fetched = jax.device_get(dict(metrics))
    floats = {}
    for name, value in fetched.items():
        try:
            floats[name] = float(np.asarray(value).item())
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"metric {name!r} of shape {np.shape(value)} is not one number: reduce "
                "it before it is written"
            ) from error
    return floats


class MetricsWriter:
    """Appends to a run's metrics.jsonl, one durable line a write.

    To resume, call `truncate_after` with the checkpoint's step before the first write.
    Whatever belongs to a step must be written before that step's checkpoint is saved:
    the file then grows exactly as in an unbroken run.
    """

    def __init__(self, run_dir: str | os.PathLike[str], tensorboard: bool = False):
        """Opens the file; a line that a crash cut short is removed.

        Args:
          run_dir: the run's directory; made where missing.
          tensorboard: whether to write event files under `run_dir/tensorboard` too.

        Raises:
          ValueError: if the file is damaged, or tensorboardX is wanted and missing.
        """
        self._run_dir = Path(run_dir)
        self._run_dir.mkdir(parents=True, exist_ok=True)
        self._events = None
        self._tensorboard = tensorboard
        if tensorboard:
            _event_writer_class()
        self._purge_step: int | None = None
        self._descriptor = os.open(
            self._run_dir / METRICS_NAME, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644
        )
        self._wall_offset = 0.0
        self._opened = time.monotonic()
        try:
            self._keep_up_to(math.inf)
        except ValueError:
            self.close()
            raise

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def truncate_after(self, step: int) -> None:
        """Removes what was written after `step`, so that those steps can be redone.

        The run's `wall_seconds` go on from the last line kept.
        """
        self._keep_up_to(step)
        self._purge_step = step + 1

    def write(self, step: int, phase: str, metrics: Mapping[str, Any]) -> None:
        """Writes the numbers of one step; on return the line is on the disk.

        A number that is not finite is written as null: JSON knows no other.

        Args:
          step: not below that of the last write.
          phase: part of the run the numbers belong to, such as "offline".
          metrics: name -> number or array of one element.

        Raises:
          ValueError: for a metric that is not one number or has a reserved name.
          OSError: if the line cannot be written; the lines before it stay as they are.
        """
        taken = [name for name in _RESERVED if name in metrics]
        if taken:
            raise ValueError(f"metric name {taken[0]!r} is reserved: give it another")
        floats = to_floats(metrics)
        wall_seconds = self._wall_offset + time.monotonic() - self._opened
        record: dict[str, Any] = {"step": int(step), "phase": phase}
        for name, value in floats.items():
            record[name] = value if math.isfinite(value) else None
        record["wall_seconds"] = round(wall_seconds, 3)
        self._append(json.dumps(record, allow_nan=False).encode() + b"\n")
        if self._tensorboard:
            self._write_events(step, phase, floats)

    def close(self) -> None:
        """Closes the files; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._events is not None:
            self._events.close()
            self._events = None

    def _append(self, line: bytes) -> None:
        end = os.fstat(self._descriptor).st_size
        try:
            # A full disk takes the first bytes of a line, and says so by the count.
            while line:
                line = line[os.write(self._descriptor, line) :]
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, end)
            raise

    def _write_events(self, step: int, phase: str, floats: dict[str, float]) -> None:
        if self._events is None:
            # Event files are never rewritten: readers hide steps from purge_step on.
            self._events = _event_writer_class()(
                str(self._run_dir / "tensorboard"), purge_step=self._purge_step
            )
        for name, value in floats.items():
            if math.isfinite(value):
                self._events.add_scalar(f"{phase}/{name}", value, step)
        self._events.flush()

    def _keep_up_to(self, step: float) -> None:
        """Cuts the file before the first record after `step` or an unfinished line."""
        path = self._run_dir / METRICS_NAME
        kept, last = 0, None
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
            if not line.endswith(b"\n"):
                break
            record = _parse(line)
            if record is None:
                raise ValueError(
                    f"line {number} of {path} is no record of metrics: remove the line"
                )
            if record["step"] > step:
                break
            kept, last = kept + len(line), record
        os.ftruncate(self._descriptor, kept)
        os.fsync(self._descriptor)
        self._wall_offset = last["wall_seconds"] if last else 0.0
        self._opened = time.monotonic()


def last_step(path: Path) -> int:
    """Returns the largest step of a metrics.jsonl's whole lines, -1 without any."""
    if not path.exists():
        return -1
    records = map(_parse, path.read_bytes().splitlines())
    return max((int(record["step"]) for record in records if record), default=-1)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    numbers = (int, float)
    if not isinstance(record, dict) or not isinstance(record.get("step"), numbers):
        return None
    return record if isinstance(record.get("wall_seconds"), numbers) else None


def _event_writer_class() -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ValueError(
            "TensorBoard output needs the package tensorboardX: pip install "
            "'moto-jax[tensorboard]', or switch it off"
        ) from error
    return SummaryWriter


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raises; rich would end the process when a reader such as `head` has gone."""
        raise BrokenPipeError("nobody reads the output any more")


class TerminalView:
    """Shows how a run goes: a live panel on a terminal, plain lines everywhere else.

    The view is for a human and never a reason to stop: if the terminal refuses, the run
    goes on without it.
    """

    def __init__(
        self,
        total_steps: int,
        names: Sequence[str] = (),
        line_seconds: float = 10.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Makes a view; enter it as a context.

        Args:
          total_steps: of all phases, in the unit of `show`'s step.
          names: the metrics to show, in this order; others are left to the files.
          line_seconds: plain lines are at least this far apart.
          stream: where to draw; standard error by default, which leaves standard
            output to results.
          clock: seconds, for speed and remaining time.
        """
        self._total_steps = total_steps
        self._names = tuple(names)
        self._line_seconds = line_seconds
        self._console = _Console(file=stream or sys.stderr, highlight=False)
        self._clock = clock
        self._live: Live | None = None
        self._broken = False
        self._phase = ""
        self._step = 0
        self._floats: dict[str, float] = {}
        # Speed is measured over the last minute: earlier phases run at other speeds.
        self._marks: collections.deque[tuple[float, int]] = collections.deque()
        self._last_drawn = -math.inf

    def __enter__(self) -> "TerminalView":
        if self._console.is_interactive:
            self._attempt(self._start_live)
        return self

    def __exit__(self, *unused: object) -> None:
        if self._live is not None:
            self._attempt(self._live.stop)
            self._live = None

    def show(
        self, step: int, phase: str, metrics: Mapping[str, Any] | None = None
    ) -> None:
        """Takes the run's place and newest metrics; draws what is due.

        Args:
          step: updates done of `total_steps`.
          phase: part of the run, such as "online".
          metrics: name -> one number; those not given keep their last value.
        """
        now = self._clock()
        new_phase = phase != self._phase
        self._step, self._phase = step, phase
        if metrics:
            wanted = {name: metrics[name] for name in self._names if name in metrics}
            self._floats.update(to_floats(wanted))
        self._marks.append((now, step))
        while len(self._marks) > 2 and now - self._marks[0][0] > 60:
            self._marks.popleft()
        live = self._live
        seconds = self._line_seconds if live is None else _PANEL_SECONDS
        due = now - self._last_drawn >= seconds
        if not (due or new_phase or step >= self._total_steps):
            return
        self._last_drawn = now
        if live is None:
            self.message(self._line())
        else:
            self._attempt(lambda: live.update(self._panel(), refresh=True))

    def message(self, text: str) -> None:
        """Prints a line that stays, above the live panel where there is one."""
        self._attempt(
            lambda: self._console.print(
                Text(text), soft_wrap=True, no_wrap=True, overflow="ignore"
            )
        )

    def _start_live(self) -> None:
        # Drawn by `show` alone: an error in rich's own thread could not be caught.
        self._live = Live(self._panel(), console=self._console, auto_refresh=False)
        self._live.start()

    def _attempt(self, draw: Callable[[], object]) -> None:
        """Draws, or gives the view up at the first error."""
        if self._broken:
            return
        try:
            draw()
        except Exception as error:
            self._broken = True
            live, self._live = self._live, None
            if live is not None:
                with contextlib.suppress(Exception):
                    live.stop()
            _log.warning("the terminal view stops: %s; the run goes on", error)

    def _speed(self) -> float | None:
        """Returns updates a second, or None before there are two moments to compare."""
        if not self._marks:
            return None
        (first_time, first_step), (last_time, last_step) = (
            self._marks[0],
            self._marks[-1],
        )
        if last_step <= first_step or last_time <= first_time:
            return None
        return (last_step - first_step) / (last_time - first_time)

    def _facts(self) -> dict[str, str]:
        facts = {"step": f"{self._step}/{self._total_steps}"}
        speed = self._speed()
        if speed is not None:
            left = max(self._total_steps - self._step, 0) / speed
            facts["updates/s"] = f"{speed:.3g}"
            facts["remaining"] = str(timedelta(seconds=round(left)))
        for name in self._names:
            if name in self._floats:
                facts[name] = f"{self._floats[name]:.4g}"
        return facts

    def _line(self) -> str:
        words = [f"{name} {value}" for name, value in self._facts().items()]
        return "  ".join([f"[{self._phase}]", *words])

    def _panel(self) -> Table:
        table = Table.grid(padding=(0, 2))
        total = max(self._total_steps, 1)
        bar = ProgressBar(total=total, completed=self._step, width=40)
        table.add_row(Text(self._phase, style="bold"), bar)
        for name, value in self._facts().items():
            table.add_row(Text(name, style="dim"), Text(value))
        return table
