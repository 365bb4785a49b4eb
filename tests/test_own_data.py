"""Data of one's own in a run: which is read, what is refused, and that it is learnt."""

import contextlib
import dataclasses
import json
import logging
import os
import re

import numpy as np
import pytest

from experiments.configs.base import get_config
from moto_jax.acting import videos
from moto_jax.acting.collection import PoolStage
from moto_jax.acting.environment_seeds import Purpose
from moto_jax.agents import AGENTS
from moto_jax.data.episodes import (
    DatasetError,
    Episode,
    EpisodeRecord,
    Manifest,
    load_dataset,
    read_manifest,
    write_episode,
    write_manifest,
)
from moto_jax.running import training
from moto_jax.study.runs import read_run
from moto_jax.worlds.registry import WORLDS, make_world
from moto_jax.worlds.sources import SOURCES, load_demonstrations
from tests.test_episodes import make_dataset

SIZE = 16


def mini_config(**data):
    """The smallest real run there is: nothing but the device plays."""
    config = get_config("tiny")
    config.env.update(
        name="minikitchen", render_profile="mini", image_size=SIZE, episode_steps=8
    )
    config.data.update(data)
    config.training.update(online_episodes=1)
    return config


def kitchen_config(**data):
    config = get_config("tiny")
    config.env.image_size = 8
    config.replay.sequence_length = 4
    config.data.update(data)
    return config


def write_pixels(folder, lengths=(12, 9, 10), size=SIZE, actions=3):
    """Episodes of pixels and rewards alone, which rise to 4."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number, length in enumerate(lengths):
        action = generator.uniform(-1, 1, (length + 1, actions))
        action[0] = 0
        np.savez(
            folder / f"{number}.npz",
            image=generator.integers(0, 256, (length + 1, size, size, 3), np.uint8),
            action=action,
            reward=np.minimum(np.arange(length + 1) // 2, 4),
        )
    return folder


def files(directory):
    return {
        path.relative_to(directory): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


# --- which sources there are ----------------------------------------------------------


def test_every_world_has_the_sources_of_all(monkeypatch):
    """Beside its own, of which one may have the name of a common one."""
    assert set(SOURCES) == {"directory", "pixels", "random"}
    own = {"scripted": lambda *args: None, "random": lambda *args: None}

    def make_toys(config):
        return WORLDS["kitchen"](config)._replace(sources=own)

    monkeypatch.setitem(WORLDS, "toys", make_toys)
    config = kitchen_config()
    config.env.name = "toys"
    sources = make_world(config).sources
    assert list(sources) == ["scripted", "random", "directory", "pixels"]


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ({"source": "youtube"}, "'youtube': use scripted or d4rl or minari or dir"),
        ({"source": "random+random"}, "'random.random'"),
        ({"source": ""}, "config.data.source is ''"),
        ({"source": "directory"}, "config.data.directory is empty"),
        ({"source": "directory+random", "directory": "x"}, "directory stands alone"),
        ({"source": "pixels"}, "config.data.path is empty: give the folder of npz"),
        ({"source": "minari"}, "config.data.path is empty: give the hdf5 file, or"),
        ({"source": "random+d4rl"}, "config.data.path is empty: give the hdf5 file"),
        ({"source": "d4rl+pixels", "path": "x"}, "config.data.path is one"),
    ],
)
def test_a_source_that_cannot_be_is_refused_by_the_configuration_alone(data, fault):
    with pytest.raises(ValueError, match=fault) as error:
        make_world(kitchen_config(**data))
    assert "\n" not in str(error.value)


def test_a_branch_may_have_its_parents_directory():
    config = kitchen_config(source="directory")
    config.init_from = "runs/parent"
    make_world(config)


# --- a dataset that is already there --------------------------------------------------


def own_dataset(directory, **changes):
    """A kitchen's dataset of somebody else, of 4 and 5 rows."""
    directory.mkdir()
    manifest = dataclasses.replace(
        make_dataset(directory), source="their robot", request={}, mujoco_version=""
    )
    write_manifest(directory, dataclasses.replace(manifest, **changes))
    return directory


def load(config, directory):
    return load_demonstrations(config.data.source, make_world(config), directory)


@pytest.mark.parametrize("task", ["mixed", "partial", "kettle"])
def test_any_dataset_serves_any_task_and_nothing_is_written(tmp_path, task):
    directory = own_dataset(tmp_path / "theirs")
    (directory / "README.txt").write_text("of others")
    before = files(directory)
    config = kitchen_config(source="directory", directory=str(directory))
    config.task = task
    os.chmod(directory, 0o555)
    named = load(config, directory)
    os.chmod(directory, 0o755)
    assert [name for name, _ in named] == ["0.npz", "1.npz"]
    assert [episode.num_rows for _, episode in named] == [4, 5]
    assert files(directory) == before


def test_foreign_frames_are_taken_with_one_warning(tmp_path, caplog):
    directory = own_dataset(tmp_path / "theirs", render_profile="foreign")
    config = kitchen_config(source="directory", directory=str(directory))
    config.env.render_profile = "paper"
    with caplog.at_level(logging.WARNING):
        assert len(load(config, directory)) == 2
    (record,) = caplog.records
    assert "'paper'" in record.getMessage() and str(directory) in record.getMessage()
    config.env.image_size = 16
    with pytest.raises(DatasetError, match="'image_size' is 8"):
        load(config, directory)


def test_frames_of_another_known_profile_are_refused(tmp_path):
    directory = own_dataset(tmp_path / "theirs", render_profile="paper")
    config = kitchen_config(source="directory", directory=str(directory))
    with pytest.raises(DatasetError, match=r"manifest\.json.*'render_profile'.*'fast'"):
        load(config, directory)


def test_a_folder_that_is_no_dataset_is_named_as_what_it_is(tmp_path):
    config = kitchen_config(source="directory")
    config.data.directory = str(tmp_path)
    with pytest.raises(DatasetError, match=r"no manifest\.json.*source=pixels"):
        load(config, tmp_path)
    assert files(tmp_path) == {}


def test_episodes_shorter_than_a_sequence_are_left_out_and_counted(tmp_path, capsys):
    directory = own_dataset(tmp_path / "theirs")
    config = kitchen_config(source="directory", directory=str(directory))
    config.replay.sequence_length = 5
    assert [name for name, _ in load(config, directory)] == ["1.npz"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{directory}: 1 of 2 episodes are left out" in said
    config.replay.sequence_length = 6
    with pytest.raises(DatasetError, match="longest of 2 episodes has 5 rows.* 6:"):
        load(config, directory)
    write_manifest(
        directory, dataclasses.replace(read_manifest(directory), episodes=())
    )
    with pytest.raises(DatasetError, match="longest of 0 episodes"):
        load(config, directory)


def write_one(directory, **fields):
    """A dataset of one episode of 5 rows, of which some fields are others."""
    directory.mkdir()
    values = {
        "image": np.zeros((5, 8, 8, 3), np.uint8),
        "action": np.zeros((4, 9), np.float32),
        "reward": np.zeros(5, np.float32),
        **fields,
    }
    digest = write_episode(directory / "0.npz", Episode(**values))
    record = EpisodeRecord("0.npz", digest, 5, ())
    write_manifest(directory, Manifest("own", "foreign", 8, "", {}, (record,)))
    return directory


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"action": np.zeros((4, 3), np.float32)}, "'action' has 3 columns.* takes 9"),
        ({"objects_in_goal": np.zeros((5, 4), np.bool_)}, "'objects_in_goal'.* 7 obj"),
    ],
)
def test_an_episode_of_another_world_is_named_with_its_file(tmp_path, fields, fault):
    directory = write_one(tmp_path / "theirs", **fields)
    config = kitchen_config(source="directory", directory=str(directory))
    with pytest.raises(DatasetError, match=rf"theirs/0\.npz: field ({fault})"):
        load(config, directory)


# --- what is made never lies among files of others ------------------------------------


@pytest.mark.parametrize("source", ["scripted", "random", "scripted+random"])
@pytest.mark.parametrize("name", ["kitchen", "minikitchen"])
def test_no_source_writes_beside_files_of_others(tmp_path, source, name):
    config = mini_config(source=source)
    if name == "kitchen":
        config = kitchen_config(source=source)
    folder = write_pixels(tmp_path / "theirs")
    before = files(folder)
    pattern = rf"{re.escape(str(folder))}: holds '0\.npz'.*config\.data\.source=pixels"
    with pytest.raises(DatasetError, match=pattern):
        load(config, folder)
    assert files(folder) == before


def test_a_directory_of_other_datasets_of_ours_may_be_given_again(tmp_path):
    """A command that failed may be mended: other sources, the same directory."""
    config = mini_config(source="random+scripted", episodes=2)
    with pytest.raises(DatasetError, match="the demonstrator failed"):
        load(config, tmp_path)
    assert len(read_manifest(tmp_path / "random").episodes) == 2
    config = mini_config(source="random", episodes=2)
    assert len(load(config, tmp_path)) == 2
    (tmp_path / "more" / "deep").mkdir(parents=True)
    config = mini_config(source="random", episodes=2)
    config.data.directory = str(tmp_path / "more")
    load(config, tmp_path / "more")
    (tmp_path / "last" / "deep").mkdir(parents=True)
    (tmp_path / "last" / "deep" / "thesis.tex").touch()
    with pytest.raises(DatasetError, match=r"holds 'thesis\.tex'"):
        load(config, tmp_path / "last")


# --- random actions -------------------------------------------------------------------


def test_random_episodes_are_of_their_seed_alone(tmp_path):
    config = mini_config(source="random", episodes=3, seed=2**32 - 1)
    named = load(config, tmp_path / "a")
    assert [name for name, _ in named] == [f"{index:06d}.npz" for index in range(3)]
    for _, episode in named:
        assert episode.image.shape == (9, SIZE, SIZE, 3)
        assert episode.objects_in_goal is not None
    actions = np.stack([episode.action for _, episode in named])
    assert np.unique(actions).size == actions.size
    assert np.abs(actions).max() > 0.8 and abs(actions.mean()) < 0.3
    manifest = read_manifest(tmp_path / "a")
    assert (manifest.source, manifest.render_profile) == ("random", "mini")
    assert manifest.request["environment"]["episode_steps"] == 8
    # Made once; and the same in another directory, with any number of workers.
    before = files(tmp_path / "a")
    load(config, tmp_path / "a")
    assert files(tmp_path / "a") == before
    config.env.workers = 3
    load(config, tmp_path / "b")
    assert files(tmp_path / "b") == before
    config.data.seed = 1
    with pytest.raises(DatasetError, match="'seed'.*another directory"):
        load(config, tmp_path / "a")
    others = [episode.action for _, episode in load(config, tmp_path / "c")]
    assert not np.isin(np.stack(others), actions).any()


def test_random_episodes_are_played_where_the_world_plays(tmp_path, pool):
    """On the pool's fake kitchens, in environments that are for demonstrations."""
    asked = []

    class Tape:
        def player(self, policy):
            play = PoolStage(pool).player(policy)

            def taped(params, keys, plays):
                asked.extend(one.seed for one in plays)
                return play(params, keys, plays)

            return taped

    config = kitchen_config(source="random", episodes=35)
    world = WORLDS["kitchen"](config)
    world = world._replace(open_stage=lambda: contextlib.nullcontext(Tape()))
    SOURCES["random"](config, world)(tmp_path / "a", lambda done, total: None)
    assert len(set(asked)) == 35
    assert {seed >> 29 for seed in asked} == {Purpose.DEMONSTRATIONS}
    assert len(load_dataset(tmp_path / "a", "fast", 8)) == 35


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ({"episodes": 0}, "config.data.episodes is 0"),
        ({"seed": -1}, "config.data.seed is -1"),
        ({"seed": 2**32}, "config.data.seed is 4294967296"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, data, fault):
    with pytest.raises(ValueError, match=fault):
        load(mini_config(source="random", **data), tmp_path / "a")
    assert not (tmp_path / "a").exists()


# --- it is learnt from ----------------------------------------------------------------


@pytest.fixture
def no_videos(monkeypatch):
    monkeypatch.setattr(videos, "write_video", lambda path, frames: None)


def train_on_pixels(tmp_path, agent):
    """Trains on rewards alone, offline and online; returns the finished run."""
    folder = write_pixels(tmp_path / "theirs", lengths=(12, 9, 4))
    before = files(folder)
    config = mini_config(source="pixels", path=str(folder))
    config.agent = agent
    assert training.train(config, tmp_path / "run") is None
    assert files(folder) == before
    run = read_run(tmp_path / "run")
    assert run.summary["updates"] == 6
    # Rows up to the reward's last rise, and some after it.
    assert 0 < run.summary["cloned_share_before"] < 1
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    for line in map(json.loads, lines):
        numbers = [value for value in line.values() if isinstance(value, float)]
        assert np.isfinite(numbers).all()
    manifest = read_manifest(tmp_path / "run" / "dataset")
    assert len(manifest.episodes) == 3
    return run


@pytest.mark.parametrize("agent", ["moto", "bc"])
def test_an_agent_trains_on_pixels_and_rewards_alone(tmp_path, no_videos, agent):
    """One that reads sequences, and one that reads stacks of frames."""
    train_on_pixels(tmp_path, agent)


@pytest.mark.slow
@pytest.mark.parametrize(
    "agent", [name for name in AGENTS if name not in ("moto", "bc")]
)
def test_every_agent_trains_on_pixels_and_rewards_alone(tmp_path, no_videos, agent):
    train_on_pixels(tmp_path, agent)
