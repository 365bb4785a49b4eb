"""Sinks get every line that metrics.jsonl has, and can cost neither it nor the run."""

import importlib.util
import json
import math
import os
import signal
import struct
import subprocess
import sys
import types
from pathlib import Path

import pytest

from moto_jax.run_layout import CONFIG_NAME, METRICS_NAME
from moto_jax.running import sinks, training
from moto_jax.running.metrics import MetricsWriter
from moto_jax.running.recording import Recorder
from moto_jax.running.sinks import SINKS, sink_names
from moto_jax.study import runs
from tests.fake_training import install, metrics_lines, on_update, refused, small_config

ROOT = Path(__file__).parents[1]
PLACES = ("open", "write", "close")

tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboardX") is None,
    reason="the tensorboard extra is not installed",
)


@pytest.fixture
def fakes(monkeypatch, pool):
    install(monkeypatch.setattr, pool)


class FakeSink:
    """Keeps what it is given; raises in one place, if any, from a step on."""

    def __init__(self, directory, first_step, fails="", at=0):
        self.directory, self.first_step = directory, first_step
        self.fails, self.at = fails, at
        self.lines, self.closed = [], 0
        self._pass("open", math.inf)

    def _pass(self, place, step):
        if place == self.fails and step >= self.at:
            raise ConnectionError(f"nobody at {place}\nand more of it")

    def write(self, step, phase, numbers):
        self._pass("write", step)
        self.lines.append((step, phase, dict(numbers)))

    def close(self):
        self.closed += 1
        self._pass("close", math.inf)


@pytest.fixture
def fake(monkeypatch):
    """Registers a fake sink; returns where its instances come to be."""

    def register(name="fake", **options):
        made = []

        def make(directory, first_step):
            made.append(FakeSink(directory, first_step, **options))
            return made[-1]

        monkeypatch.setitem(SINKS, name, make)
        return made

    return register


def directories_of(tmp_path, count=2):
    """Returns directories as seeds have them, once their numbers are written."""
    directories = [tmp_path / "run" / f"seed{seed}" for seed in range(count)]
    for seed, directory in enumerate(directories):
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"seeds": [seed], "moto": {"alpha": 2.5}})
        (directory / CONFIG_NAME).write_text(text)
    (tmp_path / "run" / CONFIG_NAME).write_text(json.dumps({"seeds": [0, 1]}))
    return directories


def record(directories, names, steps, truncate_after=-1):
    """Writes, for each seed, its index and the step."""
    with Recorder(directories, 100, (), names) as recorder:
        recorder.truncate_after(truncate_after)
        for step in steps:
            by_seed = [
                {"seed": float(index), "loss": step / 2, "bad": math.nan}
                for index in range(len(directories))
            ]
            recorder.write(step, "offline", by_seed)


def steps_of(directory):
    return [line["step"] for line in metrics_lines(directory)]


def warnings_of(caplog):
    return [entry.getMessage() for entry in caplog.records if entry.levelname != "INFO"]


def test_names_are_separated_by_commas_and_taken_once(fake):
    fake("one"), fake("two")
    assert sink_names("") == ()
    assert sink_names("one") == ("one",)
    assert sink_names("two, one,two,") == ("two", "one")


def test_each_seed_has_sinks_of_its_own_that_get_what_is_finite(tmp_path, fake):
    made = fake()
    directories = directories_of(tmp_path)
    record(directories, ["fake"], range(3))
    assert [sink.directory for sink in made] == directories
    assert [sink.closed for sink in made] == [1, 1]
    for seed, sink in enumerate(made):
        assert sink.lines == [
            (step, "offline", {"seed": float(seed), "loss": step / 2})
            for step in range(3)
        ]
        assert [line["bad"] for line in metrics_lines(directories[seed])] == [None] * 3


def test_a_line_is_on_the_disk_before_a_sink_sees_it(tmp_path, monkeypatch):
    (directory,) = directories_of(tmp_path, 1)
    seen = []

    class Reader(FakeSink):
        def write(self, step, phase, numbers):
            seen.append(steps_of(self.directory))

    monkeypatch.setitem(SINKS, "reader", Reader)
    record([directory], ["reader"], range(2))
    assert seen == [[0], [0, 1]]


def test_a_sink_knows_from_which_step_on_lines_are_redone(tmp_path, fake):
    made = fake()
    directories = directories_of(tmp_path, 1)
    record(directories, ["fake"], range(3))
    record(directories, ["fake"], range(2, 4), truncate_after=1)
    assert [sink.first_step for sink in made] == [0, 2]
    assert steps_of(directories[0]) == [0, 1, 2, 3]


@pytest.mark.parametrize("fails", PLACES)
def test_a_sink_that_fails_is_named_once_and_switched_off(
    tmp_path, fake, caplog, fails
):
    bad, good = fake("bad", fails=fails, at=2), fake("good")
    directories = directories_of(tmp_path)
    record(directories, ["bad", "good"], range(6))
    assert all(steps_of(directory) == [*range(6)] for directory in directories)
    assert [len(sink.lines) for sink in good] == [6, 6]
    taken = {"open": 0, "write": 2, "close": 6}[fails]
    assert [len(sink.lines) for sink in bad] == [taken] * len(bad)
    # One that could not be opened is not opened again.
    assert len(bad) == (0 if fails == "open" else 2)
    assert [sink.closed for sink in bad] == [1] * len(bad)
    messages = sorted(warnings_of(caplog))
    for message, directory in zip(messages, directories, strict=True):
        assert f"the sink bad of {directory} is switched off: " in message
        assert f"ConnectionError: nobody at {fails};" in message
        assert "\n" not in message


def test_a_sink_that_cannot_even_be_closed_is_named_once(tmp_path, monkeypatch, caplog):
    class Bad(FakeSink):
        def write(self, step, phase, numbers):
            raise OSError(28, "No space left on device")

        def close(self):
            raise OSError(28, "No space left on device")

    monkeypatch.setitem(SINKS, "bad", Bad)
    (directory,) = directories_of(tmp_path, 1)
    record([directory], ["bad"], range(4))
    (message,) = warnings_of(caplog)
    assert "No space left on device" in message
    assert steps_of(directory) == [0, 1, 2, 3]


def test_an_interrupt_is_no_failure_of_a_sink(tmp_path, monkeypatch, caplog):
    class Interrupted(FakeSink):
        def write(self, step, phase, numbers):
            raise KeyboardInterrupt

    monkeypatch.setitem(SINKS, "slow", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        record(directories_of(tmp_path, 1), ["slow"], range(2))
    assert not warnings_of(caplog)


def test_the_record_failing_ends_the_run_whatever_the_sinks_do(
    tmp_path, fake, monkeypatch
):
    made = fake()

    def full(self, line):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MetricsWriter, "_append", full)
    with pytest.raises(OSError, match="No space left"):
        record(directories_of(tmp_path, 1), ["fake"], range(2))
    assert not made


# A run's training with sinks.


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        ("nowhere", "unknown sink 'nowhere'"),
        ("tensorboard", r"pip install 'moto-jax\[tensorboard\]'"),
        ("wandb", r"pip install 'moto-jax\[wandb\]'"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_anything_is_written(
    tmp_path, fakes, monkeypatch, wanted, complaint
):
    for package in ("tensorboardX", "wandb"):
        monkeypatch.setitem(sys.modules, package, None)
    config = small_config()
    config.sinks = wanted
    with pytest.raises(ValueError, match=complaint) as error:
        training.train(config, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_package_that_is_there_but_broken_is_refused(monkeypatch):
    def broken(name):
        raise TypeError("Descriptors cannot be created directly.\nmore")

    monkeypatch.setattr(sinks.importlib, "import_module", broken)
    with pytest.raises(ValueError, match="Descriptors cannot be created directly"):
        sink_names("wandb")


@pytest.mark.parametrize("fails", PLACES)
def test_a_run_whose_sink_fails_is_the_run_without_one(tmp_path, fakes, fake, fails):
    fake("bad", fails=fails, at=3)
    made = fake("good")
    training.train(small_config(), tmp_path / "plain")
    config = small_config()
    config.sinks = "bad,good"
    assert training.train(config, tmp_path / "run") is None
    plain = metrics_lines(tmp_path / "plain")
    assert metrics_lines(tmp_path / "run") == plain
    names = [
        sorted(path.name for path in (tmp_path / run).iterdir())
        for run in ("plain", "run")
    ]
    assert names[0] == names[1]
    # Every line's numbers, under the names that they have in the file.
    (sink,) = made
    assert [
        {"step": step, "phase": phase, **numbers} for step, phase, numbers in sink.lines
    ] == [
        {key: value for key, value in line.items() if value is not None}
        for line in plain
    ]


def stopped_run(workdir, config):
    def act(done):
        if done == 6:
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as monkeypatch:
        on_update(monkeypatch.setattr, act)
        assert training.train(config, workdir) == signal.SIGTERM


def test_a_run_may_be_taken_up_with_other_sinks(tmp_path, fakes, fake):
    made = fake()
    stopped_run(tmp_path, small_config())
    config = small_config()
    config.sinks = "fake"
    assert training.train(config, tmp_path) is None
    (sink,) = made
    assert sink.first_step == 7
    later = [line["step"] for line in metrics_lines(tmp_path) if line["step"] > 6]
    assert [step for step, *_ in sink.lines] == later and later


@pytest.mark.parametrize("chosen", [True, False])
def test_a_run_from_before_there_were_sinks_is_taken_up(tmp_path, fakes, chosen):
    stopped_run(tmp_path, small_config())
    path = tmp_path / CONFIG_NAME
    config = json.loads(path.read_text())
    del config["sinks"]
    path.write_text(json.dumps(config | {"tensorboard": chosen}))
    # Anything else is compared as ever.
    other = small_config(max_skipped=3)
    assert "config.training.max_skipped" in refused(tmp_path, ValueError, other)
    assert training.train(small_config(), tmp_path) is None
    assert "tensorboard" not in runs.read_config(tmp_path)


# TensorBoard.


def events_of(path):
    """Returns the events of a file, of whole records alone."""
    from tensorboardX.proto.event_pb2 import Event

    data, events = path.read_bytes(), []
    while len(data) >= 12:
        (length,) = struct.unpack("<Q", data[:8])
        if len(data) < 16 + length:
            break
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return events


@tensorboard
def test_tensorboard_gets_an_event_file_each_time(tmp_path):
    (directory,) = directories_of(tmp_path, 1)
    record([directory], ["tensorboard"], range(3))
    # In the same second, perhaps.
    record([directory], ["tensorboard"], range(2, 5), truncate_after=1)
    paths = sorted((directory / "tensorboard").glob("events.out.tfevents.*"))
    assert len(paths) == 2
    for path, steps in zip(paths, (range(3), range(2, 5)), strict=True):
        version, start, *lines = events_of(path)
        assert version.file_version == "brain.Event:2"
        # What readers hide of older files.
        assert start.session_log.status == start.session_log.START
        assert start.step == steps[0]
        assert [line.step for line in lines] == [*steps]
        for line in lines:
            values = {value.tag: value.simple_value for value in line.summary.value}
            assert values == {"offline/seed": 0.0, "offline/loss": line.step / 2}


@tensorboard
def test_tensorboard_has_a_line_when_write_returns(tmp_path):
    (directory,) = directories_of(tmp_path, 1)
    with Recorder([directory], 10, (), ["tensorboard"]) as recorder:
        recorder.write(3, "evaluation offline", [{"loss": 1.5}])
        (path,) = (directory / "tensorboard").iterdir()
        (value,) = events_of(path)[-1].summary.value
        assert value.tag == "evaluation_offline/loss"


# No file of this process may pass 30 kB, which the events reach first: they repeat the
# phase with every number.
FULL_DISK = """
import resource, sys
from pathlib import Path
from moto_jax.running.recording import Recorder
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
with Recorder([Path(sys.argv[1])], 50, (), ["tensorboard"]) as recorder:
    for step in range(50):
        recorder.write(step, "phase" * 40, [{name: 0.5 for name in "abcdefghij"}])
print("the run goes on to its end")
"""


@tensorboard
def test_a_disk_that_is_full_of_events_does_not_stop_the_run(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("to its end")
    # Nothing of threads, nor at exit: one warning that names place and cause.
    warnings = [line for line in done.stderr.splitlines() if "switched off" in line]
    assert len(warnings) == 1
    assert f"the sink tensorboard of {tmp_path} is" in warnings[0]
    assert "File too large" in warnings[0] and "Traceback" not in done.stderr
    assert steps_of(tmp_path) == [*range(50)]
    (events,) = (tmp_path / "tensorboard").iterdir()
    whole = [event.step for event in events_of(events)[2:]]
    assert whole == [*range(len(whole))] and 10 < len(whole) < 50


# Weights & Biases.


@pytest.fixture
def fake_wandb(monkeypatch):
    """A module in wandb's place; returns the runs that it was asked for."""
    asked = []

    class Run:
        def __init__(self, step, options):
            self.step, self.options = step, options
            self.lines, self.finished = [], 0

        def log(self, numbers, step):
            self.lines.append((step, dict(numbers)))

        def finish(self):
            self.finished += 1

    def init(**options):
        # As wandb does: a run that it goes on with is behind its last step.
        before = [run for run in asked if run.options["id"] == options["id"]]
        step = before[-1].lines[-1][0] + 1 if before and options["resume"] else 0
        asked.append(Run(step, options))
        return asked[-1]

    module = types.ModuleType("wandb")
    fields = {
        "init": init,
        "Settings": dict,
        "login": lambda prompt: False,
        "setup": lambda: types.SimpleNamespace(
            settings=types.SimpleNamespace(mode=os.environ.get("WANDB_MODE", "online"))
        ),
    }
    for name, value in fields.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return asked


def test_wandb_gets_a_run_for_each_seed(tmp_path, fake_wandb):
    directories = directories_of(tmp_path)
    record(directories, sink_names("wandb"), range(3))
    assert len({run.options["id"] for run in fake_wandb}) == 2
    for seed, run in enumerate(fake_wandb):
        options = run.options
        assert (options["name"], options["group"]) == (f"run-seed{seed}", "run")
        assert options["dir"] == str(directories[seed])
        assert options["config"] == {"seeds": [seed], "moto": {"alpha": 2.5}}
        assert (options["project"], options["resume"]) == ("moto-jax", None)
        assert run.finished == 1
        assert run.lines == [
            (step, {"offline/seed": float(seed), "offline/loss": step / 2})
            for step in range(3)
        ]


def test_wandb_goes_on_with_its_run_and_takes_no_step_twice(tmp_path, fake_wandb):
    directories = directories_of(tmp_path, 1)
    record(directories, ["wandb"], range(5))
    record(directories, ["wandb"], range(3, 8), truncate_after=2)
    first, second = fake_wandb
    assert second.options["id"] == first.options["id"]
    assert second.options["resume"] == "allow"
    steps = [step for run in fake_wandb for step, _ in run.lines]
    assert steps == [*range(8)]
    # A run that starts anew is another.
    record(directories, ["wandb"], range(2))
    assert fake_wandb[2].options["id"] != first.options["id"]
    assert [step for step, _ in fake_wandb[2].lines] == [0, 1]


def test_a_sink_that_is_new_to_a_run_begins_where_the_run_is(tmp_path, fake_wandb):
    directories = directories_of(tmp_path, 1)
    record(directories, [], range(3))
    record(directories, ["wandb"], range(3, 5), truncate_after=2)
    (run,) = fake_wandb
    assert run.options["resume"] is None
    assert [step for step, _ in run.lines] == [3, 4]


def test_wandb_never_asks_who_is_there(tmp_path, fake_wandb, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "online")
    directories = directories_of(tmp_path, 1)
    record(directories, ["wandb"], range(3))
    (message,) = warnings_of(caplog)
    assert "nobody is logged in: do `wandb login`" in message
    assert not fake_wandb and steps_of(directories[0]) == [0, 1, 2]


# Two seeds, taken up once.
OFFLINE_WANDB = """
import sys
from pathlib import Path
from moto_jax.running.recording import Recorder
from moto_jax.running.sinks import sink_names
directories = [Path(path) for path in sys.argv[1:]]
for first in (0, 3):
    with Recorder(directories, 10, (), sink_names("wandb")) as recorder:
        recorder.truncate_after(first - 1)
        for step in range(first, first + 3):
            recorder.write(step, "offline", [{"loss": 0.5, "bad": float("nan")}] * 2)
"""


@pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None, reason="the wandb extra is not installed"
)
def test_wandb_itself_writes_offline(tmp_path):
    directories = directories_of(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE_WANDB, *map(str, directories)],
        cwd=ROOT,
        env={**os.environ, "HOME": str(tmp_path), "WANDB_MODE": "offline"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "switched off" not in done.stderr and "Traceback" not in done.stderr
    ids = set()
    for directory in directories:
        assert steps_of(directory) == [*range(6)]
        name = (directory / "wandb" / "moto_run_id").read_text()
        ids.add(name)
        files = [*directory.glob(f"wandb/offline-run-*-{name}/run-{name}.wandb")]
        assert len(files) == len([*directory.glob("wandb/offline-run-*")]) == 2
        for file in files:
            data = file.read_bytes()
            assert b"offline/loss" in data and b"offline/bad" not in data
    assert len(ids) == 2
    assert not (ROOT / METRICS_NAME).exists() and not (ROOT / "wandb").exists()
