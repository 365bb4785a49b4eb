"""Transitions from sequences of frames, their random shifts, and stacks in acting."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moto_jax.learning import model_free
from moto_jax.types import Batch
from tests import fakes

FRAMES, SIZE, PIXELS, ACTION_SIZE = 3, 5, 8, 2
ROWS = FRAMES + 1


def recorded_batch() -> Batch:
    """Every number tells its row and column; column 0 begins an episode."""
    rows = np.arange(ROWS)[:, None] + 10 * np.arange(SIZE)[None]
    number = rows.astype(np.uint8)[..., None, None, None]
    batch = fakes.random_batch(ROWS, SIZE, action_size=ACTION_SIZE, image_size=PIXELS)
    batch = batch.replace(
        image=np.broadcast_to(number, batch.image.shape).copy(),
        prev_action=np.float32(rows)[..., None] / 100 + np.zeros((1, 1, ACTION_SIZE)),
        reward=np.float32(rows),
    )
    batch.is_first[0, 0] = True
    return batch


@functools.partial(jax.jit, static_argnames="shift")
def to_transitions(batch, seed=0, shift=0):
    return model_free.to_transitions(batch, jax.random.key(seed), shift)


def frames_of(stack):
    """The row that each frame of stacks [N, height, width, 3 * frames] came from."""
    stack = np.asarray(stack)
    assert np.all(stack == stack[:, :1, :1])
    assert stack.dtype == np.uint8
    return stack[:, 0, 0, ::3].astype(int)


class TestToTransitions:
    def test_inside_an_episode_the_last_transition_is_taken(self):
        for seed in range(5):
            rows = to_transitions(recorded_batch(), seed)
            base = 10 * np.arange(1, SIZE)[:, None]
            np.testing.assert_array_equal(
                frames_of(rows.observation)[1:], base + np.array([[0, 1, 2]])
            )
            np.testing.assert_array_equal(
                frames_of(rows.following)[1:], base + np.array([[1, 2, 3]])
            )

    def test_action_and_reward_are_those_that_led_to_the_next_row(self):
        batch = recorded_batch()
        rows = to_transitions(batch)
        np.testing.assert_array_equal(rows.action[1:], batch.prev_action[-1, 1:])
        np.testing.assert_array_equal(rows.reward[1:], batch.reward[-1, 1:])
        assert np.all(rows.recorded)
        assert rows.action.shape == (SIZE, ACTION_SIZE)

    def test_nothing_goes_on_after_a_terminal_and_all_does_after_a_last_row(self):
        batch = recorded_batch()
        batch.is_last[-1, :] = True
        batch.is_terminal[-1, 2] = True
        # A terminal at the state itself would be another transition's.
        batch.is_terminal[-2, 3] = True
        continues = to_transitions(batch).continues
        assert continues.dtype == np.float32
        np.testing.assert_array_equal(continues[1:], [1.0, 0.0, 1.0, 1.0])

    def test_the_rows_own_flag_says_whether_its_action_is_cloned(self):
        batch = recorded_batch()
        batch = batch.replace(is_behaviour=np.zeros_like(batch.is_behaviour))
        batch.is_behaviour[-2, 1] = batch.is_behaviour[-1, 2] = True
        rows = to_transitions(batch)
        np.testing.assert_array_equal(
            rows.is_behaviour[1:], [True, False, False, False]
        )
        np.testing.assert_array_equal(
            rows.behaviour_action[1:], batch.behaviour_action[-2, 1:]
        )

    def test_where_an_episode_begins_every_row_but_the_last_is_drawn(self):
        batch = recorded_batch()
        stacks = {0: (0, 0, 0), 1: (0, 0, 1), 2: (0, 1, 2), 3: (1, 2, 3)}
        batch.is_behaviour[:, 0] = [True, False, False, True]
        batch.is_terminal[1, 0] = True
        counts = np.zeros(FRAMES)
        for seed in range(60):
            rows = to_transitions(batch, seed)
            frames = tuple(frames_of(rows.observation)[0])
            row = {stack: row for row, stack in stacks.items()}[frames]
            counts[row] += 1
            assert tuple(frames_of(rows.following)[0]) == (
                stacks[row + 1] if row + 1 < FRAMES else stacks[3]
            )
            np.testing.assert_array_equal(rows.action[0], batch.prev_action[row + 1, 0])
            assert rows.reward[0] == batch.reward[row + 1, 0]
            assert rows.continues[0] == float(row != 0)
            assert rows.is_behaviour[0] == (row == 0)
        # 20 each on average, deviation 3.7.
        assert np.all(counts > 5)

    def test_beginnings_are_drawn_independently(self):
        batch = recorded_batch()
        batch.is_first[0] = True
        drawn = {
            tuple(frames_of(to_transitions(batch, seed).observation)[:, -1] % 10)
            for seed in range(5)
        }
        assert any(len(set(rows)) > 1 for rows in drawn)

    def test_both_stacks_are_shifted_and_each_on_its_own(self):
        batch = recorded_batch()
        image = np.broadcast_to(
            np.arange(PIXELS * PIXELS, dtype=np.uint8).reshape(PIXELS, PIXELS, 1),
            batch.image.shape,
        )
        rows = to_transitions(batch.replace(image=image), shift=4)
        assert np.any(rows.observation != rows.following)
        still = to_transitions(batch.replace(image=image), shift=0)
        for moved in (rows.observation, rows.following):
            assert np.any(moved != still.observation)


class StubNetworks:
    """Has no parameters; acts with what it sees."""

    def encode(self, params, stack):
        return stack

    def policy(self, params, stack):
        return fakes.Certain(stack[:, 0, 0, -1:].astype(jnp.float32))


@pytest.mark.parametrize("name", ["mean", "sampled"])
def test_acting_stacks_frames_as_learning_does(name):
    policy = model_free.make_policies(StubNetworks(), FRAMES, PIXELS, 0.1)[name]
    batch = recorded_batch()
    batch.is_first[0] = True
    seen = {}
    carry = policy.initial(SIZE)
    params, key = {"encoder": None, "actor": None}, jax.random.key(0)
    for row in range(ROWS):
        action, carry = policy.act(
            params, carry, batch.image[row], batch.is_first[row], key
        )
        seen[row] = np.asarray(carry)
        np.testing.assert_array_equal(action[:, 0], batch.reward[row])
    for seed in range(10):
        rows = to_transitions(batch, seed)
        drawn = frames_of(rows.observation)[:, -1] % 10
        for column, row in enumerate(drawn):
            np.testing.assert_array_equal(rows.observation[column], seen[row][column])
            np.testing.assert_array_equal(rows.following[column], seen[row + 1][column])


def test_an_episodes_first_frame_fills_the_stack_of_its_own_environment():
    policy = model_free.make_policies(StubNetworks(), FRAMES, PIXELS, 0.1)["mean"]
    params, key = {"encoder": None, "actor": None}, jax.random.key(0)
    image = np.full((2, PIXELS, PIXELS, 3), 7, np.uint8)
    carry = jnp.full((2, PIXELS, PIXELS, 3 * FRAMES), 3, jnp.uint8)
    _, carry = policy.act(params, carry, image, np.array([True, False]), key)
    np.testing.assert_array_equal(frames_of(carry), [[7, 7, 7], [3, 3, 7]])


class TestRandomShift:
    SHIFT = 2

    def images(self, count=40, channels=6):
        """The same image in all rows, but that each pixel and channel differs."""
        image = np.arange(5 * 6 * channels, dtype=np.uint8).reshape(1, 5, 6, channels)
        return np.repeat(image, count, axis=0)

    def shifted(self, image, seed=0, shift=SHIFT):
        return np.asarray(
            model_free.random_shift(jnp.asarray(image), jax.random.key(seed), shift)
        )

    def offsets(self, image, shifted):
        """For every row the offsets at which it is a crop of the padded image."""
        edge = (self.SHIFT, self.SHIFT)
        found = []
        for one, moved in zip(image, shifted, strict=True):
            padded = np.pad(one, (edge, edge, (0, 0)), mode="edge")
            found.append(
                [
                    (i, j)
                    for i in range(2 * self.SHIFT + 1)
                    for j in range(2 * self.SHIFT + 1)
                    if np.array_equal(padded[i : i + 5, j : j + 6], moved)
                ]
            )
        return found

    def test_every_row_is_a_crop_of_its_image_with_edges_repeated(self):
        image = self.images()
        shifted = self.shifted(image)
        assert shifted.shape == image.shape and shifted.dtype == np.uint8
        # A crop of all channels at once: the frames of a stack move together.
        assert all(len(found) == 1 for found in self.offsets(image, shifted))

    def test_rows_move_differently_and_in_time_by_every_offset(self):
        image = self.images(count=300)
        found = [one[0] for one in self.offsets(image, self.shifted(image))]
        assert set(found) == {(i, j) for i in range(5) for j in range(5)}

    def test_none_is_the_identity(self):
        image = self.images()
        np.testing.assert_array_equal(self.shifted(image, shift=0), image)

    def test_the_key_decides(self):
        image = self.images()
        np.testing.assert_array_equal(self.shifted(image), self.shifted(image))
        assert np.any(self.shifted(image) != self.shifted(image, seed=1))
