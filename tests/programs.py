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
    return run_python("-m", f"experiments.{name}", *flags, cwd=cwd)


def run_python(
    *words: str, cwd: Path, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Runs Python to its end in a process of its own, which sees these sources."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def assert_refused(done: subprocess.CompletedProcess[str], culprit: str) -> None:
    """What is wrong takes one line, which names the culprit."""
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert culprit in done.stderr


def assert_free_of_jax(*statements: str) -> None:
    """What the statements import in a process of its own is nothing of JAX."""
    last = "print(sorted({'jax', 'flax', 'jaxlib'} & set(sys.modules)))"
    path = os.pathsep.join([str(ROOT), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(["import sys", *statements, last])],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.strip() == "[]"
