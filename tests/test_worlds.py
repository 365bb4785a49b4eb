"""What training knows of a world, and where its demonstrations come from."""

from pathlib import Path

import numpy as np
import pytest

from experiments.configs.base import get_config
from moto_jax.running import training
from moto_jax.worlds.registry import WORLDS, make_world
from moto_jax.worlds.sources import dataset_directories, load_demonstrations
from tests.test_episodes import make_dataset


def world_of(name, **env):
    config = get_config("mini" if name == "minikitchen" else "tiny")
    if name == "metaworld":
        config.task = "drawer-open"
        config.env.render_profile = "metaworld"
    config.env.update(name=name, **env)
    return make_world(config)


@pytest.mark.parametrize("name", WORLDS)
def test_every_world_says_what_it_is_without_starting_anything(name):
    world = world_of(name)
    assert world.action_size >= 1 and world.image_size >= 1
    assert world.events and len(set(world.events)) == len(world.events)
    assert "scripted" in world.sources


def test_a_world_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(ValueError, match="'toys' in config.env.name: use one of kit"):
        world_of("toys")


def test_the_renderer_is_named_and_a_gpu_that_stands_idle_too(monkeypatch, capsys):
    world = world_of("kitchen")._replace(renderer_name=lambda: "llvmpipe")
    monkeypatch.setattr(training, "software_warning", lambda name: f"{name} is slow")
    training.announce_renderer(world)
    said = capsys.readouterr()
    assert said.err == "frames are drawn by llvmpipe\nllvmpipe is slow\n"
    monkeypatch.setattr(training, "software_warning", lambda name: None)
    training.announce_renderer(world)
    assert capsys.readouterr().err == "frames are drawn by llvmpipe\n"
    # On the device nothing else draws.
    training.announce_renderer(world_of("minikitchen"))
    assert capsys.readouterr().err == ""


def test_several_sources_are_one_dataset_each_in_a_folder_of_its_own(tmp_path):
    made = []

    def make(directory, progress):
        made.append(directory)
        directory.mkdir()
        return make_dataset(directory)

    world = world_of("kitchen", image_size=8)._replace(
        sources={"d4rl": make, "scripted": make}
    )
    named = load_demonstrations("d4rl+scripted", world, tmp_path)
    assert made == [tmp_path / "d4rl", tmp_path / "scripted"]
    assert made == list(dataset_directories("d4rl+scripted", tmp_path).values())
    names = [name for name, _ in named]
    half = len(names) // 2
    assert half and len(set(names)) == len(names)
    assert {str(Path(name).parent) for name in names[:half]} == {"d4rl"}
    assert {str(Path(name).parent) for name in names[half:]} == {"scripted"}
    for (_, first), (_, second) in zip(named[:half], named[half:], strict=True):
        np.testing.assert_array_equal(first.action, second.action)
    assert dataset_directories("scripted", tmp_path) == {"scripted": tmp_path}
