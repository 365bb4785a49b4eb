import contextlib
import threading

import jax.numpy as jnp
import numpy as np
import pytest

from moto_jax.data.episodes import DatasetError, Episode
from moto_jax.running import machines, online_episodes
from moto_jax.running.online_episodes import OnlineEpisodes
from moto_jax.running.schedule import Round
from tests.test_schedule import alone


class Collector:
    """Makes an episode whose actions tell its number and the parameters it saw.

    While `gate` is closed it waits, as a real one does for its environments.
    """

    def __init__(self):
        self.numbers = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, new, params):
        self.numbers.append(new.number)
        assert self.gate.wait(timeout=60)
        return [self.episode(number, params) for number in new.episodes]

    def episode(self, number, params):
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
    """One seed's episodes."""
    known = {} if known is None else known
    online = OnlineEpisodes(
        [tmp_path / "online"],
        lambda new, params: {0: collect(new, params)},
        [known],
    )
    return contextlib.closing(online)


def take(online, number, params):
    (named,) = online.take(alone(number), [0], lambda: params)[0]
    return named


def start(online, number, params):
    online.start(alone(number), lambda: params)


def weights(value):
    return {"weight": jnp.full((3,), value, jnp.float32)}


def files(tmp_path):
    return sorted(path.name for path in (tmp_path / "online").iterdir())


def test_an_episode_is_collected_once_and_written_once(tmp_path, collect, written):
    with opened(tmp_path, collect) as online:
        name, episode = take(online, 0, weights(0.5))
        assert name == "000000.npz"
        assert episode.action[0, 1] == np.float32(0.5)
        assert files(tmp_path) == ["000000.npz"]
        online.finish()
        again_name, again = take(online, 0, weights(0.25))
    assert collect.numbers == [0] and written == ["000000.npz"]
    assert again_name == name
    np.testing.assert_array_equal(again.action, episode.action)
    np.testing.assert_array_equal(again.image, episode.image)


def test_an_episode_under_way_is_the_one_taken(tmp_path, collect, written):
    with opened(tmp_path, collect) as online:
        start(online, 0, weights(0.5))
        _, episode = take(online, 0, weights(0.25))
    assert episode.action[0, 1] == np.float32(0.5)
    assert collect.numbers == [0] and written == ["000000.npz"]


def test_collecting_does_not_hold_up_the_caller(tmp_path, collect):
    with opened(tmp_path, collect) as online:
        collect.gate.clear()
        start(online, 0, weights(0.5))
        assert online.known == [{}]
        assert files(tmp_path) == []
        collect.gate.set()
        online.finish()
        assert list(online.known[0]) == ["000000.npz"]


def test_finishing_writes_once_and_nothing_when_nothing_is_under_way(
    tmp_path, collect, written
):
    with opened(tmp_path, collect) as online:
        online.finish()
        start(online, 0, weights(0.5))
        online.finish()
        online.finish()
    assert written == ["000000.npz"]


def test_a_known_episode_is_read_and_not_collected_again(tmp_path, collect, written):
    with opened(tmp_path, collect) as online:
        first = [take(online, number, weights(0.5))[1] for number in range(2)]
        known = dict(online.known[0])
    other = Collector()
    with opened(tmp_path, other, known) as online:
        start(online, 0, weights(0.25))
        online.finish()
        second = [take(online, number, weights(0.25))[1] for number in range(2)]
        assert online.known == [known]
        _, third = take(online, 2, weights(0.25))
    assert other.numbers == [2]
    assert written == ["000000.npz", "000001.npz", "000002.npz"]
    assert third.action[0, 1] == np.float32(0.25)
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.action, two.action)


def test_the_callers_record_is_not_changed(tmp_path, collect):
    known = {}
    with opened(tmp_path, collect, known) as online:
        take(online, 0, weights(0.5))
    assert known == {}


def test_episodes_of_lost_updates_are_removed(tmp_path, collect):
    with opened(tmp_path, collect) as online:
        for number in range(3):
            take(online, number, weights(0.5))
        known = dict(online.known[0])
    del known["000002.npz"]
    others = ["00002.npz", "mine.npz", "notes.txt"]
    for name in others:
        (tmp_path / "online" / name).write_text("mine")
    with opened(tmp_path, collect, known) as online:
        assert files(tmp_path) == sorted(["000000.npz", "000001.npz", *others])
        _, episode = take(online, 2, weights(0.25))
    assert episode.action[0, 1] == np.float32(0.25)


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_known_episode_must_be_as_it_was_written(tmp_path, collect, damage):
    with opened(tmp_path, collect) as online:
        take(online, 0, weights(0.5))
        known = dict(online.known[0])
    path = tmp_path / "online" / "000000.npz"
    if damage == "change":
        contents = bytearray(path.read_bytes())
        contents[len(contents) // 2] ^= 1
        path.write_bytes(contents)
    else:
        path.unlink()
    with opened(tmp_path, collect, known) as online:
        with pytest.raises(DatasetError, match=r"000000\.npz"):
            take(online, 0, weights(0.5))
    assert collect.numbers == [0]


def test_an_error_in_collecting_reaches_whoever_takes(tmp_path):
    def collect(number, params):
        raise RuntimeError("environment workers failed 6 times")

    with opened(tmp_path, collect) as online:
        start(online, 0, weights(0.5))
        with pytest.raises(RuntimeError, match="failed 6 times"):
            take(online, 0, weights(0.5))
        assert online.known == [{}]
    assert files(tmp_path) == []


def test_a_round_has_an_episode_of_every_seed(tmp_path, collect):
    """Seeds 0 and 2 are collected here; seed 1's file comes from another process."""
    directories = [tmp_path / name for name in "abc"]

    def collect_round(new, params):
        own = [
            Round(new.number, range(3 + 10 * index, 4 + 10 * index))
            for index in range(3)
        ]
        return {index: collect(own[index], params) for index in (0, 2)}

    online = OnlineEpisodes(directories, collect_round, [{}, {}, {}])
    with contextlib.closing(online):
        taken = online.take(alone(3), [2, 0], lambda: weights(0.5))
        assert list(taken) == [2, 0]
        for index, ((name, episode),) in taken.items():
            assert name == "000003.npz"
            assert episode.image[0, 0, 0, 0] == 3 + 10 * index
        with pytest.raises(KeyError):
            online.take(alone(3), [1], lambda: weights(0.5))
    assert [list(files) for files in online.known] == [[name], [], [name]]
    assert [path.is_file() for path in (d / name for d in directories)] == [1, 0, 1]


def test_processes_tell_each_other_their_checksums(tmp_path, collect, monkeypatch):
    directories = [tmp_path / "a", tmp_path / "b"]
    theirs = Collector().episode(0, weights(0.25))

    def gather(own):
        # As another process would: the file first, then its checksum.
        checksum = online_episodes.write_episode(directories[1] / "000000.npz", theirs)
        return [own, {"1": {"000000.npz": checksum}}]

    monkeypatch.setattr(machines, "gather", gather)
    online = OnlineEpisodes(
        directories, lambda new, params: {0: collect(new, params)}, [{}, {}]
    )
    with contextlib.closing(online):
        taken = online.take(alone(0), [0, 1], lambda: weights(0.5))
    assert [one.action[0, 1] for ((_, one),) in taken.values()] == [0.5, 0.25]


def test_another_round_than_the_one_under_way_is_refused(tmp_path, collect):
    with opened(tmp_path, collect) as online:
        start(online, 1, weights(0.5))
        with pytest.raises(RuntimeError, match="round 0 is asked for while 1"):
            take(online, 0, weights(0.5))


def test_a_round_may_have_several_episodes(tmp_path, collect, written):
    several = Round(1, range(2, 5))
    names = ["000002.npz", "000003.npz", "000004.npz"]
    with opened(tmp_path, collect) as online:
        online.start(several, lambda: weights(0.5))
        taken = online.take(several, [0], lambda: weights(0.25))[0]
        assert list(online.known[0]) == names == written
        known = online.known[0]
    assert [name for name, _ in taken] == names
    assert [episode.image[0, 0, 0, 0] for _, episode in taken] == [2, 3, 4]
    other = Collector()
    with opened(tmp_path, other, known) as online:
        again = online.take(several, [0], lambda: weights(0.25))[0]
    assert not other.numbers
    for (_, one), (_, two) in zip(taken, again, strict=True):
        np.testing.assert_array_equal(one.action, two.action)


def test_a_round_of_which_an_episode_is_lost_is_collected_again(tmp_path, collect):
    several = Round(0, range(2))
    with opened(tmp_path, collect) as online:
        online.take(several, [0], lambda: weights(0.5))
        known = dict(online.known[0])
    del known["000001.npz"]
    with opened(tmp_path, collect, known) as online:
        taken = online.take(several, [0], lambda: weights(0.5))[0]
    assert [episode.image[0, 0, 0, 0] for _, episode in taken] == [0, 1]
    assert collect.numbers == [0, 0]
