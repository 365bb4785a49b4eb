"""Shares of a batch's rows that are decoded, and that rollouts start from."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moto_jax.agents import moto
from moto_jax.learning.world_model import some_rows, world_model_loss
from tests.fake_moto import LENGTH, NETWORKS, hyperparameters, make_moto, recorded_batch


def drawn(seed, length=8, share=0.5):
    return np.asarray(some_rows(jax.random.key(seed), length, share))


def test_rows_are_different_ones_in_order_and_each_comes_up_as_often():
    counts = np.zeros(8)
    for seed in range(200):
        rows = drawn(seed)
        assert rows.shape == (4,) and np.all(np.diff(rows) > 0)
        counts[rows] += 1
    # Of 200 draws 100 each, with a standard deviation of 7.
    assert np.all(np.abs(counts - 100) < 30)
    np.testing.assert_array_equal(drawn(3), drawn(3))


@pytest.mark.parametrize(("share", "count"), [(0.25, 2), (0.3, 2), (0.01, 1)])
def test_a_share_is_rounded_and_never_nothing(share, count):
    assert drawn(0, share=share).shape == (count,)


def test_all_rows_are_drawn_without_a_draw():
    assert some_rows(jax.random.key(0), 8, 1.0) == slice(None)


@functools.partial(jax.jit, static_argnames="share")
def model_metrics(key, share):
    params = NETWORKS.model.init(jax.random.key(0))
    _, (_, metrics) = world_model_loss(
        params, NETWORKS.model, recorded_batch(), key, decoded_share=share
    )
    return metrics


def test_some_pictures_estimate_the_loss_of_all_and_change_nothing_else():
    keys = jax.random.split(jax.random.key(1), 100)
    some, whole = (
        [jax.device_get(model_metrics(key, share)) for key in keys]
        for share in (0.5, 1.0)
    )
    for name in ("model/reward_loss", "model/kl"):
        np.testing.assert_allclose(
            [one[name] for one in some], [one[name] for one in whole], rtol=1e-5
        )
    errors = np.array([one["model/image_loss"] for one in some])
    errors -= [one["model/image_loss"] for one in whole]
    assert np.std(errors) > 0
    assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(len(errors))


def test_rollouts_start_from_a_share_of_the_rows_drawn_anew_each_update(monkeypatch):
    starts = []
    real = moto.some_rows

    def record(key, length, share):
        rows = real(key, length, share)
        jax.debug.callback(lambda rows: starts.append(tuple(rows.tolist())), rows)
        return rows

    monkeypatch.setattr(moto, "some_rows", record)
    optimizers = moto.Optimizers(*[optax.sgd(0.0)] * 3)
    hyper = hyperparameters(starts_share=0.5)
    init, update = make_moto(NETWORKS, optimizers, hyper, 0.0)
    update, state = jax.jit(update), init(jax.random.key(0))
    for _ in range(10):
        state, metrics = update(state, recorded_batch())
        assert jnp.isfinite(metrics["actor/loss"])
    jax.effects_barrier()
    assert {len(rows) for rows in starts} == {LENGTH // 2}
    assert len(set(starts)) > 1
