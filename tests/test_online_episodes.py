import contextlib
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moto_jax import online_episodes
from moto_jax.data.episodes import DatasetError, Episode
from moto_jax.online_episodes import OnlineEpisodes, copy_beside_training


class Collector:
    """Makes an episode whose actions tell its number and the parameters it saw.

    While `gate` is closed it waits, as a real one does for its environments.
    """

    def __init__(self):
        self.numbers = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, number, params):
        self.numbers.append(number)
        assert self.gate.wait(timeout=60)
        action = np.zeros((3, 9), np.float32)
        action[:, 0] = number / 100
        action[:, 1] = np.asarray(params["weight"])
        return Episode(
            image=np.full((4, 4, 4, 3), number, np.uint8),
            action=action,
            objects_in_goal=np.zeros((4, 7), np.bool_),
            qpos=np.zeros((4, 30), np.float32),
        )


@pytest.fixture
def collect():
    return Collector()


@pytest.fixture
def written(monkeypatch):
    """Names of the files written, in order."""
    names = []
    write = online_episodes.write_episode

    def record(path, episode):
        names.append(path.name)
        return write(path, episode)

    monkeypatch.setattr(online_episodes, "write_episode", record)
    return names


def opened(tmp_path, collect, known=None):
    return contextlib.closing(OnlineEpisodes(tmp_path / "online", collect, known or {}))


def weights(value):
    return {"weight": jnp.full((3,), value, jnp.float32)}


def files(tmp_path):
    return sorted(path.name for path in (tmp_path / "online").iterdir())


def test_an_episode_is_collected_once_and_written_once(tmp_path, collect, written):
    with opened(tmp_path, collect) as online:
        name, episode = online.take(0, weights(0.5))
        assert name == "000000.npz"
        assert episode.action[0, 1] == np.float32(0.5)
        assert files(tmp_path) == ["000000.npz"]
        online.finish()
        again_name, again = online.take(0, weights(0.25))
    assert collect.numbers == [0] and written == ["000000.npz"]
    assert again_name == name
    np.testing.assert_array_equal(again.action, episode.action)
    np.testing.assert_array_equal(again.image, episode.image)


def test_an_episode_under_way_is_the_one_taken(tmp_path, collect, written):
    with opened(tmp_path, collect) as online:
        online.start(0, weights(0.5))
        _, episode = online.take(0, weights(0.25))
    assert episode.action[0, 1] == np.float32(0.5)
    assert collect.numbers == [0] and written == ["000000.npz"]


def test_collecting_does_not_hold_up_the_caller(tmp_path, collect):
    with opened(tmp_path, collect) as online:
        collect.gate.clear()
        online.start(0, weights(0.5))
        assert online.known == {}
        assert files(tmp_path) == []
        collect.gate.set()
        online.finish()
        assert list(online.known) == ["000000.npz"]


def test_the_policy_keeps_the_parameters_it_began_with(tmp_path, collect):
    """The update that follows frees the buffers of the state it was given."""
    params = weights(0.5)
    with opened(tmp_path, collect) as online:
        collect.gate.clear()
        online.start(0, params)
        params["weight"].delete()
        collect.gate.set()
        _, episode = online.take(0, weights(0.25))
    assert episode.action[0, 1] == np.float32(0.5)


def test_finishing_writes_once_and_nothing_when_nothing_is_under_way(
    tmp_path, collect, written
):
    with opened(tmp_path, collect) as online:
        online.finish()
        online.start(0, weights(0.5))
        online.finish()
        online.finish()
    assert written == ["000000.npz"]


def test_a_known_episode_is_read_and_not_collected_again(tmp_path, collect, written):
    with opened(tmp_path, collect) as online:
        first = [online.take(number, weights(0.5))[1] for number in range(2)]
        known = dict(online.known)
    other = Collector()
    with opened(tmp_path, other, known) as online:
        online.start(0, weights(0.25))
        online.finish()
        second = [online.take(number, weights(0.25))[1] for number in range(2)]
        assert online.known == known
        _, third = online.take(2, weights(0.25))
    assert other.numbers == [2]
    assert written == ["000000.npz", "000001.npz", "000002.npz"]
    assert third.action[0, 1] == np.float32(0.25)
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.action, two.action)


def test_the_callers_record_is_not_changed(tmp_path, collect):
    known = {}
    with opened(tmp_path, collect, known) as online:
        online.take(0, weights(0.5))
    assert known == {}


def test_episodes_of_lost_updates_are_removed(tmp_path, collect):
    with opened(tmp_path, collect) as online:
        for number in range(3):
            online.take(number, weights(0.5))
        known = dict(online.known)
    del known["000002.npz"]
    (tmp_path / "online" / "notes.txt").write_text("mine")
    with opened(tmp_path, collect, known) as online:
        assert files(tmp_path) == ["000000.npz", "000001.npz", "notes.txt"]
        _, episode = online.take(2, weights(0.25))
    assert episode.action[0, 1] == np.float32(0.25)


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_known_episode_must_be_as_it_was_written(tmp_path, collect, damage):
    with opened(tmp_path, collect) as online:
        online.take(0, weights(0.5))
        known = dict(online.known)
    path = tmp_path / "online" / "000000.npz"
    if damage == "change":
        contents = bytearray(path.read_bytes())
        contents[len(contents) // 2] ^= 1
        path.write_bytes(contents)
    else:
        path.unlink()
    with opened(tmp_path, collect, known) as online:
        with pytest.raises(DatasetError, match=r"000000\.npz"):
            online.take(0, weights(0.5))
    assert collect.numbers == [0]


def test_an_error_in_collecting_reaches_whoever_takes(tmp_path):
    def collect(number, params):
        raise RuntimeError("environment workers failed 6 times")

    with opened(tmp_path, collect) as online:
        online.start(0, weights(0.5))
        with pytest.raises(RuntimeError, match="failed 6 times"):
            online.take(0, weights(0.5))
        assert online.known == {}
    assert files(tmp_path) == []


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_the_collectors_parameters_outlive_those_of_the_update(monkeypatch, backend):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    params = {"weight": jnp.arange(3.0)}
    copied = copy_beside_training(params)
    # As donating them does.
    params["weight"].delete()
    np.testing.assert_array_equal(copied["weight"], [0.0, 1.0, 2.0])
    # Beside an accelerator they are held fast on the CPU, and so is what uses them.
    assert copied["weight"].devices() == {jax.local_devices(backend="cpu")[0]}
    assert copied["weight"].committed == (backend == "gpu")


def test_without_a_cpu_the_collector_stays_on_the_accelerator(monkeypatch):
    def no_cpu(backend):
        raise RuntimeError(f"unknown backend {backend}")

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", no_cpu)
    copied = copy_beside_training({"weight": jnp.arange(3.0)})
    np.testing.assert_array_equal(copied["weight"], [0.0, 1.0, 2.0])
