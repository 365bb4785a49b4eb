"""A whole run of the kitchen in miniature: everything but the agent is real."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs.mixed import get_config
from moto_jax.acting import videos
from moto_jax.data.episodes import read_episode, read_manifest
from moto_jax.running import training
from moto_jax.study.runs import read_run
from moto_jax.types import Policy
from tests.fake_training import make_fake_agent


def mini_agent():
    """The fake agent, whose policy moves nowhere in particular."""

    def act(params, carry, image, is_first, key):
        seen = jnp.mean(image.astype(jnp.float32), axis=(1, 2)) / 255
        return jnp.sin(params["weight"][None, :3] + seen), carry

    policy = Policy(initial=lambda count: jnp.zeros(count), act=act)
    return make_fake_agent()._replace(policies={"mean": policy, "sampled": policy})


def config_of(seeds=(0,)):
    config = get_config("mini")
    config.seeds = seeds
    config.env.image_size = 16
    config.task = "kettle"
    config.data.update(episodes=3, action_noise=0.0, complete_share=-1.0)
    config.training.update(
        offline_updates=4,
        online_episodes=2,
        updates_per_episode=2,
        log_every=1,
        evaluate_every=0,
        checkpoint_every=4,
    )
    config.evaluation.episodes = 2
    return config


@pytest.fixture
def agent(monkeypatch):
    monkeypatch.setattr(training, "make_agent", lambda config, **sizes: mini_agent())
    monkeypatch.setattr(
        videos, "write_video", lambda path, frames: path.write_bytes(b"")
    )


def test_a_run_needs_no_worker_and_leaves_what_others_do(tmp_path, agent):
    workdir = tmp_path / "run"
    assert training.train(config_of(), workdir) is None
    run = read_run(workdir)
    assert run.summary["updates"] == 8
    assert len(run.series("mean/success", "evaluation")[0]) == 3
    assert read_manifest(workdir / "dataset").source == "mini"
    for number in range(2):
        episode = read_episode(workdir / "online" / f"{number:06d}.npz")
        assert episode.image.shape == (65, 16, 16, 3)
        assert episode.action.shape == (64, 3)


def test_seeds_play_what_they_would_play_alone(tmp_path, agent):
    training.train(config_of((0, 1)), tmp_path / "both")
    training.train(config_of((1,)), tmp_path / "one")
    for number in range(2):
        name = f"online/{number:06d}.npz"
        together = (tmp_path / "both" / "seed1" / name).read_bytes()
        # Episodes are numbered by seed and round, weights are the seed's.
        assert together == (tmp_path / "one" / name).read_bytes()
    rows = [
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        for path in (tmp_path / "both" / "seed1", tmp_path / "one")
    ]
    for one, other in zip(*rows, strict=True):
        timeless = [{**row, "wall_seconds": 0} for row in (one, other)]
        assert timeless[0] == timeless[1]


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(
    tmp_path, agent, monkeypatch
):
    training.train(config_of(), tmp_path / "unbroken")

    class Stopped(Exception):
        pass

    save = training.Run.save

    def save_and_stop(run):
        save(run)
        if run.done == 4:
            raise Stopped

    monkeypatch.setattr(training.Run, "save", save_and_stop)
    with pytest.raises(Stopped):
        training.train(config_of(), tmp_path / "broken")
    monkeypatch.setattr(training.Run, "save", save)
    training.train(config_of(), tmp_path / "broken")
    for number in range(2):
        files = [
            tmp_path / name / "online" / f"{number:06d}.npz"
            for name in ("unbroken", "broken")
        ]
        assert files[0].read_bytes() == files[1].read_bytes()
    episode = read_episode(tmp_path / "broken" / "online" / "000001.npz")
    assert np.isfinite(episode.action).all()
