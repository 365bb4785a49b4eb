import dataclasses

import jax
import numpy as np
import pytest

from experiments.configs.mixed import get_config
from moto_jax.acting.environment_seeds import Purpose, environment_seed
from moto_jax.data.episodes import DatasetError, load_dataset, read_manifest
from moto_jax.worlds.kitchen.composition import composition
from moto_jax.worlds.kitchen.labels import completion_order
from moto_jax.worlds.mini import demonstrations
from moto_jax.worlds.mini.demonstrations import mini_demonstration, mini_episodes
from moto_jax.worlds.registry import make_world

SMALL = {"task": "mixed", "num_episodes": 5, "image_size": 16}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("mini") / "dataset"
    return directory, mini_episodes(directory, **SMALL)


def test_the_dataset_has_the_composition_of_the_human_ones(dataset):
    directory, manifest = dataset
    assert [record.objects for record in manifest.episodes] == composition("mixed", 5)
    episodes = load_dataset(directory, "mini", 16)
    for record, episode in zip(manifest.episodes, episodes, strict=True):
        assert completion_order(episode.objects_in_goal) == record.objects
        assert episode.action.shape == (episode.num_rows - 1, 3)
        # Ends soon after its last object, within the episode's time.
        assert 20 < episode.num_rows <= 65


def test_a_dataset_that_is_there_is_not_made_again(dataset):
    directory, manifest = dataset
    before = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    assert mini_episodes(directory, **SMALL) == manifest
    assert {path: path.stat().st_mtime_ns for path in directory.iterdir()} == before


@pytest.mark.parametrize(
    "change", [{"num_episodes": 6}, {"seed": 1}, {"image_size": 32}]
)
def test_another_dataset_in_the_directory_is_refused(dataset, change):
    directory, _ = dataset
    with pytest.raises(DatasetError, match="another directory"):
        mini_episodes(directory, **SMALL | change)


def test_equal_requests_make_equal_files(dataset, tmp_path):
    _, manifest = dataset
    assert mini_episodes(tmp_path, **SMALL).episodes == manifest.episodes
    assert read_manifest(tmp_path) == manifest


def test_what_the_demonstrator_cannot_do_is_said(tmp_path):
    with pytest.raises(DatasetError, match="within 12 steps.*config.env.episode_steps"):
        mini_episodes(tmp_path, **SMALL, episode_steps=12)
    assert not (tmp_path / "manifest.json").exists()


def test_what_failed_is_tried_again_with_another_seed(tmp_path, monkeypatch):
    record, asked = demonstrations._record, []

    def clumsy(kitchen, sequences, keys, action_noise):
        """Fails the second demonstration twice: it comes to rest too soon."""
        asked.append([tuple(np.asarray(jax.random.key_data(key))) for key in keys])
        episodes = record(kitchen, sequences, keys, action_noise)
        if len(asked) < 3:
            place = 1 if len(asked) == 1 else 0
            lost = episodes[place]
            nothing = np.zeros_like(lost.objects_in_goal)
            episodes[place] = dataclasses.replace(lost, objects_in_goal=nothing)
        return episodes

    monkeypatch.setattr(demonstrations, "_record", clumsy)
    manifest = mini_episodes(tmp_path, **SMALL)
    assert [len(keys) for keys in asked] == [5, 1, 1]
    assert len({key for keys in asked for key in keys}) == 7
    # As those of the real kitchen, they are made in environments of their own purpose.
    seeds = [
        environment_seed(Purpose.DEMONSTRATIONS, 0, attempt, number=number)
        for attempt, number in ((0, 0), (0, 4), (1, 1), (2, 1))
    ]
    made = [asked[0][0], asked[0][4], asked[1][0], asked[2][0]]
    assert made == [(0, seed) for seed in seeds]
    assert [record.attempts for record in manifest.episodes] == [1, 3, 1, 1, 1]
    assert [record.objects for record in manifest.episodes] == composition("mixed", 5)


def test_wrong_numbers_are_refused(tmp_path):
    for wrong in (
        {"seed": -1},
        {"seed": 2**32},
        {"action_noise": -0.1},
        {"num_episodes": 0},
    ):
        with pytest.raises(ValueError):
            mini_episodes(tmp_path, **SMALL | wrong)


def test_a_held_out_demonstration_is_of_what_is_asked_for():
    config = get_config("mini")
    config.env.image_size = 16
    objects = ("kettle", "top burner")
    config.task = ",".join(objects)
    one, same, other = (
        make_world(config).demonstrate(seed)
        for seed in (2**32 - 2, 2**32 - 2, 2**32 - 1)
    )
    assert completion_order(one.objects_in_goal) == objects
    np.testing.assert_array_equal(one.action, same.action)
    assert not np.array_equal(one.action[:10], other.action[:10])
    noiseless = mini_demonstration(objects, 0, action_noise=0.0, image_size=16)
    assert completion_order(noiseless.objects_in_goal) == objects


def test_no_recorded_data_fit_the_miniature():
    config = get_config("mini")
    config.data.source = "d4rl"
    with pytest.raises(ValueError, match="data.source is 'd4rl': use scripted"):
        make_world(config)


def test_the_miniature_is_drawn_in_one_way_alone():
    config = get_config("mini")
    config.env.render_profile = "fast"
    with pytest.raises(ValueError, match="render_profile is 'fast'.*'mini' alone"):
        make_world(config)
