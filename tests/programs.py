"""The project's programs, as a user starts them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_program(
    name: str, *flags: str, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m experiments.NAME` to its end in a process of its own."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"experiments.{name}", *flags],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def assert_refused(done: subprocess.CompletedProcess[str], culprit: str) -> None:
    """What is wrong takes one line, which names the culprit."""
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert culprit in done.stderr
