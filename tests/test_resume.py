"""A run that is interrupted, however, ends as the unbroken one does, bit for bit."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from moto_jax.acting import collection
from moto_jax.acting.environment_seeds import Purpose, environment_seed
from moto_jax.acting.worker_pool import WorkerError
from moto_jax.data.episodes import DatasetError
from moto_jax.run_layout import RunError
from moto_jax.running import checkpoints, loop, players, provenance, training
from moto_jax.running.checkpoints import CheckpointError
from tests.fake_training import (
    OFFLINE,
    TOTAL,
    UPDATES,
    install,
    make_fake_agent,
    metrics_lines,
    on_line,
    on_update,
    outcome,
    refused,
    small_config,
)

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def fakes(monkeypatch, pool):
    install(monkeypatch.setattr, pool)


@pytest.fixture(scope="module")
def unbroken(pool, tmp_path_factory):
    """The directory of a run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        install(monkeypatch.setattr, pool)
        assert training.train(small_config(), workdir) is None
    return workdir


def assert_ends_as(workdir, unbroken):
    for field, ours, theirs in zip(
        outcome(workdir)._fields, outcome(workdir), outcome(unbroken), strict=True
    ):
        assert ours == theirs, field
    names = [sorted(path.name for path in run.iterdir()) for run in (workdir, unbroken)]
    assert names[0] == names[1]


def train_until(workdir, update, number=signal.SIGTERM, config=None):
    """Trains until a signal comes in during that update; returns what train does."""

    def act(done):
        if done == update:
            signal.raise_signal(number)

    with pytest.MonkeyPatch.context() as monkeypatch:
        on_update(monkeypatch.setattr, act)
        return training.train(config or small_config(), workdir)


def test_two_unbroken_runs_are_equal(tmp_path, unbroken):
    training.train(small_config(), tmp_path / "run")
    assert_ends_as(tmp_path / "run", unbroken)
    ended = outcome(unbroken)
    assert ended.metadata["updates"] == TOTAL
    assert len(ended.online) == 3
    # Nothing in the outcome is trivially equal.
    assert len({line["step"] for line in ended.lines}) == TOTAL + 1
    training.train(small_config(offline_updates=OFFLINE + 1), tmp_path / "other")
    other = outcome(tmp_path / "other")
    for field in ("lines", "leaves", "metadata", "online"):
        assert getattr(other, field) != getattr(ended, field)


@pytest.mark.parametrize(
    "stops",
    [
        pytest.param((2,), id="offline"),
        pytest.param((OFFLINE,), id="between the phases"),
        pytest.param((OFFLINE + UPDATES - 1,), id="within a block"),
        pytest.param((OFFLINE + UPDATES,), id="between blocks"),
        pytest.param(range(1, TOTAL), id="after every update"),
    ],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, unbroken, stops):
    workdir = tmp_path / "run"
    for update in stops:
        assert train_until(workdir, update) == signal.SIGTERM
        # No update is lost.
        assert checkpoints.latest(workdir / "checkpoints") == update
        assert not (workdir / "summary.json").exists()
    assert training.train(small_config(), workdir) is None
    assert_ends_as(workdir, unbroken)


def test_a_run_in_rounds_of_two_goes_on_as_if_it_had_not_been_stopped(tmp_path):
    config = small_config(episodes_per_round=2)
    training.train(config, tmp_path / "unbroken")
    for update in range(OFFLINE, TOTAL):
        train_until(tmp_path / "run", update, config=config)
    assert training.train(config, tmp_path / "run") is None
    assert_ends_as(tmp_path / "run", tmp_path / "unbroken")


def test_an_agent_that_begins_with_its_model_is_taken_up_in_either_phase(
    tmp_path, monkeypatch, pool
):
    # Of five offline updates the first two.
    install(monkeypatch.setattr, pool, make_fake_agent(model_share=0.5))
    ended = tmp_path / "ended"
    assert training.train(small_config(), ended) is None
    phases = [line["phase"] for line in metrics_lines(ended)]
    assert phases[1:6] == ["model", "model", "offline", "offline", "offline"]
    assert "evaluation model" not in phases
    for update in (1, 2, 3):
        assert train_until(tmp_path / "run", update) == signal.SIGTERM
    assert training.train(small_config(), tmp_path / "run") is None
    assert_ends_as(tmp_path / "run", ended)


def test_a_stop_in_the_last_update_changes_nothing(tmp_path, unbroken):
    workdir = tmp_path / "run"
    assert train_until(workdir, TOTAL) is None
    assert_ends_as(workdir, unbroken)


def test_a_resumed_run_needs_no_other_program(tmp_path, monkeypatch):
    """Equal programs are found in the cache, where compiling takes minutes."""
    programs = []
    compile_updates = loop.compile_updates

    def record(agent, state, batch, together):
        update = jax.jit(agent.updates["offline"], donate_argnums=0)
        programs.append(update.lower(state, batch).as_text())
        return compile_updates(agent, state, batch, together)

    monkeypatch.setattr(loop, "compile_updates", record)
    train_until(tmp_path / "run", 2)
    train_until(tmp_path / "run", 3)
    assert programs[0] == programs[1]


def test_ctrl_c_stops_like_sigterm(tmp_path, unbroken):
    workdir = tmp_path / "run"
    assert train_until(workdir, 3, signal.SIGINT) == signal.SIGINT
    assert checkpoints.latest(workdir / "checkpoints") == 3
    training.train(small_config(), workdir)
    assert_ends_as(workdir, unbroken)


def test_a_signal_during_an_evaluation_waits_for_one_update(
    tmp_path, monkeypatch, unbroken
):
    workdir = tmp_path / "run"
    evaluate = players.evaluate

    def interrupted(*args):
        signal.raise_signal(signal.SIGTERM)
        monkeypatch.setattr(players, "evaluate", evaluate)
        return evaluate(*args)

    monkeypatch.setattr(players, "evaluate", interrupted)
    assert training.train(small_config(), workdir) == signal.SIGTERM
    assert checkpoints.latest(workdir / "checkpoints") == 1
    training.train(small_config(), workdir)
    assert_ends_as(workdir, unbroken)


@pytest.fixture
def interruptible():
    """A shell's background jobs are started with interrupts ignored."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def test_a_second_interrupt_ends_the_run_at_once(tmp_path, unbroken, interruptible):
    workdir = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as monkeypatch:
        on_line(
            monkeypatch.setattr,
            lambda step, phase: step >= 6 and signal.raise_signal(signal.SIGINT),
        )
        training.train(small_config(), workdir)
    assert checkpoints.latest(workdir / "checkpoints") == OFFLINE
    training.train(small_config(), workdir)
    assert_ends_as(workdir, unbroken)


@pytest.mark.parametrize(
    "lines",
    [
        # After the first update; in the offline phase, after checkpoint 4; within the
        # first online block, after checkpoint 5, episode 1 under way.
        pytest.param(2, id="before any checkpoint"),
        pytest.param(6, id="offline"),
        pytest.param(9, id="online"),
    ],
)
def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path, unbroken, lines):
    workdir = tmp_path / "run"
    killed = subprocess.run(
        [sys.executable, "-m", "tests.fake_training", str(workdir), str(lines)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(metrics_lines(workdir)) == lines
    assert training.train(small_config(), workdir) is None
    assert_ends_as(workdir, unbroken)


@pytest.mark.parametrize(
    "every",
    [pytest.param(17, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)],
)
def test_a_run_goes_on_from_whatever_a_kill_leaves(
    tmp_path, monkeypatch, unbroken, every
):
    """A kill between any two files, in place of one at a random time.

    What it would leave on the disk is copied whenever a file is made durable.
    """
    workdir = tmp_path / "run"
    moments = itertools.count()
    left = []
    fsync = os.fsync

    def copy_and_sync(descriptor):
        moment = next(moments)
        if moment % every == 0:
            left.append(tmp_path / f"left-{moment}")
            shutil.copytree(workdir, left[-1])
        fsync(descriptor)

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", copy_and_sync)
        training.train(small_config(), workdir)
    assert_ends_as(workdir, unbroken)
    assert len(left) > 80 / every
    for directory in left:
        training.train(small_config(), directory)
        assert_ends_as(directory, unbroken)


def flip_a_bit(path):
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(contents)


def test_a_corrupt_checkpoint_is_passed_over(tmp_path, unbroken, caplog):
    workdir = tmp_path / "run"
    shutil.copytree(unbroken, workdir)
    newest = workdir / "checkpoints" / str(TOTAL) / "state"
    flip_a_bit(
        max(
            filter(Path.is_file, newest.rglob("*")),
            key=lambda path: path.stat().st_size,
        )
    )
    training.train(small_config(), workdir)
    assert f"checkpoint {TOTAL} is corrupt" in caplog.text
    assert_ends_as(workdir, unbroken)


def test_a_run_whose_environments_fail_can_be_taken_up(tmp_path, monkeypatch, unbroken):
    workdir = tmp_path / "run"
    collect = collection.collect_episodes
    second = environment_seed(Purpose.TRAINING, 0, number=1)

    def fail(pool, step, params, keys, plays):
        if [play.seed for play in plays] == [second]:
            raise WorkerError("environment workers failed 6 times")
        return collect(pool, step, params, keys, plays)

    monkeypatch.setattr(collection, "collect_episodes", fail)
    with pytest.raises(WorkerError, match="failed 6 times"):
        training.train(small_config(), workdir)
    monkeypatch.setattr(collection, "collect_episodes", collect)
    training.train(small_config(), workdir)
    assert_ends_as(workdir, unbroken)


@pytest.fixture(scope="module")
def stopped_at_8(pool, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        install(monkeypatch.setattr, pool)
        assert train_until(workdir, 8) == signal.SIGTERM
    return workdir


@pytest.fixture
def stopped(tmp_path, stopped_at_8):
    """The directory of a run that was stopped half way through its online phase."""
    shutil.copytree(stopped_at_8, tmp_path / "run")
    return tmp_path / "run"


def test_another_configuration_is_refused(stopped):
    config = small_config()
    config.moto.alpha = 0.0
    message = refused(stopped, RunError, config)
    assert "config.moto.alpha = 2.5, not 0.0" in message and "--workdir" in message


@pytest.mark.parametrize("package", ["jax", "mujoco"])
def test_another_version_is_refused_unless_it_is_allowed(stopped, monkeypatch, package):
    versions = provenance.versions() | {package: "99.0"}
    made_with = provenance.versions()[package]
    monkeypatch.setattr(provenance, "versions", lambda: versions)
    message = refused(stopped, RunError)
    assert f"made with {package} {made_with}, not 99.0" in message
    assert "--allow_version_change" in message
    assert training.train(small_config(), stopped, allow_version_change=True) is None


def test_other_devices_are_refused_unless_they_are_allowed(stopped, monkeypatch):
    read_metadata = checkpoints.read_metadata
    monkeypatch.setattr(
        checkpoints,
        "read_metadata",
        lambda path: read_metadata(path) | {"devices": [2, 2]},
    )
    message = refused(stopped, RunError)
    assert "made with groups x devices 2 x 2, not 1 x 1" in message
    assert training.train(small_config(), stopped, allow_version_change=True) is None


def test_a_version_that_decides_no_number_does_not_matter(stopped, monkeypatch):
    versions = provenance.versions() | {"python": "3.99", "moto-jax": "99.0"}
    monkeypatch.setattr(provenance, "versions", lambda: versions)
    assert training.train(small_config(), stopped) is None


def test_a_checkpoint_of_another_network_is_refused(stopped, monkeypatch):
    def init(key):
        state = make_fake_agent().init(key)
        return state.replace(weight=state.weight[:5])

    agent = make_fake_agent()._replace(init=init)
    monkeypatch.setattr(training, "make_agent", lambda config, **sizes: agent)
    message = refused(stopped, CheckpointError)
    assert ".weight" in message and "(1, 9)" in message and "(1, 5)" in message


def test_a_damaged_online_episode_is_refused_by_name(stopped):
    path = stopped / "online" / "000001.npz"
    flip_a_bit(path)
    assert str(path) in refused(stopped, DatasetError)


def test_no_intact_checkpoint_is_an_error_that_lists_them(stopped):
    for step in (stopped / "checkpoints").iterdir():
        (step / "MANIFEST.sha256").write_text("")
    message = refused(stopped, CheckpointError)
    for step in (stopped / "checkpoints").iterdir():
        assert f"{step.name} (" in message
