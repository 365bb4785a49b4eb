from pathlib import Path

import numpy as np

from experiments.configs.base import get_config
from moto_jax import assembly
from moto_jax.data.sources import dataset_directories
from moto_jax.envs import renderer
from tests.test_episodes import make_dataset


def test_the_renderer_is_named_and_a_gpu_that_stands_idle_too(monkeypatch, capsys):
    monkeypatch.setattr(renderer, "renderer_name", lambda: "llvmpipe")
    monkeypatch.setattr(assembly, "software_warning", lambda name: f"{name} is slow")
    assembly.announce_renderer(get_config("tiny"))
    said = capsys.readouterr()
    assert said.err == "frames are drawn by llvmpipe\nllvmpipe is slow\n"
    monkeypatch.setattr(assembly, "software_warning", lambda name: None)
    assembly.announce_renderer(get_config("tiny"))
    assert capsys.readouterr().err == "frames are drawn by llvmpipe\n"


def test_several_sources_are_one_dataset_each_in_a_folder_of_its_own(
    tmp_path, monkeypatch
):
    config = get_config("tiny")
    config.data.update(source="d4rl+scripted", path="recorded.hdf5")
    config.env.image_size = 8
    made = []

    def make(directory):
        made.append(directory)
        directory.mkdir()
        return make_dataset(directory)

    monkeypatch.setattr(assembly, "_scripted", lambda config, own, progress: make(own))
    monkeypatch.setattr(assembly, "d4rl_episodes", lambda own, **options: make(own))
    named = assembly.make_dataset(config, tmp_path)
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
