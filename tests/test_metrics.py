"""The metrics file is whole and resumable; the terminal view never stops a run."""

import io
import json
import os
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moto_jax.running import metrics, provenance
from moto_jax.running.metrics import MetricsWriter
from moto_jax.running.terminal import TerminalView
from tests.programs import ROOT


def lines(run_dir) -> list[dict]:
    text = (run_dir / metrics.METRICS_NAME).read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def without_wall_time(records) -> list[dict]:
    return [
        {
            name: value
            for name, value in record.items()
            if not name.startswith(metrics.WALL_PREFIX)
        }
        for record in records
    ]


def write_steps(writer, steps) -> None:
    for step in steps:
        writer.write(step, "offline", {"loss": jnp.float32(1 / (step + 1))})


def test_one_json_object_a_line(tmp_path):
    with MetricsWriter(tmp_path / "run") as writer:
        writer.write(
            3,
            "offline",
            {"loss": jnp.float32(0.5), "rows": np.int64(7), "half": jnp.bfloat16(2)},
        )
        writer.write(np.int64(4), "online", {"return": 1.25, "done": True})
    first, second = lines(tmp_path / "run")
    assert first.pop("wall_seconds") >= 0
    assert first == {
        "step": 3,
        "phase": "offline",
        "loss": 0.5,
        "rows": 7.0,
        "half": 2.0,
    }
    assert without_wall_time([second]) == [
        {"step": 4, "phase": "online", "return": 1.25, "done": 1.0}
    ]


def test_every_line_is_on_disk_when_write_returns(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        write_steps(writer, [0])
        assert len(lines(tmp_path)) == 1
        write_steps(writer, [1])
        assert len(lines(tmp_path)) == 2


def test_numbers_that_are_not_finite_become_null(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(0, "offline", {"a": jnp.nan, "b": jnp.float32(jnp.inf), "c": 1.0})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (tmp_path / metrics.METRICS_NAME).read_text()
    record = json.loads(text, parse_constant=refuse)
    assert (record["a"], record["b"], record["c"]) == (None, None, 1.0)


def test_metrics_are_fetched_from_the_device_at_once(monkeypatch):
    fetches = []
    device_get = jax.device_get
    monkeypatch.setattr(
        jax, "device_get", lambda tree: fetches.append(1) or device_get(tree)
    )
    floats = metrics.to_floats({str(i): jnp.float32(i) for i in range(5)})
    assert floats == {str(i): float(i) for i in range(5)}
    assert all(type(value) is float for value in floats.values())
    assert len(fetches) == 1


@pytest.mark.parametrize("value", [jnp.zeros(2), "text", None, jnp.zeros(0)])
def test_what_is_not_one_number_is_named_and_not_written(tmp_path, value):
    with MetricsWriter(tmp_path) as writer:
        with pytest.raises(ValueError, match="metric 'odd'"):
            writer.write(0, "offline", {"odd": value})
    assert lines(tmp_path) == []


def test_reserved_names_are_refused(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        with pytest.raises(ValueError, match="'step' is reserved"):
            writer.write(0, "offline", {"step": 1.0})


def test_resumed_file_equals_that_of_an_unbroken_run(tmp_path):
    with MetricsWriter(tmp_path / "unbroken") as writer:
        write_steps(writer, range(10))
    with MetricsWriter(tmp_path / "resumed") as writer:
        write_steps(writer, range(7))
    # The checkpoint is of step 4: steps 5 and 6 are redone.
    with MetricsWriter(tmp_path / "resumed") as writer:
        writer.truncate_after(4)
        assert [record["step"] for record in lines(tmp_path / "resumed")] == [*range(5)]
        write_steps(writer, range(5, 10))
    unbroken, resumed = lines(tmp_path / "unbroken"), lines(tmp_path / "resumed")
    assert without_wall_time(resumed) == without_wall_time(unbroken)
    times = [record["wall_seconds"] for record in resumed]
    assert times == sorted(times)


def test_truncating_before_the_first_step_empties_the_file(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        write_steps(writer, [1, 2])
        writer.truncate_after(0)
        assert lines(tmp_path) == []
        write_steps(writer, [1])
    assert len(lines(tmp_path)) == 1


@pytest.mark.parametrize("kept_bytes", [1, 20, -1])
def test_a_line_cut_short_by_a_crash_is_removed(tmp_path, kept_bytes):
    path = tmp_path / metrics.METRICS_NAME
    with MetricsWriter(tmp_path) as writer:
        write_steps(writer, range(3))
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:2]) + whole[2][:kept_bytes])
    with MetricsWriter(tmp_path) as writer:
        write_steps(writer, [2])
    assert [record["step"] for record in lines(tmp_path)] == [0, 1, 2]


@pytest.mark.parametrize("damage", ["not json", "[1]", "{}", '{"step": 1}'])
def test_a_damaged_line_is_named(tmp_path, damage):
    path = tmp_path / metrics.METRICS_NAME
    with MetricsWriter(tmp_path) as writer:
        write_steps(writer, range(2))
    damaged = path.read_text() + damage + "\n"
    path.write_text(damaged)
    with pytest.raises(ValueError, match="line 3 of .*metrics.jsonl"):
        MetricsWriter(tmp_path)
    assert path.read_text() == damaged


def test_a_write_that_fails_half_way_leaves_whole_lines(tmp_path, monkeypatch):
    write = os.write

    def full_disk(descriptor, data):
        if len(data) < 10:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[: len(data) // 2])

    with MetricsWriter(tmp_path) as writer:
        write_steps(writer, [0])
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full_disk)
            with pytest.raises(OSError, match="No space left"):
                write_steps(writer, [1])
        assert [record["step"] for record in lines(tmp_path)] == [0]
        write_steps(writer, [1])
    assert [record["step"] for record in lines(tmp_path)] == [0, 1]


@pytest.fixture(autouse=True)
def no_colour_settings(monkeypatch):
    """What the tests' own terminal asks of rich is not what is tested."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


class Stream(io.StringIO):
    def __init__(self, terminal: bool):
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make_view(terminal: bool, **options) -> tuple[TerminalView, io.StringIO, Clock]:
    stream, clock = Stream(terminal), Clock()
    return TerminalView(stream=stream, clock=clock, **options), stream, clock


def test_plain_lines_where_there_is_no_terminal():
    view, stream, clock = make_view(
        False, total_steps=100, names=("loss", "objects_completed"), line_seconds=10
    )
    with view:
        for step in range(0, 101, 2):
            view.show(step, "offline", {"loss": jnp.float32(step), "unseen": step})
            clock.now += 1
    printed = stream.getvalue()
    assert "\x1b" not in printed and "unseen" not in printed
    rows = printed.splitlines()
    # One at the start, one each ten seconds (20 steps), of which the last is the end.
    assert [row.split("  ")[1] for row in rows] == [
        f"step {step}/100" for step in range(0, 101, 20)
    ]
    assert rows[1] == (
        "[offline]  step 20/100  updates/s 2  remaining 0:00:40  loss 20"
    )


def test_the_place_in_an_evaluation_is_told_and_its_time_is_not_that_of_updates():
    view, stream, clock = make_view(False, total_steps=100, line_seconds=10)
    with view:
        for step in range(20):
            view.show(step, "offline")
            clock.now += 1
        for played in range(1, 31):
            view.show(20, "evaluation", place={"episode": f"{played}/30"})
            clock.now += 1
        for step in range(20, 32):
            view.show(step, "offline")
            clock.now += 0.5
    rows = stream.getvalue().splitlines()
    assert rows == [
        "[offline]  step 0/100",
        "[offline]  step 10/100  updates/s 1  remaining 0:01:30",
        "[evaluation]  step 20/100  episode 1/30",
        "[evaluation]  step 20/100  episode 11/30",
        "[evaluation]  step 20/100  episode 21/30",
        "[offline]  step 20/100",
    ]
    clock.now += 4
    view.show(40, "offline")
    assert "updates/s 2  " in stream.getvalue().splitlines()[-1]


def test_the_episodes_of_the_last_evaluation_are_not_each_a_line():
    view, stream, clock = make_view(False, total_steps=4, line_seconds=10)
    with view:
        for played in range(1, 31):
            view.show(4, "evaluation", place={"episode": f"{played}/30"})
            clock.now += 1
    episodes = [row.split("  ")[-1] for row in stream.getvalue().splitlines()]
    assert episodes == ["episode 1/30", "episode 11/30", "episode 21/30"]


def test_a_new_phase_and_the_end_are_always_printed():
    view, stream, _ = make_view(False, total_steps=4, line_seconds=1e9)
    with view:
        for step, phase in enumerate(["offline", "offline", "online", "online"], 1):
            view.show(step, phase)
        view.message("checkpoint 4 saved")
    assert [row.split("  ")[0] for row in stream.getvalue().splitlines()] == [
        "[offline]",
        "[online]",
        "[online]",
        "checkpoint 4 saved",
    ]


def test_live_panel_on_a_terminal_shows_the_newest_numbers():
    view, stream, _ = make_view(True, total_steps=50, names=("loss",))
    with view:
        view.show(49, "online", {"loss": 0.125})
        view.message("evaluated")
        view.show(50, "online")
    printed = stream.getvalue()
    assert "50/50" in printed and "0.125" in printed and "evaluated" in printed
    assert "[online]" not in printed


def test_a_terminal_that_cannot_redraw_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    view, stream, _ = make_view(True, total_steps=2)
    with view:
        view.show(2, "offline")
    assert stream.getvalue().startswith("[offline]  step 2/2")


class BrokenStream(Stream):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def test_no_line_is_wider_than_a_dumb_terminal(monkeypatch):
    """What has no room is left to the files; a pipe gets all."""
    names = [f"model/a_long_name_of_a_loss_{number}" for number in range(8)]
    # What is short has room behind what has none.
    names += ["objects"]
    numbers = dict.fromkeys(names, 1.0)
    monkeypatch.setenv("TERM", "dumb")
    widths = {}
    for terminal in (True, False):
        view, stream, _ = make_view(terminal, total_steps=4, names=names)
        with view:
            view.show(1, "offline", numbers)
        (line,) = stream.getvalue().splitlines()
        assert line.startswith("[offline]  step 1/4  model/a_long_name_of_a_loss_0 1")
        assert line.endswith("  objects 1")
        widths[terminal] = len(line)
    # Which are taken for 80 columns wide, all of them.
    assert widths[True] < 80 < 8 * 30 < widths[False]


@pytest.mark.parametrize("columns", [80, 200])
def test_the_panel_fits_the_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    names = ("actor/behaviour_loss", "sampled/objects")
    view, stream, _ = make_view(True, total_steps=4, names=names)
    with view:
        view.show(1, "evaluation offline", dict.fromkeys(names, -1.2345e-10))
    drawn = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", stream.getvalue())
    assert "sampled/objects" in drawn
    assert max(map(len, re.split(r"[\r\n]", drawn))) <= columns


@pytest.mark.parametrize("terminal", [False, True])
def test_a_broken_terminal_does_not_stop_the_run(terminal, caplog):
    with TerminalView(10, stream=BrokenStream(terminal)) as view:
        for step in range(11):
            view.show(step, "offline", {})
            view.message("still here")
    (message,) = caplog.messages
    assert "the run goes on" in message


def test_versions_name_what_changes_results():
    found = provenance.versions()
    assert found["jax"] == jax.__version__
    assert found["numpy"] == np.__version__
    assert {"python", "flax", "optax", "mujoco"} <= found.keys()
    json.dumps(found)


def test_the_commit_is_that_of_these_sources(tmp_path):
    def git(directory, *words):
        command = ["git", "-C", str(directory), *words]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    own = shutil.which("git") and git(ROOT, "rev-parse", "--show-toplevel")
    if own != str(ROOT):
        assert provenance.commit() is None
        return
    found = provenance.commit()
    assert found is not None
    assert found.removesuffix("-dirty") == git(ROOT, "rev-parse", "HEAD")
    # A copy inside another project's tree is not of that project's commit.
    shutil.copytree(ROOT / "moto_jax", tmp_path / "inner" / "moto_jax")
    git(tmp_path, "init")
    program = "from moto_jax.running import provenance; print(provenance.commit())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path / "inner",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "None\n"


def test_hardware_is_json_with_positive_counts():
    found = provenance.hardware()
    assert found["cpu"] and found["cores"] >= 1 and found["memory_gb"] > 0
    json.dumps(found)


def test_peak_memory_grows_with_what_was_held():
    before = provenance.peak_rss_bytes()
    # More than there ever was; what other tests left and was freed may be in the peak.
    held = np.ones(before + 2**24, np.uint8)
    assert held[-1] == 1
    assert len(held) <= provenance.peak_rss_bytes() <= before + 1.5 * len(held)
