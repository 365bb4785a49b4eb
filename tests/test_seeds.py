"""Seeds that are trained together learn as they would alone."""

import json
import signal

import jax
import numpy as np
import pytest

from experiments.benchmarks.scale import differences
from moto_jax.acting import collection
from moto_jax.acting.environment_seeds import Purpose, environment_seed
from moto_jax.running import checkpoints, devices, loop, players, restoring, training
from moto_jax.running.checkpoints import CheckpointError
from moto_jax.study.runs import read_run, seed_directories
from tests.fake_training import (
    AGENT,
    EPISODES,
    OFFLINE,
    TOTAL,
    abstract_states,
    collects,
    install,
    make_fake_agent,
    metrics_lines,
    on_update,
    small_config,
)
from tests.fakes import random_batch

SEEDS = (4, 0, 7)


@pytest.fixture(autouse=True)
def fakes(monkeypatch, pool):
    install(monkeypatch.setattr, pool)


def config_of(*seeds, **changes):
    config = small_config(**changes)
    config.seeds = seeds
    return config


@pytest.fixture(scope="module")
def together(pool, tmp_path_factory):
    """The directory of a run of three seeds."""
    workdir = tmp_path_factory.mktemp("together") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        install(monkeypatch.setattr, pool)
        assert training.train(config_of(*SEEDS), workdir) is None
    return workdir


def files_of(directory):
    """What a seed left behind, without time, by name."""
    episodes = sorted((directory / "online").iterdir())
    return {path.name: path.read_bytes() for path in episodes} | {
        "lines": metrics_lines(directory)
    }


@pytest.mark.parametrize("index", range(len(SEEDS)))
def test_each_seed_learns_and_plays_as_it_would_alone(tmp_path, together, index):
    training.train(config_of(SEEDS[index]), tmp_path / "alone")
    own = together / f"seed{SEEDS[index]}"
    assert files_of(own) == files_of(tmp_path / "alone")
    assert sorted(path.name for path in own.iterdir()) == [
        *("config.json", "metrics.jsonl", "online", "summary.json", "videos")
    ]
    states, _ = checkpoints.restore(together, abstract_states(seeds=len(SEEDS)))
    alone, _ = checkpoints.restore(tmp_path / "alone", abstract_states())
    np.testing.assert_array_equal(states.weight[index], alone.weight[0])
    assert (states.weight[index] != states.weight[index - 1]).any()


def test_a_seeds_directory_reads_as_a_run_of_its_own(together):
    directories = seed_directories(together)
    assert [path.name for path in directories] == [f"seed{seed}" for seed in SEEDS]
    for seed, path in zip(SEEDS, directories, strict=True):
        run = read_run(path)
        assert run.config["seeds"] == [seed]
        assert run.updates == TOTAL
        assert run.name == f"run/seed{seed}"
    assert read_config(together) == list(SEEDS)


def read_config(workdir):
    return json.loads((workdir / "config.json").read_text())["seeds"]


@pytest.mark.parametrize("stop", [2, OFFLINE, OFFLINE + 3])
def test_an_interrupted_run_of_seeds_ends_as_the_unbroken_one(tmp_path, together, stop):
    workdir = tmp_path / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        on_update(
            monkeypatch.setattr,
            lambda done: done == stop and signal.raise_signal(signal.SIGTERM),
        )
        assert training.train(config_of(*SEEDS), workdir) == signal.SIGTERM
    assert checkpoints.latest(workdir / "checkpoints") == stop
    assert training.train(config_of(*SEEDS), workdir) is None
    for seed in SEEDS:
        assert files_of(workdir / f"seed{seed}") == files_of(together / f"seed{seed}")


def test_a_round_is_played_at_once_by_shared_workers(tmp_path, monkeypatch, pool):
    rounds, rows = [], []
    collect = collection.collect_episodes

    def record(pool, step, params, keys, plays):
        if not collects(plays[0].seed):
            return collect(pool, step, params, keys, plays)

        def counted(*args):
            image = args[2]
            rows.append(len(image))
            return step.step(*args)

        rounds.append([(play.member, play.seed) for play in plays])
        return collect(pool, step._replace(step=counted), params, keys, plays)

    monkeypatch.setattr(collection, "collect_episodes", record)
    training.train(config_of(*SEEDS), tmp_path / "run")
    assert rounds == [
        [
            (member, environment_seed(Purpose.TRAINING, seed, number=number))
            for member, seed in enumerate(SEEDS)
        ]
        for number in range(EPISODES)
    ]
    # Seven steps an episode, three episodes; on a CPU each acts when it is ready.
    assert rows == [1] * (3 * 7 * EPISODES)


def test_the_update_is_one_program(tmp_path, monkeypatch):
    shapes = []
    compile_updates = loop.compile_updates

    def record(agent, state, batch, together):
        shapes.append((state.weight.shape, batch.image.shape[:3]))
        assert agent.updates["offline"] is agent.updates["online"]
        return compile_updates(agent, state, batch, together)

    monkeypatch.setattr(loop, "compile_updates", record)
    training.train(config_of(*SEEDS), tmp_path / "run")
    assert shapes == [((3, 9), (3, 4, 2))]


def diverging(seed):
    """An agent whose updates fail from the fourth on where its key is the seed's."""
    (key, *_), _, _ = players.run_keys([seed])
    wrong = jax.random.key_data(make_fake_agent().init(key).key)
    good, bad = make_fake_agent(), make_fake_agent(range(3, 100))

    def init(key):
        state = good.init(key)
        # The key moves on; the last weight tells the seeds apart and stays.
        is_wrong = (jax.random.key_data(state.key) == wrong).all()
        return state.replace(weight=state.weight.at[8].set(is_wrong.astype(float)))

    def update(state, batch):
        flag = state.weight[8]
        branches = [agent.updates["offline"] for agent in (good, bad)]
        new, metrics = jax.lax.cond(flag > 0, branches[1], branches[0], state, batch)
        return new.replace(weight=new.weight.at[8].set(flag)), metrics

    return good._replace(init=init, updates={"offline": update, "online": update})


def test_a_seed_that_diverges_leaves_the_others_alone(
    tmp_path, monkeypatch, pool, caplog
):
    install(monkeypatch.setattr, pool, diverging(4))
    config = config_of(*SEEDS, offline_updates=9, online_episodes=0, max_skipped=2)
    assert training.train(config, tmp_path) is None
    assert caplog.text.count("seed 4: 3 updates in a row up to 6") == 1
    assert "seed 0" not in caplog.text and "seed 7" not in caplog.text
    skipped = {
        seed: metrics_lines(tmp_path / f"seed{seed}")[-2]["skipped_in_a_row"]
        for seed in SEEDS
    }
    assert skipped == {4: 6, 0: 0, 7: 0}


def test_a_run_ends_once_no_seed_learns(tmp_path, monkeypatch, pool):
    install(monkeypatch.setattr, pool, make_fake_agent(not_finite=range(3, 100)))
    config = config_of(*SEEDS, offline_updates=9, online_episodes=0, max_skipped=2)
    with pytest.raises(loop.DivergedError, match="3 updates in a row up to 6"):
        training.train(config, tmp_path)


@pytest.mark.parametrize("seeds", [(), (1, 1), (-1,), (2**32,), (0.5,), ("a",)])
def test_seeds_must_be_different_integers(tmp_path, seeds):
    with pytest.raises(ValueError, match=r"config\.seeds is"):
        training.train(config_of(*seeds), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_seed_is_restored_from_all(monkeypatch, together):
    monkeypatch.setattr(restoring, "make_agent", lambda config, **sizes: AGENT)
    states, _ = checkpoints.restore(together, abstract_states(seeds=3))
    for index, seed in enumerate(SEEDS):
        restored = restoring.restore_agent(together, seed)
        assert restored.seed == seed
        np.testing.assert_array_equal(restored.state.weight, states.weight[index])
    for seed in (None, 1):
        with pytest.raises(CheckpointError, match="holds the seeds 4, 0, 7"):
            restoring.restore_agent(together, seed)


def test_a_checkpoint_from_before_there_was_a_choice_is_of_the_kitchen(
    monkeypatch, together
):
    monkeypatch.setattr(restoring, "make_agent", lambda config, **sizes: AGENT)
    read = checkpoints.read_metadata

    def read_old(path):
        metadata = read(path)
        metadata["config"]["env"].pop("name", None)
        return metadata

    monkeypatch.setattr(checkpoints, "read_metadata", read_old)
    assert restoring.restore_agent(together, 4).config.env.name == "kitchen"
    assert restoring.open_checkpoints(together).config.env.name == "kitchen"


def test_all_kept_checkpoints_are_read_with_one_agent(monkeypatch, together):
    built = []

    def make_agent(config, **sizes):
        built.append(config)
        return AGENT

    monkeypatch.setattr(restoring, "make_agent", make_agent)
    kept = restoring.open_checkpoints(together)
    assert tuple(kept.config.seeds) == SEEDS
    assert len(kept.steps) > 1 and sorted(kept.steps) == list(kept.steps)
    for step in kept.steps:
        path = together / "checkpoints" / str(step)
        states, _ = checkpoints.restore(path, abstract_states(seeds=3))
        jax.tree.map(
            np.testing.assert_array_equal,
            kept.acting_params(step),
            AGENT.acting_params(states),
        )
    assert len(built) == 1 and kept.agent is AGENT
    with pytest.raises(CheckpointError):
        kept.acting_params(10_000)


@pytest.mark.slow
def test_motos_seeds_by_vmap_stay_with_those_alone_for_200_updates():
    found = differences("tiny", 200, (5, 2), {"vmap": jax.vmap})
    assert 0 < found["vmap"] < 1e-4


@pytest.mark.parametrize("map_seeds", [jax.vmap, devices.one_after_another])
def test_both_ways_to_map_over_seeds_give_each_its_own_update(map_seeds):
    mesh = devices.make_mesh(config_of(*SEEDS), 2)
    agent = devices.over_seeds(AGENT, mesh, map_seeds)
    keys, *_ = players.run_keys(SEEDS)
    batches = [
        random_batch(4, 2, action_size=9, image_size=8, seed=seed) for seed in SEEDS
    ]
    stacked = jax.tree.map(lambda *parts: np.stack(parts), *batches)
    states, metrics = jax.jit(agent.updates["offline"])(agent.init(keys), stacked)
    update = jax.jit(AGENT.updates["offline"])
    for index, (key, batch) in enumerate(zip(keys, batches, strict=True)):
        state, expected = update(AGENT.init(key), batch)
        np.testing.assert_allclose(states.weight[index], state.weight, rtol=1e-6)
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name][index], value, rtol=1e-6)
