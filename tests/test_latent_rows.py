"""The ring of latent rows: what is written stays, and what may follow what."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moto_jax.learning import latent_rows
from moto_jax.learning.networks.rssm import LatentState

CAPACITY, DETER, GROUPS, CLASSES, ACTION_SIZE = 8, 2, 3, 4, 2


def empty(capacity=CAPACITY):
    like = LatentState.zeros((1,), DETER, GROUPS, CLASSES)
    return latent_rows.empty_rows(capacity, like, ACTION_SIZE)


def row_classes(number, mark=0, numpy=np):
    """The class of each group of a row: different for every number below 64."""
    number = number + numpy.asarray(mark, numpy.int32)
    digits = [number // CLASSES**power % CLASSES for power in range(GROUPS)]
    return numpy.stack(digits, axis=-1)


@jax.jit
def write(rows, number, mark, is_first, is_terminal, wanted):
    """Writes rows whose every field tells their number and the writer's mark."""
    value = number + 100.0 * mark
    latent = LatentState(
        jnp.stack([value, -value], axis=-1),
        jax.nn.one_hot(row_classes(number, mark, jnp), CLASSES),
    )
    action = jnp.stack([value + 0.25, value + 0.5], axis=-1)
    return latent_rows.write_rows(
        rows, number, latent, action, value + 0.75, is_first, is_terminal, wanted
    )


def written(rows, *number, mark=0, first=(), terminal=(), wanted=True):
    number = np.array(number, np.int32)
    mark = np.broadcast_to(np.float32(mark), number.shape)
    flags = np.isin(number, first), np.isin(number, terminal)
    return write(rows, number, mark, *flags, np.broadcast_to(wanted, number.shape))


def assert_holds(rows, slot, number, mark=0):
    """Slot holds row `number` as `mark` wrote it, in all fields."""
    value = number + 100.0 * mark
    assert rows.number[slot] == number
    np.testing.assert_array_equal(rows.deter[slot], [value, -value])
    np.testing.assert_array_equal(rows.stoch[slot], row_classes(number, mark))
    np.testing.assert_array_equal(rows.prev_action[slot], [value + 0.25, value + 0.5])
    assert rows.reward[slot] == value + 0.75


@functools.partial(jax.jit, static_argnames=("count", "recorded"))
def sample(rows, seed=0, count=400, recorded=True):
    key = jax.random.key(seed)
    return latent_rows.sample_transitions(rows, key, count, CLASSES, recorded)


def drawn_from(rows, **kwargs):
    """The numbers at which drawn transitions begin."""
    return np.asarray(sample(rows, **kwargs).observation)[:, 0].astype(int)


class TestWriting:
    def test_a_row_is_at_the_slot_of_its_number(self):
        rows = written(empty(), 3, 4, 5, terminal=(4,), first=(3,))
        for number in (3, 4, 5):
            assert_holds(rows, number, number)
        np.testing.assert_array_equal(rows.number, [-1, -1, -1, 3, 4, 5, -1, -1])
        np.testing.assert_array_equal(np.flatnonzero(rows.is_first), [3])
        np.testing.assert_array_equal(np.flatnonzero(rows.is_terminal), [4])
        assert rows.stoch.dtype == np.uint8 and rows.capacity == CAPACITY

    def test_a_row_that_is_there_stays_as_it_was_written(self):
        before = written(empty(), 3, 4)
        after = written(before, 4, 5, 3, mark=1, first=(3,), terminal=(4,))
        for slot, (number, mark) in {3: (3, 0), 4: (4, 0), 5: (5, 1)}.items():
            assert_holds(after, slot, number, mark)
        assert not np.any(after.is_first) and not np.any(after.is_terminal)

    def test_of_equal_numbers_the_first_is_written_in_all_fields(self):
        mark = np.array([1, 2, 3, 4])
        rows = written(empty(), 5, 6, 5, 5, mark=mark)
        assert_holds(rows, 5, 5, mark=1)
        assert_holds(rows, 6, 6, mark=2)

    def test_a_number_beyond_the_capacity_takes_the_olds_place(self):
        rows = written(written(empty(), 6, 7), 7, 8, 14, mark=1)
        assert_holds(rows, 7, 7)
        assert_holds(rows, 0, 8, mark=1)
        assert_holds(rows, 6, 14, mark=1)

    def test_of_numbers_that_share_a_slot_the_first_is_written_whole(self):
        rows = written(empty(), 1, 9, 17, mark=np.array([1, 2, 3]))
        assert_holds(rows, 1, 1, mark=1)

    def test_what_is_not_wanted_is_not_written_and_keeps_no_place(self):
        rows = written(empty(), 3, 3, 4, mark=[1, 2, 3], wanted=[False, True, False])
        assert_holds(rows, 3, 3, mark=2)
        assert np.flatnonzero(rows.number >= 0).tolist() == [3]

    def test_nothing_else_changes(self):
        before = written(empty(), *range(CAPACITY))
        after = written(before, 12, mark=1)
        for slot in set(range(CAPACITY)) - {4}:
            assert_holds(after, slot, slot)

    def test_a_byte_tells_256_classes_apart(self):
        like = LatentState.zeros((1,), DETER, GROUPS, 256)
        latent = LatentState(like.deter, jax.nn.one_hot(np.array([[0, 7, 255]]), 256))
        flag, zero = np.zeros(1, bool), np.zeros(1, np.float32)
        rows = latent_rows.write_rows(
            latent_rows.empty_rows(CAPACITY, like, ACTION_SIZE),
            np.zeros(1, np.int32),
            latent,
            np.zeros((1, ACTION_SIZE), np.float32),
            zero,
            flag,
            flag,
        )
        np.testing.assert_array_equal(rows.stoch[0], [0, 7, 255])


class TestSampling:
    def test_only_consecutive_rows_of_one_episode_follow_each_other(self):
        # 0 1 2 | 3 4, a gap, 6 7: a row before the gap has no next.
        rows = written(empty(), 0, 1, 2, 3, 4, 6, 7, first=(0, 3))
        assert set(drawn_from(rows)) == {0, 1, 3, 6}

    def test_the_last_slot_is_followed_by_the_first(self):
        rows = written(empty(), 6, 7, 8, 9)
        assert set(drawn_from(rows)) == {6, 7, 8}
        transitions = sample(rows)
        across = np.asarray(transitions.observation)[:, 0] == 7
        np.testing.assert_array_equal(transitions.following[across][:, 0], 8.0)

    def test_the_newest_row_is_not_followed_by_the_oldest(self):
        rows = written(empty(), *range(3, 3 + CAPACITY))
        assert set(drawn_from(rows)) == set(range(3, 2 + CAPACITY))

    def test_empty_slots_are_neither_drawn_nor_followed_to(self):
        # An empty slot's number is -1, and 0 is its successor.
        transitions = sample(written(empty(), 0, 1))
        np.testing.assert_array_equal(transitions.observation[:, 0], 0.0)
        np.testing.assert_array_equal(transitions.following[:, 0], 1.0)

    def test_contents_are_the_states_and_what_led_to_the_next(self):
        rows = written(empty(), *range(4, 9), terminal=(6,))
        transitions = sample(rows, count=50)
        for n in range(50):
            number = int(transitions.observation[n, 0])
            for feature, which in (
                (transitions.observation[n], number),
                (transitions.following[n], number + 1),
            ):
                groups = np.eye(CLASSES)[row_classes(which)]
                expected = np.concatenate([[which, -which], groups.ravel()])
                np.testing.assert_array_equal(feature, expected)
            np.testing.assert_array_equal(
                transitions.action[n], [number + 1.25, number + 1.5]
            )
            assert transitions.reward[n] == number + 1.75
            assert transitions.continues[n] == float(number + 1 != 6)

    @pytest.mark.parametrize("recorded", [True, False])
    def test_transitions_say_where_they_are_from(self, recorded):
        transitions = sample(written(empty(), 0, 1), count=5, recorded=recorded)
        np.testing.assert_array_equal(transitions.recorded, recorded)
        assert not np.any(transitions.is_behaviour)
        assert transitions.recorded.shape == transitions.is_behaviour.shape == (5,)

    def test_every_transition_is_as_likely(self):
        rows = written(empty(), 0, 1, 3, 4, 5, 6, 7)
        drawn = drawn_from(rows, count=5_000)
        starts, counts = np.unique(drawn, return_counts=True)
        np.testing.assert_array_equal(starts, [0, 3, 4, 5, 6])
        # Chi-square of four degrees of freedom is above 18.5 once in a thousand.
        assert np.sum((counts - 1_000) ** 2) / 1_000 < 18.5

    def test_draws_are_independent_and_the_keys(self):
        rows = written(empty(), *range(CAPACITY))
        first, second = drawn_from(rows), drawn_from(rows, seed=1)
        assert np.any(first != second)
        np.testing.assert_array_equal(first, drawn_from(rows))
        assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.2


@pytest.mark.parametrize("field", ["deter", "reward"])
def test_a_row_that_is_not_finite_is_left_out_alone(field):
    number = np.arange(3, dtype=np.int32)
    values = {"deter": np.ones((3, DETER)), "reward": np.ones(3)}
    values[field][1] = np.nan
    latent = LatentState(jnp.asarray(values["deter"]), jnp.zeros((3, GROUPS, CLASSES)))
    flags = np.zeros(3, np.bool_)
    rows = latent_rows.write_rows(
        empty(),
        number,
        latent,
        np.ones((3, ACTION_SIZE)),
        values["reward"],
        flags,
        flags,
    )
    np.testing.assert_array_equal(rows.number[:4], [0, -1, 2, -1])
    assert np.all(np.isfinite(rows.deter)) and np.all(np.isfinite(rows.reward))


def test_enough_before_a_row_is_half_a_sequence_or_all_that_there_was():
    is_first = np.zeros((7, 3), bool)
    is_first[0, 1] = is_first[2, 2] = True
    enough = latent_rows.have_context(is_first)
    assert [np.flatnonzero(column)[0] for column in enough.T] == [3, 0, 2]
    assert enough.sum(axis=0).tolist() == [4, 7, 5]
