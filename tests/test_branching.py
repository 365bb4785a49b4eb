"""Runs that start from another's checkpoint."""

import json
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moto_jax.data.episodes import DatasetError, EpisodeRecord, Manifest, write_manifest
from moto_jax.data.replay import Replay
from moto_jax.run_layout import RunError
from moto_jax.running import branching, checkpoints, devices, training
from moto_jax.running.checkpoints import CheckpointError
from tests.fake_training import (
    AGENT,
    DEMONSTRATIONS,
    TOTAL,
    abstract_states,
    install,
    make_fake_agent,
    metrics_lines,
    on_update,
    outcome,
    refused,
    small_config,
)


@pytest.fixture(autouse=True)
def fakes(monkeypatch, pool):
    install(monkeypatch.setattr, pool)


def write_dataset(directory, checksum="a"):
    """Says what the demonstrations are, which are faked."""
    directory.mkdir(parents=True)
    record = EpisodeRecord("000000-kettle.npz", checksum * 64, 9, ("kettle",))
    manifest = Manifest("scripted", "fast", 8, "3", {"seed": 0}, (record,))
    write_manifest(directory, manifest)


@pytest.fixture(scope="module")
def parents(pool, tmp_path_factory):
    """Finished runs, of one seed and of two."""
    folder = tmp_path_factory.mktemp("parents")
    with pytest.MonkeyPatch.context() as monkeypatch:
        install(monkeypatch.setattr, pool)
        for name, seeds in (("one", (0,)), ("two", (4, 0))):
            write_dataset(folder / name / "dataset")
            config = small_config()
            config.seeds = seeds
            training.train(config, folder / name)
    return folder


def branch_config(parent, *seeds, **changes):
    """Two online episodes with two updates each, saved after every update."""
    budget = {"offline_updates": 0, "online_episodes": 2, "checkpoint_every": 1}
    config = small_config(**(budget | changes))
    config.init_from = str(parent)
    config.seeds = seeds or (0,)
    return config


def assert_equal_but_for_keys(ours, theirs):
    for name in ("step", "weight", "skipped"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize(
    ("name", "seeds", "rows"),
    [("one", (0,), [0]), ("one", (5, 2**32 - 1), [0, 0]), ("two", (7, 8), [0, 1])],
)
def test_a_branch_has_its_parents_state_and_a_key_of_its_own(
    parents, name, seeds, rows
):
    config = branch_config(parents / name, *seeds)
    parent = branching.find_parent(config, AGENT)
    mesh = devices.make_mesh(config, 2)
    state = branching.branch_state(AGENT, parent, seeds, mesh)
    saved, _ = checkpoints.restore(
        parents / name, abstract_states(seeds=len(set(rows)))
    )
    expected = jax.tree.map(lambda leaf: leaf[np.array(rows)], saved)
    assert_equal_but_for_keys(state, expected)
    assert state.step.tolist() == [TOTAL] * len(seeds)
    for index, seed in enumerate(seeds):
        own = jax.random.fold_in(expected.key[index], seed)
        assert (jax.random.key_data(state.key[index]) == jax.random.key_data(own)).all()
    # What training is compiled for.
    assert state.weight.sharding == devices.state_sharding(mesh)


def test_a_branch_trains_on_what_its_parent_has_stored(tmp_path, monkeypatch, parents):
    added = []
    add = Replay.add

    def record(replay, episode, name, online=False):
        added.append((name, online))
        add(replay, episode, name, online=online)

    monkeypatch.setattr(Replay, "add", record)
    config = branch_config(parents / "one", 1)
    assert training.train(config, tmp_path / "run") is None
    online = parents / "one" / "online"
    assert added == [
        *((name, False) for name, _ in DEMONSTRATIONS),
        *((str(path), True) for path in sorted(online.iterdir())),
        *((f"online/{number:06d}.npz", True) for number in range(2)),
    ]
    lines = metrics_lines(tmp_path / "run")
    phases = [(line["step"], line["phase"]) for line in lines]
    # Its own count of updates, its own phases; the state's counter goes on.
    assert phases == [
        *((0, "evaluation before"), (1, "collection"), (1, "online"), (2, "online")),
        *((3, "collection"), (3, "online"), (4, "online"), (4, "evaluation online")),
    ]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["updates"] == 4 and "objects_before" in summary
    state, _ = checkpoints.restore(tmp_path / "run", abstract_states())
    assert state.step.tolist() == [TOTAL + 4]
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())
    assert recorded["init_from"] == str(parents / "one")


def test_branches_with_other_seeds_are_others(tmp_path, parents):
    signals = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        training.train(branch_config(parents / "one", seed), tmp_path / name)
        lines = metrics_lines(tmp_path / name)
        signals.append([line["signal"] for line in lines if line["phase"] == "online"])
    assert signals[0] == signals[1] and signals[0] != signals[2]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_an_interrupted_branch_ends_as_the_unbroken_one(tmp_path, parents, stop):
    parent = tmp_path / "parent"
    shutil.copytree(parents / "one", parent)
    training.train(branch_config(parent), tmp_path / "unbroken")
    with pytest.MonkeyPatch.context() as monkeypatch:
        on_update(
            monkeypatch.setattr,
            lambda done: done == stop and signal.raise_signal(signal.SIGTERM),
        )
        training.train(branch_config(parent), tmp_path / "run")
    # From here on it needs its parent's episodes alone.
    shutil.rmtree(parent / "checkpoints")
    assert training.train(branch_config(parent), tmp_path / "run") is None
    assert outcome(tmp_path / "run") == outcome(tmp_path / "unbroken")
    (parent / "online" / "000001.npz").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    message = refused(tmp_path / "run", DatasetError, branch_config(parent))
    assert str(parent / "online" / "000001.npz") in message


def test_a_branch_of_a_branch_has_the_episodes_of_both(tmp_path, parents):
    training.train(branch_config(parents / "one"), tmp_path / "child")
    config = branch_config(tmp_path / "child", 6)
    (episodes,) = branching.find_parent(config, AGENT).episodes
    folders = (parents / "one", tmp_path / "child")
    paths = [
        str(path) for run in folders for path in sorted((run / "online").iterdir())
    ]
    assert list(episodes) == paths and len(paths) == 5
    assert training.train(config, tmp_path / "grandchild") is None
    where = branching.dataset_directory(config.to_dict(), tmp_path / "grandchild")
    assert where == parents / "one" / "dataset"


def changed(**changes):
    def change(config):
        config.update_from_flattened_dict(changes)

    return change


@pytest.mark.parametrize(
    ("change", "culprits"),
    [
        (changed(agent="bc"), ("config.agent is 'bc'", "'moto'")),
        (changed(**{"env.image_size": 16}), ("config.env.image_size is 16", "with 8")),
        (changed(**{"data.episodes": 4}), ("config.data.episodes is 4", "with 3")),
        (changed(task="partial"), ("config.task is 'partial'", "'mixed'")),
        (
            changed(**{"world_model.colour_scale": 2.0}),
            ("config.world_model.colour_scale is 2.0", "with 1.0"),
        ),
        (changed(seeds=(0, 1, 2)), ("config.seeds has 3 seeds", "holds 2")),
    ],
)
def test_what_does_not_fit_its_parent_is_refused(tmp_path, parents, change, culprits):
    config = branch_config(parents / "two", 0, 1)
    change(config)
    with pytest.raises(RunError) as error:
        training.train(config, tmp_path / "run")
    for culprit in (*culprits, str(parents / "two")):
        assert culprit in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_parent_from_before_there_were_colour_axes_had_none(monkeypatch, parents):
    metadata = checkpoints.read_metadata(parents / "one")
    del metadata["config"]["world_model"]["colour_scale"]
    monkeypatch.setattr(checkpoints, "read_metadata", lambda path: metadata)
    config = branch_config(parents / "one")
    config.world_model.colour_scale = 8.0
    with pytest.raises(RunError, match=r"colour_scale is 8\.0, .* with 1\.0"):
        branching.find_parent(config, AGENT)
    config.world_model.colour_scale = 1.0
    assert branching.find_parent(config, AGENT).seeds == 1


@pytest.mark.parametrize(
    ("key", "wanted", "made_with"),
    [("world_model.deter", 16, 8), ("moto.critic_layers", 0, -1)],
)
def test_other_networks_are_refused_by_key(
    tmp_path, monkeypatch, parents, key, wanted, made_with
):
    def init(key):
        state = make_fake_agent().init(key)
        return state.replace(weight=jnp.zeros(12))

    agent = make_fake_agent()._replace(init=init)
    monkeypatch.setattr(training, "make_agent", lambda config, **sizes: agent)
    config = branch_config(parents / "one")
    config.update_from_flattened_dict({key: wanted})
    with pytest.raises(
        RunError, match=f"config.{key} is {wanted}, .* with {made_with}"
    ):
        training.train(config, tmp_path / "run")
    # Where no key says why, the leaf does.
    with pytest.raises(CheckpointError, match=r"\.weight as float32 \(1, 9\)"):
        training.train(branch_config(parents / "one"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_demonstrations_are_refused(tmp_path, parents):
    config = branch_config(parents / "one")
    for name, checksum in (("same", "a"), ("other", "b")):
        write_dataset(tmp_path / name, checksum)
    config.data.directory = str(tmp_path / "same")
    assert branching.find_parent(config, AGENT).seeds == 1
    config.data.directory = str(tmp_path / "other")
    with pytest.raises(RunError, match=r"config\.data\.directory.* are others than"):
        training.train(config, tmp_path / "run")
    config.data.directory = str(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="nowhere"):
        training.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_parent_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint in .*nowhere"):
        training.train(branch_config(tmp_path / "nowhere"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
