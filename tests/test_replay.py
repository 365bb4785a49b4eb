"""Sequences drawn from replay: where they begin, what they hold, what they cost."""

import collections
import dataclasses
import functools
import itertools
import threading
import tracemalloc

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from experiments.configs import base
from moto_jax.data.batches import device_batches, prefetch
from moto_jax.data.episodes import DatasetError, Episode
from moto_jax.data.replay import Replay, make_replays
from moto_jax.data.rows import Labels, Rows, to_rows
from moto_jax.running import devices
from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.kitchen.labels import make_label

LABEL = make_label(tasks.TASKS["mixed"])


def make_episode(number: int, num_rows: int, image_size: int = 2) -> Episode:
    """An episode whose pixels tell its number and the row; objects done on the way."""
    generator = np.random.default_rng(number)
    image = np.zeros((num_rows, image_size, image_size, 3), np.uint8)
    image[..., 0] = number
    image[..., 1] = np.arange(num_rows)[:, None, None]
    in_goal = np.zeros((num_rows, len(tasks.OBJECTS)), np.bool_)
    in_goal[num_rows // 2 :, tasks.OBJECTS.index("microwave")] = True
    return Episode(
        image=image,
        action=generator.uniform(-1, 1, (num_rows - 1, 9)).astype(np.float32),
        objects_in_goal=in_goal,
        qpos=np.zeros((num_rows, 30), np.float32),
    )


def make_replay(
    lengths, batch_size=8, sequence_length=4, seed=0, image_size=2, **options
) -> Replay:
    replay = Replay(LABEL, batch_size, sequence_length, seed, **options)
    for number, num_rows in enumerate(lengths):
        replay.add(make_episode(number, num_rows, image_size), f"episode-{number}")
    return replay


def origins(batch) -> list[tuple[int, int]]:
    """(episode, first row) of every sequence, read from the pixels."""
    first = batch.image[0, :, 0, 0]
    return [(int(pixel[0]), int(pixel[1])) for pixel in first]


def test_batch_is_time_major_with_the_dtypes_of_rows():
    batch = make_replay([30, 30], batch_size=3, sequence_length=5).sample(0)
    assert batch.image.shape == (5, 3, 2, 2, 3) and batch.image.dtype == np.uint8
    assert batch.prev_action.shape == (5, 3, 9)
    assert batch.prev_action.dtype == batch.reward.dtype == np.float32
    for flag in (
        batch.is_first,
        batch.is_last,
        batch.is_terminal,
        batch.is_behaviour,
    ):
        assert flag.shape == (5, 3) and flag.dtype == np.bool_


def test_sequences_are_contiguous_rows_of_one_episode():
    lengths, first_rows = [4, 7, 30], [0, 4, 11]
    rows = [
        to_rows(one := make_episode(i, length), LABEL(one), first_row)
        for i, (length, first_row) in enumerate(zip(lengths, first_rows, strict=True))
    ]
    replay = make_replay(lengths)
    for step in range(30):
        batch = replay.sample(step)
        for column, (episode, start) in enumerate(origins(batch)):
            assert 0 <= start <= lengths[episode] - 4
            for field in dataclasses.fields(Rows):
                expected = getattr(rows[episode], field.name)[start : start + 4]
                np.testing.assert_array_equal(
                    getattr(batch, field.name)[:, column], expected, err_msg=field.name
                )


def test_rows_are_numbered_in_the_order_they_came_wherever_they_are_from():
    replay = make_replay([5, 6])
    replay.add(make_episode(2, 7), "online", online=True)
    first_rows = {0: 0, 1: 5, 2: 11}
    seen = set()
    for step in range(40):
        batch = replay.sample(step)
        assert batch.row.dtype == np.int32
        for column, (episode, start) in enumerate(origins(batch)):
            first = first_rows[episode] + start
            assert batch.row[:, column].tolist() == list(range(first, first + 4))
            seen.update(batch.row[:, column].tolist())
    assert seen == set(range(18))


def test_action_is_zero_exactly_where_an_episode_begins():
    batch = make_replay([4, 6], batch_size=64).sample(0)
    starts_at_zero = np.array([start == 0 for _, start in origins(batch)])
    assert starts_at_zero.any() and not starts_at_zero.all()
    np.testing.assert_array_equal(batch.is_first[0], starts_at_zero)
    assert not batch.is_first[1:].any()
    np.testing.assert_array_equal((batch.prev_action == 0).all(axis=-1), batch.is_first)


def test_starts_follow_the_row_then_offset_rule():
    lengths, sequence_length = [4, 5, 9, 20], 4
    expected = collections.Counter()
    for episode, num_rows in enumerate(lengths):
        for row, offset in itertools.product(range(num_rows), range(sequence_length)):
            start = min(max(row - offset, 0), num_rows - sequence_length)
            expected[episode, start] += 1 / (sum(lengths) * sequence_length)
    replay = make_replay(lengths, batch_size=400, sequence_length=sequence_length)
    counts = collections.Counter()
    for step in range(50):
        counts.update(origins(replay.sample(step)))
    draws = sum(counts.values())
    assert counts.keys() == expected.keys()
    chi_square = sum(
        (counts[place] - draws * share) ** 2 / (draws * share)
        for place, share in expected.items()
    )
    freedom = len(expected) - 1
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)


def test_successes_are_preferred_where_there_are_any():
    whole = tasks.resolve_task("mixed")
    columns = [tasks.OBJECTS.index(name) for name in whole]

    def episode(number, objects):
        """Objects done one behind the other, from row 10 on."""
        one = make_episode(number, 40)
        in_goal = np.zeros((40, len(tasks.OBJECTS)), np.bool_)
        for place, column in enumerate(columns[:objects]):
            in_goal[10 + place :, column] = True
        return dataclasses.replace(one, objects_in_goal=in_goal)

    def drawn(replay):
        return {one for step in range(5) for one, _ in origins(replay.sample(step))}

    options = {"behaviour_share": 1.0, "online_share": 0.5}
    replay = Replay(LABEL, 32, 4, 0, prefer_successes=True, **options)
    replay.add(episode(0, 3), "three")
    replay.add(episode(1, 2), "two")
    # Nobody did the whole task: all with cloned rows.
    assert drawn(replay) == {0, 1}
    # The online ones are asked apart.
    replay.add(episode(2, 3), "online three", online=True)
    replay.add(episode(3, 4), "online four", online=True)
    assert drawn(replay) == {0, 1, 3}
    replay.add(episode(4, 4), "four")
    assert drawn(replay) == {3, 4}
    # Around all that is cloned there, ten rows from row 13 on.
    starts = {start for step in range(40) for _, start in origins(replay.sample(step))}
    assert starts == set(range(23))
    anyhow = Replay(LABEL, 32, 4, 0, **options)
    anyhow.add(episode(0, 3), "three")
    anyhow.add(episode(4, 4), "four")
    assert drawn(anyhow) == {0, 4}


def test_every_transition_of_an_episode_is_as_likely_for_agents_without_a_model():
    """The first sequence stands for its three, each other one for its last."""
    lengths, length = [4, 5, 9, 20], 4
    replay = make_replay(lengths, 400, length, transitions=True)
    counts = collections.Counter()
    for step in range(50):
        counts.update(origins(replay.sample(step)))
    draws = sum(counts.values())
    for episode, num_rows in enumerate(lengths):
        places = range(num_rows - length + 1)
        assert {start for number, start in counts if number == episode} == set(places)
        # By its rows among all.
        likely = num_rows / sum(lengths)
        for start in places:
            stands_for = length - 1 if start == 0 else 1
            share = likely * stands_for / (num_rows - 1)
            deviation = np.sqrt(draws * share * (1 - share))
            assert abs(counts[episode, start] - draws * share) < 4 * deviation


def test_cloned_transitions_are_the_last_of_their_sequences():
    # Of 40 rows the first 30 are cloned: object done at row 20, ten rows more.
    replay = make_replay([40], 400, 4, transitions=True, behaviour_share=1.0)
    starts = collections.Counter(start for _, start in origins(replay.sample(0)))
    assert set(starts) <= set(range(29))
    # Rows 0, 1 and 2 are all of the first sequence.
    assert 25 < starts[0] < 60 and max(starts[start] for start in range(1, 29)) < 30


def test_returns_to_go_are_discounted_as_asked():
    replay = make_replay([30], 4, 5, discount=0.5)
    batch = replay.sample(3)
    expected = batch.reward[1:] + 0.5 * batch.return_to_go[1:]
    np.testing.assert_allclose(batch.return_to_go[:-1], expected, rtol=1e-6)
    assert batch.return_to_go.dtype == np.float32


def configured(demonstrations=2, online_share=None, **changes):
    """A replay of a configuration, as a run makes it, with one online episode."""
    config = base.get_config("tiny")
    config.update_from_flattened_dict(changes)
    (replay,) = make_replays(
        *(
            config,
            LABEL,
            [(f"{n}", make_episode(n, 30)) for n in range(demonstrations)],
        ),
        *([0], (4, 200)),
        transitions=False,
        online_share=online_share,
    )
    replay.add(make_episode(9, 30), "online", online=True)
    return replay


def online_part(replay):
    return np.mean([episode == 9 for episode, _ in origins(replay.sample(0))])


@pytest.mark.parametrize(
    ("own", "configured_share", "expected"),
    [(None, -1.0, 1 / 3), (None, 0.8, 0.8), (0.5, -1.0, 0.5), (0.5, 0.8, 0.5)],
)
def test_an_agents_own_online_share_comes_before_the_configurations(
    own, configured_share, expected
):
    replay = configured(online_share=own, **{"replay.online_share": configured_share})
    assert abs(online_part(replay) - expected) < 0.12


def test_a_configurations_replay_has_its_discount():
    batch = configured(**{"actor_critic.discount": 0.5}).sample(0)
    expected = batch.reward[1:] + 0.5 * batch.return_to_go[1:]
    np.testing.assert_allclose(batch.return_to_go[:-1], expected, rtol=1e-6)


def test_a_configurations_replay_prefers_successes_if_asked():
    def drawn(prefer):
        keys = {"replay.behaviour_share": 1.0, "replay.online_share": 0.0}
        replay = configured(**keys, **{"replay.prefer_successes": prefer})
        in_goal = np.zeros((30, len(tasks.OBJECTS)), np.bool_)
        for place, name in enumerate(tasks.resolve_task("mixed")):
            in_goal[5 + place :, tasks.OBJECTS.index(name)] = True
        whole = dataclasses.replace(make_episode(5, 30), objects_in_goal=in_goal)
        replay.add(whole, "whole")
        return {episode for episode, _ in origins(replay.sample(0))}

    assert drawn(True) == {5} and drawn(False) == {0, 1, 5}


def test_sample_is_a_function_of_seed_step_and_contents():
    lengths = [10, 12, 14]
    first = make_replay(lengths, seed=3)
    second = make_replay(lengths, seed=3)
    for step in (5, 0, 9):
        second.sample(step)
    for step in (0, 9, 2**40):
        for a, b in zip(
            dataclasses.astuple(first.sample(step)),
            dataclasses.astuple(second.sample(step)),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)
    draws = {
        tuple(origins(make_replay(lengths, batch_size=32, seed=seed).sample(step)))
        for seed in (3, 4)
        for step in (0, 1, 2)
    }
    assert len(draws) == 6


def test_samples_do_not_share_memory():
    replay = make_replay([10])
    first, second = replay.sample(0), replay.sample(0)
    assert not np.shares_memory(first.image, second.image)
    first.image[:] = 255
    np.testing.assert_array_equal(replay.sample(0).image, second.image)


def test_add_copies_no_image():
    episode = make_episode(0, 100, image_size=64)
    replay = Replay(LABEL, 1, 4, 0)
    tracemalloc.start()
    try:
        replay.add(episode, "large")
        allocated, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert allocated < episode.image.nbytes / 20


def test_rows_and_names_are_counted():
    replay = make_replay([10, 12])
    replay.add(make_episode(2, 20), "online-0", online=True)
    assert replay.num_rows == 42
    assert replay.num_episodes == 3
    assert replay.names == ("episode-0", "episode-1", "online-0")
    assert replay.online_names == ("online-0",)


@pytest.mark.parametrize(
    ("online_share", "expected"),
    [(None, 20 / 50), (0.0, 0.0), (0.75, 0.75), (1.0, 1.0)],
)
def test_online_share(online_share, expected):
    replay = make_replay([10, 20], batch_size=500, online_share=online_share)
    assert {episode for episode, _ in origins(replay.sample(0))} == {0, 1}
    replay.add(make_episode(2, 20), "online", online=True)
    drawn = [
        episode for step in range(8) for episode, _ in origins(replay.sample(step))
    ]
    share = drawn.count(2) / len(drawn)
    deviation = np.sqrt(expected * (1 - expected) / len(drawn))
    assert abs(share - expected) <= 4 * deviation


def test_online_episodes_alone_are_all_that_is_drawn():
    replay = Replay(LABEL, 8, 4, 0, online_share=0.25)
    replay.add(make_episode(7, 20), "online", online=True)
    assert {episode for episode, _ in origins(replay.sample(0))} == {7}


def test_unusable_episodes_are_refused_and_leave_the_replay_as_it_was():
    replay = make_replay([10], sequence_length=4)
    with pytest.raises(DatasetError, match="short has 3 rows.*sequence_length 4"):
        replay.add(make_episode(1, 3), "short")
    with pytest.raises(DatasetError, match="episode-0 is already"):
        replay.add(make_episode(1, 10), "episode-0")
    with pytest.raises(DatasetError, match="large has image and action shapes"):
        replay.add(make_episode(1, 10, image_size=4), "large")
    assert replay.num_rows == 10 and replay.names == ("episode-0",)


def test_empty_replay_and_bad_options_are_named():
    with pytest.raises(DatasetError, match="holds no episode"):
        Replay(LABEL, 1, 4, 0).sample(0)
    with pytest.raises(ValueError, match="batch_size 0"):
        Replay(LABEL, 0, 4, 0)
    with pytest.raises(ValueError, match="seed -1"):
        Replay(LABEL, 1, 4, -1)
    with pytest.raises(ValueError, match="online_share 1.5"):
        Replay(LABEL, 1, 4, 0, online_share=1.5)
    with pytest.raises(ValueError, match="behaviour_share"):
        Replay(LABEL, 1, 4, 0, behaviour_share=-0.5)


def test_a_share_of_sequences_is_drawn_around_rows_that_are_cloned():
    # Of 120 rows the first 35 are cloned, and none of the second episode's.
    replays = {
        share: Replay(LABEL, 400, 4, seed=0, behaviour_share=share)
        for share in (0.0, 0.6, 1.0)
    }
    done = make_episode(0, 50)
    nothing = dataclasses.replace(
        make_episode(1, 70), objects_in_goal=np.zeros((70, len(tasks.OBJECTS)), bool)
    )
    for replay in replays.values():
        replay.add(done, "done")
        replay.add(nothing, "nothing")
    rows = to_rows(done, LABEL(done))
    assert rows.is_behaviour.sum() == 35
    found = {
        share: [place for step in range(10) for place in origins(replay.sample(step))]
        for share, replay in replays.items()
    }
    around = {start for row in range(35) for start in range(max(row - 3, 0), row + 1)}
    assert {episode for episode, _ in found[1.0]} == {0}
    assert {start for _, start in found[1.0]} == around
    for share, places in found.items():
        of_first = np.mean([episode == 0 for episode, _ in places])
        expected = share + (1 - share) * 50 / 120
        assert abs(of_first - expected) < 0.03
    # Where nothing is cloned all rows are drawn as ever.
    replay = Replay(LABEL, 8, 4, seed=0, behaviour_share=1.0)
    replay.add(nothing, "nothing")
    assert {start for _, start in origins(replay.sample(0))} <= set(range(67))


def test_prefetch_yields_every_value_in_order_one_ahead():
    made = []

    def make(step):
        made.append(step)
        return step * step

    values = prefetch(make, range(5, 8))
    assert next(values) == 25
    assert len(made) <= 2
    assert list(values) == [36, 49]
    assert made == [5, 6, 7]
    assert list(prefetch(make, [])) == []


def test_prefetch_raises_the_error_of_its_step_and_stops_its_thread():
    def make(step):
        if step == 1:
            raise RuntimeError("step one")
        return step

    threads = threading.active_count()
    values = prefetch(make, range(3))
    assert next(values) == 0
    with pytest.raises(RuntimeError, match="step one"):
        next(values)
    abandoned = prefetch(make, [0, 2, 3])
    next(abandoned)
    abandoned.close()
    assert threading.active_count() == threads


def test_a_batch_written_over_is_the_batch_of_its_step():
    replay = make_replay([30, 40, 50])
    buffer = replay.empty_batch()
    for step in (3, 0, 7):
        batch = replay.sample(step, out=buffer)
        fresh = replay.sample(step)
        for field in dataclasses.fields(Rows):
            ours, theirs = getattr(batch, field.name), getattr(fresh, field.name)
            assert np.shares_memory(ours, getattr(buffer, field.name))
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs, err_msg=field.name)


def test_columns_of_a_batch_are_those_of_the_whole():
    replay = make_replay([30, 40, 50], batch_size=6)
    whole = replay.sample(4)
    for columns in (range(2, 5), range(0, 6), range(5, 6)):
        part = replay.sample(4, columns=columns)
        for field in dataclasses.fields(Rows):
            np.testing.assert_array_equal(
                getattr(part, field.name),
                getattr(whole, field.name)[:, columns],
                err_msg=field.name,
            )


def test_a_batch_on_the_device_outlives_the_buffer_it_came_from():
    # As large as in training: small arrays are copied to a device in other ways.
    replays = [
        make_replay(
            [60, 70], batch_size=12, sequence_length=24, image_size=64, seed=seed
        )
        for seed in (3, 4)
    ]
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("seed", "data"))
    columns = range(4, 10)
    place = functools.partial(devices.place_batch, seeds=2, batch_size=6, mesh=mesh)
    batches = list(device_batches(replays, range(5), columns, place))
    assert len(batches) == 5
    for step, batch in enumerate(batches):
        for index, replay in enumerate(replays):
            fresh = replay.sample(step)
            for field in dataclasses.fields(Rows):
                ours = getattr(batch, field.name)
                assert isinstance(ours, jax.Array)
                np.testing.assert_array_equal(
                    np.asarray(ours)[index],
                    getattr(fresh, field.name)[:, columns],
                    err_msg=field.name,
                )


def ended_episode(rows, number):
    """An episode that its environment ended, in a world of rewards."""
    return Episode(
        image=np.full((rows, 4, 4, 3), number, np.uint8),
        action=np.full((rows - 1, 2), 0.1, np.float32),
        reward=np.zeros(rows, np.float32),
        is_terminal=np.arange(rows) == rows - 1,
    )


def two_are_cloned(episode):
    never = np.zeros((episode.num_rows, 1), np.bool_)
    return Labels(episode.reward, episode.is_terminal, never, behaviour_rows=2)


def test_short_online_episodes_fill_sequences_together():
    replay = Replay(
        *(two_are_cloned, 64, 8, 0),
        online_share=0.5,
        behaviour_share=0.5,
    )
    replay.add(ended_episode(9, 0), "demonstration")
    for number in range(1, 5):
        replay.add(ended_episode(3, number), f"{number}", online=True)
    # Three make nine rows; the fourth waits.
    assert replay.num_rows == 18
    batch = replay.sample(0)
    assert np.unique(batch.image).tolist() == [0, 1, 2, 3]
    joined = batch.image[0, :, 0, 0, 0] > 0
    assert set(batch.is_first[:, joined].sum(axis=0)) <= {2, 3}
    assert not batch.prev_action[batch.is_first].any()
    assert (batch.is_terminal == batch.is_last)[:, joined].all()
    assert (np.diff(batch.row[:, joined], axis=0) == 1).all()
    # Of each of the three the first two rows are cloned.
    cloned = batch.is_behaviour[:, joined]
    offset = np.arange(8)[:, None] + batch.row[0, joined] - 9
    np.testing.assert_array_equal(cloned, offset % 3 < 2)


def test_cloned_rows_of_joined_episodes_are_found_where_they_are():
    def second_is_cloned(episode):
        labels = two_are_cloned(episode)
        number = episode.image[0, 0, 0, 0]
        return dataclasses.replace(labels, behaviour_rows=2 if number == 2 else 0)

    replay = Replay(
        *(second_is_cloned, 64, 8, 0),
        online_share=1.0,
        behaviour_share=1.0,
    )
    replay.add(ended_episode(9, 0), "demonstration")
    for number in (1, 2):
        replay.add(ended_episode(5, number), f"{number}", online=True)
    # Cloned are rows 5 and 6 of ten: a sequence of eight around them begins anywhere,
    # around rows 0 and 1 it could not begin at row 2.
    starts = replay.sample(0).row[0] - 9
    assert set(starts.tolist()) == {0, 1, 2}


def test_short_online_episodes_are_left_out_of_sequences_of_one_episode():
    replay = Replay(two_are_cloned, 4, 8, 0, transitions=True)
    replay.add(ended_episode(9, 0), "demonstration")
    replay.add(ended_episode(3, 1), "short", online=True)
    assert replay.num_rows == 9 and replay.online_names == ("short",)
    assert not replay.sample(0).image.any()
    with pytest.raises(DatasetError, match="fewer than sequence_length 8"):
        replay.add(ended_episode(3, 1), "short demonstration")
