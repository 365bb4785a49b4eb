"""Parts of a report, each a process that may take so long and no longer."""

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """A finding of a part, as it is written."""

    part: str
    name: str
    value: str
    unit: str


def run_part(name: str, command: Sequence[str], limit: float) -> Iterator[Row]:
    """Yields what a part's process finds, until it ends or its time is over.

    Args:
      name: of the part.
      command: prints a finding a line as JSON, and anything else on standard error.
      limit: seconds after which it is killed, with whatever it has started.
    """
    start = time.monotonic()
    late = threading.Event()
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            # So that its workers end with it.
            start_new_session=True,
        ) as process,
    ):

        def kill() -> None:
            late.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(limit, kill)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                finding = json.loads(line)
                value = finding["value"]
                written = value if isinstance(value, str) else f"{value:.4g}"
                yield Row(name, finding["name"], written, finding["unit"])
            process.wait()
        finally:
            timer.cancel()
            if process.poll() is None:
                kill()
        errors.seek(0)
        said = errors.read().split("\n")
    took = time.monotonic() - start
    if late.is_set():
        yield Row(name, "stopped, its time was over", f"{took:.0f}", "s")
    elif process.returncode:
        last = next((line.strip() for line in reversed(said) if line.strip()), "")
        yield Row(name, f"failed with {process.returncode}", last, "")
    else:
        yield Row(name, "took", f"{took:.0f}", "s")
