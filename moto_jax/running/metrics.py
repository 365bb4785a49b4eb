"""The record of a run's numbers: metrics.jsonl, written whatever else shows them.

It holds one JSON object a line with `step`, `phase`, `wall_seconds` and the
numbers of that step. Keys that begin with `wall_` depend on the machine and the hour;
all others are equal in two runs of one program, and in an interrupted and an unbroken
run.
"""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from moto_jax.data.files import of_file
from moto_jax.run_layout import METRICS_NAME, read_record

WALL_PREFIX = "wall_"

_RESERVED = ("step", "phase", "wall_seconds")


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

    def __init__(self, run_dir: str | os.PathLike[str]):
        """Opens the file; a line that a crash cut short is removed.

        Args:
          run_dir: the run's directory; made where missing.

        Raises:
          ValueError: if the file is damaged.
        """
        self._run_dir = Path(run_dir)
        self._run_dir.mkdir(parents=True, exist_ok=True)
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

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _append(self, line: bytes) -> None:
        end = os.fstat(self._descriptor).st_size
        try:
            # A full disk takes the first bytes of a line, and says so by the count.
            while line:
                line = line[os.write(self._descriptor, line) :]
            os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, end)
            raise of_file(error, self._run_dir / METRICS_NAME) from None

    def _keep_up_to(self, step: float) -> None:
        """Cuts the file before the first record after `step` or an unfinished line."""
        path = self._run_dir / METRICS_NAME
        kept, last = 0, None
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
            if not line.endswith(b"\n"):
                break
            record = read_record(line)
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
    records = map(read_record, path.read_bytes().splitlines())
    return max((int(record["step"]) for record in records if record), default=-1)
