"""How the runs of a sweep stand, told from their files alone."""

import fcntl
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from experiments.command_line import output_console
from launch.runs import SESSION_MARK, STOPPED, SweepRun
from moto_jax.run_layout import (
    CONFIG_NAME,
    LOCK_NAME,
    METRICS_NAME,
    SUMMARY_NAME,
    RunError,
    read_record,
)
from moto_jax.study.runs import read_config, seed_directories

# Every state there is, in the order of the summary. A run that was "stopped" has begun
# and goes on from where it is; one that is "waiting" has not.
STATES = ("done", "running", "failed", "stopped", "waiting")

# Of a log, and of metrics: more than the last lines that matter.
_TAIL_BYTES = 1 << 16

_MAX_ERROR_CHARACTERS = 300

# A line that names what went wrong: our own, or the end of a traceback.
_ERROR_LINE = re.compile(r"error: |[\w.]*(Error|Exception|Interrupt)\b")


class Status(NamedTuple):
    """How a run stands.

    Attributes:
      state: one of `STATES`.
      error: the last line of what went wrong, "" unless the run failed.
      updates: done by the slowest seed, None where nothing is known.
      total: updates of the whole run, None where nothing is known.
      minutes: of wall time so far, None where nothing is known.
    """

    state: str
    error: str = ""
    updates: int | None = None
    total: int | None = None
    minutes: float | None = None


def read_status(run: SweepRun) -> Status:
    """Returns how a run stands."""
    try:
        config = saved_config(run)
        seeds = seed_directories(run.workdir) if config else []
        if seeds and all((seed / SUMMARY_NAME).exists() for seed in seeds):
            status = Status("done")
        elif _is_locked(run.log) or _is_locked(run.workdir / LOCK_NAME):
            status = Status("running")
        else:
            status = _ended(run, begun=bool(config))
        return _with_progress(status, config, seeds) if seeds else status
    except RunError as error:
        return Status("failed", str(error))


def saved_config(run: SweepRun) -> dict[str, Any]:
    """Returns the configuration a run was begun with, flat; {} where it was not.

    Raises:
      RunError: if its file is damaged; names it.
    """
    return read_config(run.workdir) if (run.workdir / CONFIG_NAME).exists() else {}


def status_table(title: str, statuses: Sequence[tuple[SweepRun, Status]]) -> Table:
    """Returns one row a run, and the count of each state above."""
    counts = [
        f"{number} {state}"
        for state in STATES
        if (number := sum(status.state == state for _, status in statuses))
    ]
    table = Table(title=f"{title}: {', '.join(counts)}")
    table.add_column("run", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("updates", justify="right", no_wrap=True)
    table.add_column("minutes", justify="right", no_wrap=True)
    any_failed = any(status.error for _, status in statuses)
    if any_failed:
        table.add_column("last error", overflow="fold")
    for run, status in statuses:
        total = f" / {status.total:,}" if status.total is not None else ""
        updates = "" if status.updates is None else f"{status.updates:,}{total}"
        minutes = "" if status.minutes is None else f"{status.minutes:.1f}"
        # As text: a bracket in an error is no markup.
        error = [Text(status.error)] if any_failed else []
        table.add_row(run.name, status.state, updates, minutes, *error)
    return table


def print_standing(title: str, runs: Sequence[SweepRun], out: Path) -> bool:
    """Prints how runs stand and where they are; returns whether all are done."""
    statuses = [(run, read_status(run)) for run in runs]
    # To the terminal's width, or to a file at one that breaks no name.
    output_console(120).print(status_table(title, statuses))
    print(f"directories and logs: {out}")
    return all(status.state == "done" for _, status in statuses)


def _ended(run: SweepRun, begun: bool) -> Status:
    """Returns the status of a run that is not done and that nothing trains."""
    try:
        exit_status = int(run.exit_file.read_text())
    # None was recorded, or its disk was full.
    except (OSError, ValueError):
        return Status("stopped" if begun else "waiting")
    if exit_status in STOPPED:
        return Status("stopped")
    return Status("failed", _reason(run.log, exit_status))


def _reason(log: Path, exit_status: int) -> str:
    """Returns the last line of the last session that names an error, or the last one.

    A process that a signal ended wrote none.
    """
    if exit_status < 0:
        return f"killed by signal {-exit_status}: {signal.strsignal(-exit_status)}"
    lines: list[str] = []
    for line in _tail(log):
        lines = [] if line.startswith(SESSION_MARK) else [*lines, line.strip()]
    errors = [line for line in lines if _ERROR_LINE.match(line)]
    written = [line for line in lines if line]
    for line in reversed(errors or written):
        return line[:_MAX_ERROR_CHARACTERS]
    return f"ended with status {exit_status} and nothing in its log"


def _with_progress(
    status: Status, config: Mapping[str, Any], seeds: Sequence[Path]
) -> Status:
    rows = [_last_row(seed / METRICS_NAME) for seed in seeds]
    steps = [row.get("step", 0) for row in rows]
    seconds = [row.get("wall_seconds") or 0.0 for row in rows]
    try:
        total = (
            config["training.offline_updates"]
            + config["training.online_episodes"]
            * config["training.updates_per_episode"]
        )
    # Of a version with other keys.
    except KeyError:
        total = None
    return status._replace(updates=min(steps), total=total, minutes=max(seconds) / 60)


def _last_row(path: Path) -> dict:
    """Returns the last whole line of a seed's metrics, {} where there is none."""
    # One may be being written, and the tail cuts another in two.
    records = map(read_record, reversed(_tail(path)))
    return next(filter(None, records), {})


def _tail(path: Path) -> list[str]:
    """Returns the last lines of a file, none where it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def _is_locked(path: Path) -> bool:
    """Returns whether a process holds a file's lock.

    By taking it for an instant, shared: so that two who look do not see each other.
    """
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False
