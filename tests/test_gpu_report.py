"""The report of a GPU: parts end in time, and what they found is not lost."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.benchmarks.report_parts import Finding, idle_share, parts
from experiments.benchmarks.timed_parts import Row, run_part

ROOT = Path(__file__).parents[1]


def program(*lines):
    return [sys.executable, "-c", "\n".join(lines)]


def found(name, value, unit=""):
    return f"print({json.dumps(Finding(name, value, unit)._asdict())!r}, flush=True)"


def test_findings_come_as_they_are_found():
    command = program(
        "import sys",
        "print('compiling', file=sys.stderr)",
        found("update", 1.23456, "ms"),
        found("card", "an H200"),
    )
    *rows, last = run_part("gpu", command, 60)
    assert rows == [
        Row("gpu", "update", "1.235", "ms"),
        Row("gpu", "card", "an H200", ""),
    ]
    assert last.name == "took"


def test_a_part_that_takes_too_long_is_killed_with_what_it_started(tmp_path):
    child = tmp_path / "child"
    command = program(
        "import subprocess, sys, time",
        "child = subprocess.Popen([sys.executable, '-c', 'import time; "
        "time.sleep(90)'])",
        f"open({str(child)!r}, 'w').write(str(child.pid))",
        found("update", 2.0),
        "time.sleep(90)",
    )
    start = time.monotonic()
    rows = list(run_part("gpu", command, 3))
    assert [row.name for row in rows] == ["update", "stopped, its time was over"]
    assert time.monotonic() - start < 60
    number = int(child.read_text())
    for _ in range(100):
        if not alive(number):
            break
        time.sleep(0.1)
    assert not alive(number)


def alive(number):
    """Whether a process runs; one that nobody waited for has ended all the same."""
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_part_that_fails_says_why_and_keeps_what_it_found():
    command = program(found("update", 2.0), "raise RuntimeError('out of memory')")
    first, last = run_part("gpu", command, 60)
    assert first.value == "2"
    assert last == Row("gpu", "failed with 1", "RuntimeError: out of memory", "")


def test_the_idle_share_by_hand():
    # Busy from 0 to 3 and from 5 to 10, the last within: 2 of 10 idle.
    spans = [(5.0, 5.0), (0.0, 2.0), (1.0, 2.0), (6.0, 1.0)]
    assert idle_share(spans) == pytest.approx(0.2)
    assert idle_share([(3.0, 4.0)]) == 0.0
    assert idle_share([]) == 1.0


def test_every_part_has_its_time_and_a_rehearsal_has_a_part_of_each_kind():
    kinds = [
        {name.split(" of ")[0].split(", ")[-1] for name in parts(rehearse, 15)}
        for rehearse in (True, False)
    ]
    assert kinds[0] <= kinds[1]
    assert all(limit > 15 for limit, _ in parts(False, 15).values())


@pytest.mark.slow
@pytest.mark.kitchen
def test_a_rehearsal_finds_all_there_is(tmp_path):
    out = tmp_path / "gpu"
    subprocess.run(
        [sys.executable, "-m", "experiments.gpu_report", "--rehearse", f"--out={out}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=600,
    )
    with out.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    names = [row["name"] for row in rows]
    assert not [row for row in rows if row["name"].startswith(("failed", "stopped"))]
    assert names.count("took") == len(parts(True, 2))
    assert {"machine", "update", "compiled", "idle", "kernels"} <= set(names)
    assert any(name.startswith("mean policy after") for name in names)
    assert out.with_suffix(".md").read_text().count("\n## ") == len(parts(True, 2))
