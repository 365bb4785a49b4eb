"""States that sequences start from: what the row before was when last seen."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moto_jax.agents import moto
from moto_jax.agents.posterior_memory import empty_memory, recall, remember
from moto_jax.networks.rssm import LatentState
from moto_jax.world_model import world_model_loss
from tests import fakes
from tests.fake_moto import LENGTH, NETWORKS, SIZE, hyperparameters, recorded_batch

ROWS, DETER, GROUPS, CLASSES = 20, 3, 2, 5
ZEROS = LatentState.zeros((2,), DETER, GROUPS, CLASSES)


def states(length, size, seed=0):
    generator = np.random.default_rng(seed)
    classes = generator.integers(CLASSES, size=(length, size, GROUPS))
    return LatentState(
        jnp.float32(generator.uniform(-1, 1, (length, size, DETER))),
        jax.nn.one_hot(classes, CLASSES),
    )


def rows(first, length):
    """Numbers of sequences [T, B] that begin at these rows."""
    return np.arange(length)[:, None] + np.array(first, np.int32)


def assert_state(found, expected):
    np.testing.assert_allclose(found.deter, expected.deter, atol=1e-3)
    np.testing.assert_array_equal(found.stoch, expected.stoch)


def test_a_sequence_starts_from_the_row_before_its_first():
    memory = empty_memory(ROWS, ZEROS)
    latent = states(4, 2)
    memory = remember(memory, rows([3, 10], 4), latent)
    found = recall(memory, np.array([7, 12]), ZEROS)
    assert_state(found, jax.tree.map(lambda leaf: leaf[[3, 1], [0, 1]], latent))
    # Rows 2 and 14 were never seen.
    assert_state(recall(memory, np.array([3, 15]), ZEROS), ZEROS)


def test_the_first_row_of_all_has_none_before_it():
    memory = remember(empty_memory(4, ZEROS), rows([0, 2], 2), states(2, 2))
    assert_state(recall(memory, np.array([0, 0]), ZEROS), ZEROS)


def test_the_newest_state_of_a_row_counts_and_an_older_row_leaves_its_slot():
    memory = remember(empty_memory(4, ZEROS), rows([0, 2], 2), states(2, 2))
    newer = states(2, 2, seed=1)
    memory = remember(memory, rows([0, 6], 2), newer)
    found = recall(memory, np.array([1, 7]), ZEROS)
    assert_state(found, jax.tree.map(lambda leaf: leaf[0], newer))
    # Row 2 had the slot of row 6.
    assert_state(recall(memory, np.array([3, 3]), ZEROS), ZEROS)


def test_of_two_sequences_over_one_row_one_is_remembered_whole():
    latent = states(1, 2)
    memory = remember(empty_memory(ROWS, ZEROS), rows([5, 5], 1), latent)
    found = recall(memory, np.array([6, 6]), ZEROS)
    assert_state(found, jax.tree.map(lambda leaf: leaf[0, [0, 0]], latent))


def test_without_rows_there_is_no_memory():
    assert empty_memory(0, ZEROS) is None
    assert remember(None, rows([0, 1], 2), states(2, 2)) is None
    assert_state(recall(None, np.array([1, 2]), ZEROS), ZEROS)


@pytest.mark.parametrize("remembered", [0, 100])
def test_moto_filters_on_from_where_the_last_batch_ended(remembered):
    optimizers = moto.Optimizers(*[optax.sgd(0.0)] * 3)
    update = jax.jit(
        moto.make_update(NETWORKS, optimizers, hyperparameters(), acting_average=0.0)
    )
    state = moto.init_state(
        jax.random.key(0), NETWORKS, optimizers, fakes.ACTION_SIZE, remembered
    )
    first = rows([0, 50, 80], LENGTH).astype(np.int32)
    none = np.zeros((LENGTH, SIZE), bool)
    batch = recorded_batch().replace(row=first, is_first=none)
    state, _ = update(state, batch)
    following = batch.replace(row=first + LENGTH, image=255 - batch.image)
    _, metrics = update(state, following)
    # By hand, with the key that the update gives its model.
    keys = moto.named_keys(state.key, state.step, "model", "dream", "target", "starts")
    zeros = NETWORKS.model.initial((SIZE,))
    start = zeros
    if remembered:
        slot = first[-1] % remembered
        start = LatentState(
            jnp.float32(state.memory.deter[slot]),
            jax.nn.one_hot(state.memory.stoch[slot], zeros.stoch.shape[-1]),
        )
        assert np.any(start.deter) and np.all(np.sum(start.stoch, axis=-1) == 1)
    loss, _ = world_model_loss(
        state.model.params,
        NETWORKS.model,
        following,
        keys["model"],
        kl_scale=hyperparameters().kl_scale,
        kl_balance=hyperparameters().kl_balance,
        free_nats=hyperparameters().free_nats,
        start=start,
    )
    np.testing.assert_allclose(metrics["model/loss"], loss, rtol=1e-5)
