"""DreamerV2's losses and update on linear networks, beside MOTO's and NumPy's."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moto_jax.agents import dreamer_v2, moto_losses
from moto_jax.learning.learners import init_learnable
from moto_jax.learning.value_targets import lambda_mixture
from tests import fake_actor_critic, fake_moto, fakes, reference
from tests.fake_moto import HORIZON, LENGTH, SIZE, posterior, recorded_batch

DISCOUNT, LAMBDA = 0.9, 0.7
ACTOR = fakes.LinearActor()
NETWORKS = dreamer_v2.Networks(
    fakes.linear_world_model(),
    lambda params: lambda feature: ACTOR.apply({"params": params}, feature),
    lambda params, feature: feature @ params["state"],
)
# The same with actions that are drawn.
DRAWING = NETWORKS._replace(
    policy=lambda params: lambda feature: fake_actor_critic.policy(params, feature)
)
OPTIMIZERS = dreamer_v2.Optimizers(*[optax.adam(0.01)] * 3)
SECTION = dreamer_v2.Section(
    horizon=HORIZON,
    discount=DISCOUNT,
    lambda_=LAMBDA,
    entropy_scale=0.0,
    kl_scale=1.0,
    kl_balance=0.8,
    free_nats=0.0,
    target_period=3,
)


def model_params():
    return NETWORKS.model.init(None)


def actor_params():
    return ACTOR.init(None, None)["params"]


def drawing_params():
    shapes = {"mean": (fakes.FEATURE, fakes.ACTION_SIZE), "log_std": fakes.ACTION_SIZE}
    return fake_actor_critic.normal(3, **shapes)


def value_params(seed=4):
    return fake_actor_critic.normal(seed, state=fakes.FEATURE)


def actor_loss(actor, networks=NETWORKS, target=None, **changes):
    return dreamer_v2.actor_loss(
        networks,
        SECTION._replace(**changes),
        actor,
        model=model_params(),
        target_critic=value_params() if target is None else target,
        posterior=posterior(),
        key=jax.random.key(1),
    )


def motos_loss(actor, lambda_=LAMBDA):
    """MOTO's without its penalty and cloning; both critics are DreamerV2's values."""
    state = jnp.tile(value_params()["state"], (2, 1))
    critic = {"state": state, "action": jnp.zeros((2, fakes.ACTION_SIZE))}
    recorded = moto_losses.Recorded(recorded_batch(), posterior(), slice(None))
    hyper = fake_moto.hyperparameters(
        alpha=0.0,
        beta=0.0,
        discount=DISCOUNT,
        lambda_=lambda_,
        row_weights="cumulative_discount",
        entropy_scale=0.0,
    )
    losses = moto_losses.make_losses(fake_moto.NETWORKS, hyper)
    loss, (dream, mixture, _) = losses.actor(
        actor,
        model=model_params(),
        critic=critic,
        recorded=recorded,
        return_range=0.0,
        key=jax.random.key(1),
    )
    targets, _ = losses.critic_targets(
        critic,
        model=model_params(),
        dream=dream,
        recorded=recorded,
        key=jax.random.key(2),
    )
    return loss, (dream, mixture, targets)


class TestActorLoss:
    def test_returns_are_motos_of_the_same_dream_and_values(self):
        _, (dream, returns, _) = jax.jit(actor_loss)(actor_params())
        _, (other, mixture, targets) = jax.jit(motos_loss)(actor_params())
        np.testing.assert_allclose(dream.feature, other.feature, rtol=1e-5)
        assert returns.shape == (HORIZON, LENGTH, SIZE)
        np.testing.assert_allclose(returns, targets, rtol=1e-4, atol=1e-5)
        value = NETWORKS.value(value_params(), dream.feature)[:-1]
        np.testing.assert_allclose(
            lambda_mixture(returns, value, LAMBDA), mixture[:-1], rtol=1e-4, atol=1e-5
        )

    def test_at_a_lambda_of_one_it_is_motos_in_value_and_gradient(self):
        def value_and_gradient(loss):
            of_actor = jax.value_and_grad(lambda actor: loss(actor, lambda_=1.0)[0])
            return jax.jit(of_actor)(actor_params())

        ours, theirs = value_and_gradient(actor_loss), value_and_gradient(motos_loss)
        chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert np.all(ours[1]["weight"][: fakes.DETER] != 0.0)

    def test_is_minus_the_mean_return_by_what_is_left_of_the_discount(self):
        loss, (dream, returns, _) = jax.jit(actor_loss)(actor_params())
        feature = np.float64(dream.feature)
        reward = feature[1:] @ np.float64(model_params()["reward"])
        value = feature @ np.float64(value_params()["state"])
        expected = reference.lambda_returns(reward, value, DISCOUNT, LAMBDA)[:-1]
        np.testing.assert_allclose(returns, expected, rtol=1e-3, atol=1e-4)
        weighed = sum(DISCOUNT**t * np.mean(expected[t]) for t in range(HORIZON))
        np.testing.assert_allclose(loss, -weighed / HORIZON, rtol=1e-3)

    def test_descending_raises_the_return(self):
        gradient = jax.jit(jax.grad(lambda actor: actor_loss(actor)[0]))(actor_params())
        moved = jax.tree.map(lambda p, g: p - 1e-2 * g, actor_params(), gradient)
        before, after = (
            jnp.mean(actor_loss(actor)[1][1]) for actor in (actor_params(), moved)
        )
        assert after > before

    def test_the_bonus_is_the_entropy_by_what_is_left_of_the_discount(self):
        def loss(scale):
            return actor_loss(drawing_params(), DRAWING, entropy_scale=scale)

        (plain, _), (rewarded, (dream, _, metrics)) = loss(0.0), loss(0.5)
        entropy = DRAWING.policy(drawing_params())(dream.feature[:-1]).entropy()
        assert entropy.shape == (HORIZON, LENGTH, SIZE)
        weighed = np.mean([DISCOUNT**t * np.mean(entropy[t]) for t in range(HORIZON)])
        np.testing.assert_allclose(rewarded - plain, -0.5 * weighed, rtol=1e-4)
        np.testing.assert_allclose(
            metrics["actor/entropy"], np.mean(entropy), rtol=1e-5
        )

    def test_descending_the_bonus_raises_the_entropy(self):
        def loss(actor, scale):
            loss, (_, _, metrics) = actor_loss(actor, DRAWING, entropy_scale=scale)
            return loss, metrics["actor/entropy"]

        slope = jax.jit(jax.grad(loss, has_aux=True))
        before = drawing_params()
        gradient, entropy = slope(before, 100.0)
        moved = jax.tree.map(lambda p, g: p - 1e-4 * g, before, gradient)
        assert slope(moved, 100.0)[1] > entropy


class TestCriticLoss:
    def dream(self):
        return actor_loss(actor_params())[1][0]

    def test_is_the_weighed_squared_error_before_the_horizon(self):
        dream, target = self.dream(), np.ones((HORIZON, LENGTH, SIZE), np.float32)
        loss, _ = dreamer_v2.critic_loss(
            NETWORKS, SECTION, value_params(), dream=dream, target=target
        )
        value = np.float64(dream.feature[:-1]) @ np.float64(value_params()["state"])
        error = np.mean((value - 1.0) ** 2, axis=(1, 2))
        weights = DISCOUNT ** np.arange(HORIZON)
        np.testing.assert_allclose(loss, np.mean(weights * error), rtol=1e-4)

    def test_moves_the_values_alone(self):
        dream = self.dream()

        def loss(params, feature, target):
            there = dream.replace(feature=feature)
            return dreamer_v2.critic_loss(
                NETWORKS, SECTION, params, dream=there, target=target
            )[0]

        target = jnp.ones((HORIZON, LENGTH, SIZE))
        to_value, *others = jax.grad(loss, argnums=(0, 1, 2))(
            value_params(), dream.feature, target
        )
        assert np.any(to_value["state"])
        for leaf in others:
            np.testing.assert_array_equal(leaf, 0.0)


def learners(critic_seed=4, target_seed=5):
    return dreamer_v2.Learners(
        model=init_learnable(model_params(), OPTIMIZERS.model),
        actor=init_learnable(actor_params(), OPTIMIZERS.actor),
        critic=init_learnable(value_params(critic_seed), OPTIMIZERS.critic),
        target_critic=value_params(target_seed),
    )


@jax.jit
def step(learners, number=0):
    update = dreamer_v2.make_step(NETWORKS, OPTIMIZERS, SECTION)
    return update(learners, recorded_batch(), jax.random.key(0), number)


class TestStep:
    def test_returns_are_of_the_slow_critic(self):
        after, metrics = step(learners())
        other_critic, same = step(learners(critic_seed=7))
        chex.assert_trees_all_equal(after.actor, other_critic.actor)
        assert metrics["critic/target"] == same["critic/target"]
        other_target, other = step(learners(target_seed=7))
        assert metrics["critic/target"] != other["critic/target"]
        assert np.any(
            after.actor.params["weight"] != other_target.actor.params["weight"]
        )

    def test_the_model_learns_from_the_data_alone(self):
        before = learners()
        elsewhere = before.replace(
            actor=before.actor.replace(
                params=jax.tree.map(lambda leaf: leaf + 1.0, before.actor.params)
            ),
            target_critic=value_params(9),
        )
        after, other = step(before)[0], step(elsewhere)[0]
        chex.assert_trees_all_equal(after.model, other.model)
        assert np.any(after.critic.params["state"] != other.critic.params["state"])

    @pytest.mark.parametrize(("number", "due"), [(0, False), (1, False), (2, True)])
    def test_the_slow_critic_is_copied_when_its_period_ends(self, number, due):
        before = learners()
        after, _ = step(before, number)
        source = after.critic.params if due else before.target_critic
        chex.assert_trees_all_equal(after.target_critic, source)
