"""R8: data sets that are wrong; R13: files that would run something."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from experiments.soak.corpus import CORPUS
from experiments.soak.trials import Lost, Outcome

_MEMORY, _SECONDS = 500 * 10**6, 2.0


def read_apart(reader: str, path: Path) -> dict[str, Any]:
    """Reads in a process of its own; returns the report of `reading.main`."""
    done = subprocess.run(
        [sys.executable, "-m", "experiments.soak.reading", reader, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode:
        raise Lost(f"the reader ended with {done.returncode}: {done.stderr[-300:]}")
    return json.loads(done.stdout.splitlines()[-1])


def malformed(number: int, directory: Path) -> Outcome:
    """R8: is refused in one sentence, in little memory and time."""
    case = CORPUS[number % len(CORPUS)]
    report = read_apart(case.reader, case.make(directory))
    said = f"{case.name}: {report['error'] or 'accepted'}: {report['said'][:300]}"
    missing = [word for word in case.told if word not in report["said"]]
    if report["error"] != "DatasetError":
        raise Lost(said)
    if missing or "\n" in report["said"]:
        raise Lost(f"{said}; it does not name {', '.join(missing)} in one line")
    if report["rss"] > _MEMORY:
        raise Lost(f"{said}; {report['rss'] / 1e6:.0f} MB")
    if report["seconds"] > _SECONDS:
        raise Lost(f"{said}; {report['seconds']:.1f} s")
    return Outcome(said)
