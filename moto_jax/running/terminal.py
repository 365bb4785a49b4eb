"""How a run goes, for whoever watches it: a live panel, or plain lines."""

import collections
import contextlib
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import SupportsFloat, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

# The live panel is drawn at most this often.
_PANEL_SECONDS = 0.25

_log = logging.getLogger(__name__)


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
        self._place: dict[str, str] = {}
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
        self,
        step: int,
        phase: str,
        metrics: Mapping[str, SupportsFloat] | None = None,
        place: Mapping[str, str] | None = None,
    ) -> None:
        """Takes the run's place and newest metrics; draws what is due.

        Args:
          step: updates done of `total_steps`.
          phase: part of the run, such as "online".
          metrics: name -> number; those not given keep their last value.
          place: name -> text, how far a phase without steps is. It is shown in place
            of speed and remaining time, which then begin anew.
        """
        now = self._clock()
        new_phase = phase != self._phase
        self._step, self._phase, self._place = step, phase, dict(place or {})
        if metrics:
            for name in self._names:
                if name in metrics:
                    self._floats[name] = float(metrics[name])
        if place:
            self._marks.clear()
        else:
            self._marks.append((now, step))
        while len(self._marks) > 2 and now - self._marks[0][0] > 60:
            self._marks.popleft()
        live = self._live
        seconds = self._line_seconds if live is None else _PANEL_SECONDS
        due = now - self._last_drawn >= seconds
        at_end = step >= self._total_steps and not place
        if not (due or new_phase or at_end):
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
        facts |= self._place
        if speed is not None:
            left = max(self._total_steps - self._step, 0) / speed
            facts["updates/s"] = f"{speed:.3g}"
            facts["remaining"] = str(timedelta(seconds=round(left)))
        for name in self._names:
            if name in self._floats:
                facts[name] = f"{self._floats[name]:.4g}"
        return facts

    def _line(self) -> str:
        """Returns all facts; of a terminal's line those that it has room for."""
        line = f"[{self._phase}]"
        for name, value in self._facts().items():
            fact = f"  {name} {value}"
            room = self._console.width - len(line)
            if not self._console.is_terminal or len(fact) < room:
                line += fact
        return line

    def _panel(self) -> Table:
        table = Table.grid(padding=(0, 2))
        total = max(self._total_steps, 1)
        bar = ProgressBar(total=total, completed=self._step, width=40)
        table.add_row(Text(self._phase, style="bold"), bar)
        for name, value in self._facts().items():
            table.add_row(Text(name, style="dim"), Text(value))
        return table
