"""A run that has lost its checkpoints says so; nothing is trained anew unasked."""

import shutil
import signal

import pytest

from moto_jax.run_layout import RunError
from moto_jax.running import checkpoints, training
from moto_jax.running.schedule import Schedule
from tests.fake_training import (
    OFFLINE,
    TOTAL,
    install,
    on_line,
    outcome,
    refused,
    small_config,
)

OTHERS = ("online/mine.npz", "online/00000.npz", "videos/mine.mp4", "notes/a.txt")


@pytest.fixture(autouse=True)
def fakes(monkeypatch, pool):
    install(monkeypatch.setattr, pool)


def seeds_config():
    config = small_config()
    config.seeds = (4, 0)
    return config


@pytest.fixture(scope="module")
def ended_once(pool, tmp_path_factory):
    """Directories of finished runs, of one seed and of two."""
    workdir = tmp_path_factory.mktemp("ended")
    with pytest.MonkeyPatch.context() as monkeypatch:
        install(monkeypatch.setattr, pool)
        training.train(small_config(), workdir / "one")
        training.train(seeds_config(), workdir / "two")
    return workdir


@pytest.fixture
def ended(tmp_path, ended_once):
    shutil.copytree(ended_once, tmp_path, dirs_exist_ok=True)
    return tmp_path


def leave_of_others(workdir):
    for name in OTHERS:
        path = workdir / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)


def assert_others_stay(workdir):
    for name in OTHERS:
        assert (workdir / name).read_text() == name


@pytest.mark.parametrize(
    ("also_gone", "left"),
    [
        ((), "a summary (summary.json)"),
        (("summary.json",), "3 online episodes"),
        (("summary.json", "online"), f"metrics of {TOTAL} updates"),
        (("summary.json", "metrics.jsonl"), "3 online episodes"),
    ],
)
@pytest.mark.parametrize("emptied", [False, True])
def test_a_run_without_its_checkpoints_is_refused(ended, also_gone, left, emptied):
    workdir = ended / "one"
    shutil.rmtree(workdir / "checkpoints")
    if emptied:
        (workdir / "checkpoints").mkdir()
    for name in also_gone:
        path = workdir / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    message = refused(workdir, RunError)
    assert f"{workdir} holds {left}" in message
    assert f"{workdir / 'checkpoints'} holds no checkpoint" in message
    assert "restore the checkpoints" in message
    assert "--fresh" in message and "another --workdir" in message


def test_what_one_of_several_seeds_has_left_is_enough(ended):
    workdir = ended / "two"
    shutil.rmtree(workdir / "checkpoints")
    shutil.rmtree(workdir / "seed4")
    message = refused(workdir, RunError, seeds_config())
    assert f"{workdir / 'seed0'} holds a summary" in message


def test_a_fresh_start_ends_as_the_first_and_leaves_what_others_wrote(ended):
    workdir = ended / "one"
    first = outcome(workdir)
    shutil.rmtree(workdir / "checkpoints")
    leave_of_others(workdir)
    assert training.train(small_config(), workdir, fresh=True) is None
    assert_others_stay(workdir)
    for name in ("mine.npz", "00000.npz"):
        (workdir / "online" / name).unlink()
    assert outcome(workdir) == first


def test_a_fresh_start_forgets_what_there_is(ended, monkeypatch):
    """Checkpoints too, of which nothing is read; each seed's files."""
    workdir = ended / "two"
    found = []

    def stop(step, phase):
        if not found:
            signal.raise_signal(signal.SIGTERM)
        found.append((step, phase))

    with monkeypatch.context() as context:
        on_line(context.setattr, stop)
        stopped = training.train(seeds_config(), workdir, fresh=True)
    assert stopped == signal.SIGTERM and found[0] == (0, "evaluation before")
    assert checkpoints.steps(workdir / "checkpoints") == [1]
    for seed in (4, 0):
        own = workdir / f"seed{seed}"
        assert not (own / "summary.json").exists()
        assert not list((own / "online").iterdir())
        assert {path.name[:6] for path in (own / "videos").iterdir()} == {"000000"}


def test_a_fresh_start_is_of_the_same_configuration(ended):
    config = small_config()
    config.moto.alpha = 0.0
    assert "config.moto.alpha" in refused(ended / "one", RunError, config, fresh=True)


def test_a_fresh_start_needs_nothing_to_be_there(tmp_path):
    config = small_config(offline_updates=1, online_episodes=0)
    assert training.train(config, tmp_path / "run", fresh=True) is None


def test_a_resumed_run_leaves_what_others_wrote(ended):
    workdir = ended / "one"
    first = outcome(workdir)
    shutil.rmtree(workdir / "checkpoints" / str(TOTAL))
    leave_of_others(workdir)
    assert training.train(small_config(), workdir) is None
    assert_others_stay(workdir)
    for name in ("mine.npz", "00000.npz"):
        (workdir / "online" / name).unlink()
    assert outcome(workdir) == first


# Saves after 4, 5, 8 and 11 updates; after 5, 7 and 9 a block begins.
SCHEDULE = Schedule(OFFLINE, 3, 2, log_every=1, evaluate_every=0, checkpoint_every=4)


@pytest.mark.parametrize(
    ("schedule", "last_step", "episodes", "saved"),
    [
        (SCHEDULE, -1, 0, False),
        (SCHEDULE, 0, 0, False),
        # The metrics of update 4 are written before its checkpoint is.
        (SCHEDULE, 4, 0, False),
        (SCHEDULE, 5, 0, True),
        # No episode is collected before the offline phase is saved.
        (SCHEDULE, -1, 1, True),
        # Where there is none, the first two are collected before any update.
        (SCHEDULE._replace(offline_updates=0), 1, 2, False),
        (SCHEDULE._replace(offline_updates=0), -1, 3, False),
        (SCHEDULE._replace(offline_updates=0), -1, 4, True),
        (SCHEDULE._replace(checkpoint_every=0), 5, 0, False),
        (SCHEDULE._replace(checkpoint_every=0), 6, 0, True),
    ],
)
def test_when_a_run_must_have_saved(schedule, last_step, episodes, saved):
    assert schedule.has_saved(last_step, episodes) is saved
