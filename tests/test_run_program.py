import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import run
from experiments.configs import base
from moto_jax.acting.worker_pool import WorkerError
from moto_jax.agents import make_agent
from moto_jax.running import loop, training
from moto_jax.worlds import graphics
from moto_jax.worlds.kitchen import world as kitchen
from tests.fake_training import install, metrics_lines, on_line, outcome, small_config

ROOT = Path(__file__).parents[1]
CONFIG = "--config=experiments/configs/mixed.py"


def command(*flags):
    return [sys.executable, "-m", "experiments.run", *flags]


def assert_one_sentence(text, culprit):
    """What is wrong takes one line, which names the culprit."""
    assert text.startswith("error: ")
    assert "\n" not in text.removesuffix("\n")
    assert culprit in text


@pytest.mark.parametrize(
    ("flags", "culprit"),
    [
        ([f"{CONFIG}:huge"], "'huge'"),
        (["--config=nowhere.py"], "nowhere.py"),
        ([f"{CONFIG}:tiny", "--config.nonsense=1"], "nonsense"),
        ([f"{CONFIG}:tiny", "--config.moto.alpa=1"], "alpa"),
        ([f"{CONFIG}:tiny", "--config.training.offline_updates=four"], "four"),
        ([f"{CONFIG}:tiny", "--workdri=x"], "workdri"),
        ([f"{CONFIG}:tiny", "more"], "more"),
        ([], "--config"),
    ],
)
def test_a_wrong_command_is_answered_in_one_sentence(tmp_path, flags, culprit):
    workdir = tmp_path / "run"
    done = subprocess.run(
        command(*flags, f"--workdir={workdir}"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 1
    assert_one_sentence(done.stderr, culprit)
    assert not workdir.exists()


@pytest.fixture
def main(tmp_path, monkeypatch):
    """Runs the program in this process; returns what it ends with.

    The configuration is what the flag would hold; work that is begun is an error.
    """
    monkeypatch.chdir(tmp_path)
    # Output is captured here, by streams that are not the program's to change.
    monkeypatch.setattr(run, "go_on_unread", lambda: None)

    def main(config, workdir="run", fresh=False, init_from=None):
        monkeypatch.setattr(run, "_CONFIG", SimpleNamespace(value=config))
        monkeypatch.setattr(run, "_WORKDIR", SimpleNamespace(value=workdir))
        monkeypatch.setattr(run, "_ALLOW_VERSION_CHANGE", SimpleNamespace(value=False))
        monkeypatch.setattr(run, "_INIT_FROM", SimpleNamespace(value=init_from))
        monkeypatch.setattr(run, "_FRESH", SimpleNamespace(value=fresh))
        try:
            return run.main(["run.py"])
        except SystemExit as end:
            return end.code

    return main


@pytest.fixture
def graphics_found(monkeypatch):
    """Frames could be drawn, whether or not this machine can."""
    monkeypatch.setattr(kitchen, "choose_backend", lambda: "")


def work(*args, **kwargs):
    pytest.fail("work was begun")


def changed(**changes):
    """The configuration `tiny` with other values, sections' keys after a dot."""
    config = base.get_config("tiny")
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize(
    ("config", "culprit"),
    [
        (changed(task="microwave,toaster"), "'toaster'"),
        (changed(task=""), "task"),
        (changed(agent="dreamer"), "'dreamer'"),
        (changed(**{"env.image_size": 48}), "image size 48"),
        (changed(**{"env.name": "toys"}), "'toys' in config.env.name"),
        (changed(**{"moto.disagreement": "none"}), "config.moto.disagreement"),
        (changed(**{"training.log_every": -1}), "config.training.log_every is -1"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_done(
    tmp_path, monkeypatch, main, graphics_found, config, culprit
):
    for maker in ("scripted_episodes", "d4rl_episodes"):
        monkeypatch.setattr(kitchen, maker, work)
    for maker in ("load_demonstrations", "make_replays", "announce_renderer"):
        monkeypatch.setattr(training, maker, work)
    assert_one_sentence(main(config), culprit)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("data", "culprit"),
    [
        ({"source": "youtube"}, "config.data.source is 'youtube'"),
        ({"source": "d4rl", "path": "nowhere.hdf5"}, "nowhere.hdf5"),
        ({"source": "d4rl", "path": ""}, "config.data.path"),
        ({"source": "d4rl", "path": "text.hdf5"}, "text.hdf5"),
    ],
)
def test_data_that_cannot_be_read_do_not_bind_the_directory(
    tmp_path, monkeypatch, main, graphics_found, data, culprit
):
    """The command can be mended and given again with the same --workdir."""
    monkeypatch.setattr(kitchen, "environment_maker", work)
    (tmp_path / "text.hdf5").write_text("not HDF5")
    config = changed(**{f"data.{key}": value for key, value in data.items()})
    assert_one_sentence(main(config), culprit)
    left = {file.name for file in (tmp_path / "run").rglob("*")}
    assert left <= {".lock", "dataset"}


def test_a_machine_that_cannot_draw_is_told_so_first(tmp_path, monkeypatch, main):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(graphics, "_DISPATCH_LIBRARY", "libnowhere.so.1")
    ended_with = main(base.get_config("tiny"))
    assert_one_sentence(ended_with, "libnowhere.so.1")
    assert "apt-get install -y libegl1" in ended_with
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "error",
    [
        ValueError("config.x is 1"),
        WorkerError("environment workers failed 6 times"),
        graphics.GraphicsError("no EGL"),
    ],
)
def test_whatever_training_says_is_one_line(monkeypatch, main, graphics_found, error):
    def train(*args):
        raise error

    monkeypatch.setattr(training, "train", train)
    assert main(base.get_config("tiny")) == f"error: {error}"


def test_a_run_that_diverges_has_a_status_of_its_own(
    monkeypatch, main, graphics_found, capsys
):
    def train(*args):
        raise loop.DivergedError("11 updates in a row were not finite")

    monkeypatch.setattr(training, "train", train)
    assert main(base.get_config("tiny")) == 3
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: 11 updates in a row were not finite"
    )


@pytest.mark.parametrize("fresh", [False, True])
def test_a_signal_decides_the_exit_status(
    tmp_path, monkeypatch, main, graphics_found, pool, capsys, fresh
):
    install(monkeypatch.setattr, pool)
    with monkeypatch.context() as context:
        on_line(
            context.setattr,
            lambda step, phase: step == 3 and signal.raise_signal(signal.SIGTERM),
        )
        assert main(small_config(), fresh=fresh) == 128 + signal.SIGTERM
    # A fresh start again would throw away what is saved.
    assert f"the same command{' without --fresh' * fresh} goes on" in (
        capsys.readouterr().out
    )
    assert main(small_config()) is None
    assert json.loads((tmp_path / "run/summary.json").read_text())["updates"] == 11


def test_what_a_run_starts_from_is_part_of_its_configuration(
    tmp_path, main, graphics_found
):
    config = base.get_config("tiny")
    assert_one_sentence(main(config, init_from="nowhere"), f"{tmp_path / 'nowhere'}")
    assert config.init_from == "nowhere"
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_workdir_is_named_after_itself(
    tmp_path, monkeypatch, main, graphics_found, pool
):
    install(monkeypatch.setattr, pool)
    config = small_config(offline_updates=1, online_episodes=0)
    config.task = "kettle, light switch"
    config.seeds = (3,)
    assert main(config, workdir=None) is None
    (directory,) = (tmp_path / "runs").iterdir()
    for part in ("kettle+_light_switch", "tiny", "moto", "3"):
        assert part in directory.name


def test_a_picture_that_fails_costs_no_run_its_numbers(
    tmp_path, monkeypatch, main, graphics_found, pool, capsys
):
    def fail(*unused):
        raise RuntimeError("no\nfont")

    install(monkeypatch.setattr, pool)
    monkeypatch.setattr(run, "curves", fail)
    config = small_config(offline_updates=1, online_episodes=0)
    assert main(config, workdir=tmp_path / "run") is None
    said = capsys.readouterr()
    assert "WARNING: curves.png could not be drawn (no font)" in said.err
    assert "peak memory" in said.out


def program(workdir):
    """Starts the real program on `tiny` in a directory."""
    return subprocess.Popen(
        command(f"{CONFIG}:tiny", f"--workdir={workdir}"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The directory of a run of the real program that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    with program(workdir) as process:
        output, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    return workdir


def signal_once(process, workdir, phase, number):
    """Sends a signal once metrics.jsonl has a line of the phase; returns the output."""
    deadline = time.monotonic() + 1800
    while process.poll() is None and time.monotonic() < deadline:
        path = workdir / "metrics.jsonl"
        if path.exists() and f'"phase": "{phase}"' in path.read_text():
            process.send_signal(number)
            break
        time.sleep(0.01)
    output, _ = process.communicate(timeout=1800)
    return output


@pytest.mark.kitchen
def test_a_tiny_run_of_the_real_kitchen_leaves_all_there_is(unbroken):
    lines = metrics_lines(unbroken)
    assert [line["step"] for line in lines if line["phase"] == "offline"] == [
        1,
        2,
        3,
        4,
    ]
    assert [line["step"] for line in lines if line["phase"] == "online"] == [5, 6, 7, 8]
    evaluated = [line["phase"] for line in lines if "evaluation" in line["phase"]]
    assert evaluated == [
        f"evaluation {part}" for part in ("before", "offline", "online")
    ]
    assert all(value is not None for line in lines for value in line.values()), (
        "a number is not finite"
    )
    summary = json.loads((unbroken / "summary.json").read_text())
    for part in ("before", "offline", "online"):
        assert 0 <= summary[f"objects_{part}"] <= 4
        at_end = summary[f"success_at_end_{part}"]
        assert 0 <= at_end <= summary[f"success_{part}"] <= 1
        assert 0 <= summary[f"success_at_end_{part}_sampled"] <= 1
    assert summary["peak_rss_bytes"] > 1e8
    assert {"wall_seconds", "hardware", "versions"} <= summary.keys()
    assert len(list((unbroken / "dataset").glob("*.npz"))) == 3
    assert len(list((unbroken / "online").glob("*.npz"))) == 2
    for step in (0, 4, 8):
        for which in ("best", "worst"):
            video = unbroken / "videos" / f"{step:06d}-{which}.mp4"
            assert video.stat().st_size > 1000
    config = json.loads((unbroken / "config.json").read_text())
    assert config == json.loads(json.dumps(base.get_config("tiny").to_dict()))


@pytest.mark.slow
@pytest.mark.kitchen
def test_moto_in_the_kitchen_goes_on_as_if_it_had_not_been_interrupted(
    tmp_path, unbroken
):
    workdir = tmp_path / "run"
    # The same demonstrations, which are another test's matter.
    shutil.copytree(unbroken / "dataset", workdir / "dataset")
    with program(workdir) as process:
        output = signal_once(process, workdir, "evaluation before", signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert 1 <= max(line["step"] for line in metrics_lines(workdir)) < 8
    with program(workdir) as process:
        output = signal_once(process, workdir, "collection", signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, output
    with program(workdir) as process:
        output, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, output
    config = base.get_config("tiny")
    agent = make_agent(config, action_size=9, image_size=config.env.image_size)
    ours, theirs = outcome(workdir, agent), outcome(unbroken, agent)
    for field in ours._fields:
        assert getattr(ours, field) == getattr(theirs, field), field
