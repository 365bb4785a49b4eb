"""One run of a sweep: its command, its process, and the files beside its directory.

OUT/NAME/        the run's own directory, written by experiments.run
OUT/NAME.log     what all its sessions printed; locked while one of them goes on
OUT/NAME.exit    the status that the last session ended with
OUT/NAME.job     the number of the cluster's job that was last submitted for it
"""

import contextlib
import dataclasses
import fcntl
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PROGRAM = (sys.executable, "-m", "experiments.run")

# Statuses of a run that was asked to stop and goes on from where it was. One that is
# asked before it listens ends by the signal itself.
STOPPED = frozenset(
    status
    for number in (signal.SIGTERM, signal.SIGINT)
    for status in (128 + number, -number)
)

# Begins the line above each session in the log.
SESSION_MARK = "$ "


class InUseError(OSError):
    """A run that another process trains; the message says which."""


@dataclasses.dataclass(frozen=True)
class SweepRun:
    """A run of a sweep: one program that trains some seeds of one setting.

    Attributes:
      workdir: its directory, whose name is the run's.
      config: file and size, such as "experiments/configs/mixed.py:cpu".
      overrides: key of the configuration -> value, both as on a command line.
      program: the words before the flags.
    """

    workdir: Path
    config: str
    overrides: Mapping[str, str]
    program: tuple[str, ...] = PROGRAM

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.workdir.name

    @property
    def command(self) -> list[str]:
        """The words that start the run, or take it up."""
        flags = [f"--config.{key}={value}" for key, value in self.overrides.items()]
        return [
            *self.program,
            f"--config={self.config}",
            *flags,
            f"--workdir={self.workdir}",
        ]

    @property
    def log(self) -> Path:
        """The file of what it printed."""
        return self.workdir.with_name(f"{self.name}.log")

    @property
    def exit_file(self) -> Path:
        """The file of the status that its last session ended with."""
        return self.workdir.with_name(f"{self.name}.exit")

    @property
    def job_file(self) -> Path:
        """The file of the number of its last job on a cluster."""
        return self.workdir.with_name(f"{self.name}.job")


class Session:
    """A process that trains a run, from its start to the record of its end.

    Attributes:
      run: what it trains.
      process: leads a process group of its own, so that Ctrl-C in a terminal reaches
        the launcher alone. A run takes one signal as a wish and the second as an order.

    Raises:
      InUseError: if another process trains the run.
      OSError: if it cannot be started.
    """

    def __init__(self, run: SweepRun) -> None:
        self.run = run
        run.workdir.parent.mkdir(parents=True, exist_ok=True)
        self._log = run.log.open("ab")
        try:
            self._claim()
            run.exit_file.unlink(missing_ok=True)
            self._log.write(f"{SESSION_MARK}{shlex.join(run.command)}\n".encode())
            self._log.flush()
            self.process = subprocess.Popen(
                run.command,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                # What is printed last shall be last in the log.
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                process_group=0,
            )
        except BaseException:
            self._log.close()
            raise

    def _claim(self) -> None:
        """Locks the log; the process inherits the lock, and keeps it if we are killed.

        The run's own lock comes seconds later, when its program has been loaded. It
        says so where the file system has none.
        """
        try:
            fcntl.flock(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(f"another process trains {self.run.workdir}") from None
        except OSError:
            pass

    def finish(self) -> int:
        """Waits for the end and records it; returns its status as `Popen` has it."""
        status = self.process.wait()
        temporary = self.run.exit_file.with_suffix(".tmp")
        temporary.write_text(f"{status}\n")
        temporary.replace(self.run.exit_file)
        # Processes that the run left behind may have inherited the lock.
        with contextlib.suppress(OSError):
            fcntl.flock(self._log, fcntl.LOCK_UN)
        self._log.close()
        return status
