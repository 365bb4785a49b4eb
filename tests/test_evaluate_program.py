"""The programs that need nothing but a checkpoint."""

import csv
import json
import subprocess

import imageio_ffmpeg
import jax
import numpy as np
import pytest
from matplotlib.image import imread

from experiments.configs import mixed
from moto_jax import statistics
from moto_jax.acting.environment_seeds import Purpose, environment_seed
from moto_jax.agents import make_agent
from moto_jax.running import checkpoints
from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.registry import make_world
from tests.programs import assert_refused, run_program

STEPS = 10


def _zeros(leaf):
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), leaf.shape[0])
    return np.zeros(leaf.shape, leaf.dtype)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's directory with a checkpoint of an agent whose parameters are all zero."""
    directory = tmp_path_factory.mktemp("run")
    config = mixed.get_config("tiny")
    config.env.episode_steps = STEPS
    config.seeds = (3, 5)
    agent = make_agent(
        config, action_size=tasks.NUM_ACTIONS, image_size=config.env.image_size
    )
    # All zero, which spares the seconds that compiling `init` takes.
    keys = jax.random.split(jax.random.key(0), 2)
    abstract = jax.eval_shape(jax.vmap(agent.init), keys)
    state = jax.tree.map(_zeros, abstract)
    metadata = {"updates": 7, "config": config.to_dict()}
    checkpoints.save(directory / "checkpoints", 7, state, metadata)
    return directory


@pytest.mark.kitchen
def test_evaluates_a_checkpoint_on_another_task(run):
    done = run_program(
        "evaluate",
        f"--checkpoint={run}",
        "--episodes=2",
        "--policy=sampled",
        "--task=kettle, hinge cabinet",
        "--seed=5",
        "--first_episode=8",
        "--video",
    )
    assert done.returncode == 0, done.stderr
    for word in ("kettle", "hinge cabinet", "objects of 2", "success", "return"):
        assert word in done.stdout
    assert "microwave" not in done.stdout and "mean policy" not in done.stdout
    # Nobody can lift a kettle in ten steps; Wilson's interval is of two episodes.
    _, high = statistics.wilson_interval(0, 2)
    assert f"0.00  (0.00 to {high:.2f})" in done.stdout

    out = run / "seed5" / "evaluation-7"
    names = sorted(path.name for path in out.iterdir())
    assert names == [
        *("evaluation.json", "sampled-best.mp4", "sampled-best.png"),
        "sampled-worst.mp4",
    ]
    report = json.loads((out / "evaluation.json").read_text())
    assert (report["updates"], report["seed"]) == (7, 5)
    assert report["first_episode"] == 8
    assert report["task"] == ["kettle", "hinge cabinet"]
    assert list(report["policies"]) == ["sampled"]
    figures = report["policies"]["sampled"]
    assert figures["episodes"] == 2
    assert figures["objects_by_episode"] == [0, 0]
    assert figures["success_high"] == high
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", out / "sampled-worst.mp4"]
    facts = subprocess.run(command, capture_output=True, cwd=out).stderr.decode()
    # Eleven frames of 0.08 s.
    assert "256x256" in facts and "00:00:00.88" in facts


@pytest.mark.kitchen
def test_numbers_are_written_before_videos(run, tmp_path, monkeypatch):
    ffmpeg = tmp_path / "ffmpeg"
    ffmpeg.write_text("#!/bin/sh\nkill -9 $PPID\n")
    ffmpeg.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(ffmpeg))
    out = tmp_path / "out"
    words = (f"--checkpoint={run}", "--seed=3", "--episodes=1", "--policy=mean")
    done = run_program("evaluate", *words, "--video", f"--out={out}")
    assert done.returncode == -9
    report = json.loads((out / "evaluation.json").read_text())
    assert report["policies"]["mean"]["objects_by_episode"] == [0]


@pytest.mark.kitchen
def test_predicts_a_demonstration(run, tmp_path):
    done = run_program(
        "open_loop",
        f"--checkpoint={run / 'checkpoints' / '7'}",
        "--seed=3",
        f"--out={tmp_path / 'results' / 'strip.png'}",
        "--context=2",
        "--predicted=7",
        "--sequences=2",
    )
    assert done.returncode == 0, done.stderr
    for word in ("1 to 5", "6 to 7", "copy"):
        assert word in done.stdout
    assert imread(tmp_path / "results" / "strip.png").ndim == 3
    with (tmp_path / "results" / "strip.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [
        (name, str(step)) for name in ("microwave", "kettle") for step in range(1, 8)
    ]
    assert [(row["object"], row["step"]) for row in rows] == expected
    # This model shows grey, and the kitchen barely changes in a few frames.
    errors = np.array(
        [[float(row["model_mse"]), float(row["copy_mse"])] for row in rows]
    )
    assert (errors[:, 0] > errors[:, 1]).all() and (errors[:, 1] > 0).all()


@pytest.mark.kitchen
def test_a_checkpoint_that_is_not_there_is_named(tmp_path):
    flags = ["--checkpoint=nowhere", f"--out={tmp_path / 'out'}"]
    assert_refused(run_program("evaluate", *flags), "nowhere")
    assert not list(tmp_path.iterdir())


@pytest.mark.kitchen
@pytest.mark.parametrize("seed", [(), ("--seed=4",)])
def test_one_of_the_seeds_must_be_chosen(run, tmp_path, seed):
    flags = [f"--checkpoint={run}", f"--out={tmp_path / 'out'}", *seed]
    assert_refused(run_program("evaluate", *flags), "holds the seeds 3, 5: choose one")
    assert not list(tmp_path.iterdir())


@pytest.mark.kitchen
def test_an_unknown_object_is_named(run, tmp_path):
    flags = [f"--checkpoint={run}", f"--out={tmp_path / 'out'}", "--task=toaster"]
    assert_refused(run_program("evaluate", *flags, "--seed=3"), "'toaster'")
    assert not list(tmp_path.iterdir())


@pytest.mark.kitchen
def test_a_picture_of_no_known_format_is_refused(tmp_path):
    flags = ["--checkpoint=nowhere", f"--out={tmp_path / 'strip.xyz'}"]
    assert_refused(run_program("open_loop", *flags), "strip.xyz")
    assert not list(tmp_path.iterdir())


@pytest.mark.kitchen
def test_action_errors_of_checkpoints_on_unseen_demonstrations(run, tmp_path):
    step = str(run / "checkpoints" / "7")
    done = run_program(
        *("action_errors", step, step, "--seed=3", "--episodes=1"),
        f"--csv={tmp_path / 'errors.csv'}",
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "errors.csv").open() as file:
        rows = list(csv.DictReader(file))
    task = tasks.resolve_task("mixed")
    assert [row["object"] for row in rows] == [*task, "all"] * 2
    assert rows[:5] == rows[5:]
    # Parameters of zero choose zero: what is left is what the demonstrator meant.
    seed = environment_seed(Purpose.HELD_OUT_DEMONSTRATIONS, number=0)
    episode = make_world(mixed.get_config("tiny")).demonstrate(seed)
    done = episode.objects_in_goal[:, tasks.object_columns(task)].argmax(axis=0)
    expected = [
        np.mean(np.square(episode.intended_action[row - 20 : row])) for row in done
    ]
    expected = np.sqrt([*expected, np.mean(expected)])
    found = [float(row["error"]) for row in rows[:5]]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    # Of a single demonstration nothing is known of the others.
    assert all(row["low"] == row["high"] == row["error"] for row in rows)


def test_action_errors_need_a_checkpoint():
    assert_refused(run_program("action_errors"), "no checkpoint to look at")
