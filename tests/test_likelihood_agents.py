"""IQL and BC, which learn their policies from recorded actions alone."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moto_jax.agents import bc, iql
from moto_jax.learning import actor_critic
from moto_jax.learning.learners import init_learnable
from tests import fake_actor_critic as fake
from tests import reference

OPTIMIZERS = {"actor": optax.adam(0.01), "critic": optax.adam(0.01)}
CONSTANTS = actor_critic.Constants(0.9, 0.25, 0.1, -1.0, True)
SECTION = iql.Section(expectile=0.8, advantage_scale=3.0, max_weight=20.0)


class Unsampled(NamedTuple):
    """A policy that can be asked for the density of an action and for no action."""

    inner: object

    @property
    def std(self):
        return self.inner.std

    def log_prob(self, action):
        return self.inner.log_prob(action)


class Networks:
    """Stands for `model_free.Networks` with linear functions."""

    encode = staticmethod(fake.encode)
    q_values = staticmethod(fake.q_values)

    @staticmethod
    def policy(params, feature):
        return Unsampled(fake.policy(params, feature))

    @staticmethod
    def state_value(params, feature):
        """V's parameters are those of the head alone."""
        return feature @ params["v"] + params["bias"]

    @property
    def functions(self):
        return actor_critic.Functions(self.encode, self.policy, self.q_values)


def recorded_rows():
    """Transitions whose first two actions reach the ends of the box."""
    rows = fake.transitions()
    action = rows.action.at[0].set(1.0).at[1, 0].set(-1.0)
    flags = jnp.arange(fake.COUNT) % 3 == 0
    # What is cloned is not what was executed.
    return rows.replace(action=-action, behaviour_action=action, is_behaviour=flags)


def encoder(seed):
    return fake.critic_params(seed)["encoder"]


def value_params(bias=0.0):
    head = {**fake.normal(5, v=fake.FEATURE), "bias": jnp.float32(bias)}
    return {"encoder": encoder(11), "value": head}


def actor_params(seed=0):
    return {"encoder": encoder(12), "actor": fake.actor_params(seed)}


def state_value(observation):
    params = value_params()
    return Networks.state_value(params["value"], fake.encode(params, observation))


def log_density(params, feature, action):
    """By the loops of the reference, [N]."""
    policy = fake.policy(params, feature)
    arrays = (np.float64(x) for x in (action, policy.mean, policy.std))
    return reference.truncated_normal_log_density(*arrays)


class TestIqlLosses:
    OBSERVATION = recorded_rows().observation
    DATA_VALUE = jnp.linspace(-1.0, 1.0, fake.COUNT)

    def test_values_are_drawn_to_an_expectile_of_the_datas(self):
        loss, advantage = iql.value_loss(
            value_params(), Networks(), self.OBSERVATION, self.DATA_VALUE, 0.8
        )
        value = np.float64(state_value(self.OBSERVATION))
        difference = np.float64(self.DATA_VALUE) - value
        assert np.any(difference > 0.0) and np.any(difference < 0.0)
        np.testing.assert_allclose(advantage, difference, rtol=1e-4, atol=1e-5)
        weight = np.where(difference < 0.0, 0.2, 0.8)
        np.testing.assert_allclose(loss, np.mean(weight * difference**2), rtol=1e-4)

    def test_the_policy_is_drawn_to_actions_by_their_weights(self):
        weights = jnp.arange(1.0, 1.0 + fake.COUNT)
        action = recorded_rows().action
        loss, _ = iql.actor_loss(
            actor_params(), Networks(), self.OBSERVATION, action, weights
        )
        feature = fake.encode(actor_params(), self.OBSERVATION)
        density = log_density(fake.actor_params(), feature, action)
        np.testing.assert_allclose(
            loss, -np.mean(np.float64(weights) * density), rtol=1e-4
        )

    def test_no_weight_gets_a_gradient(self):
        def loss(actor, weights):
            action = recorded_rows().action
            return iql.actor_loss(actor, Networks(), self.OBSERVATION, action, weights)[
                0
            ]

        weights = jnp.arange(1.0 * fake.COUNT)
        to_actor, to_weights = jax.grad(loss, argnums=(0, 1))(actor_params(), weights)
        assert all(np.all(leaf != 0.0) for leaf in jax.tree.leaves(to_actor))
        np.testing.assert_array_equal(to_weights, 0.0)


def learners(bias=0.0, critic=None, slow_seed=8, actor_seed=0):
    critic = fake.critic_params() if critic is None else critic
    return iql.Learners(
        actor=init_learnable(actor_params(actor_seed), OPTIMIZERS["actor"]),
        critic=init_learnable(critic, OPTIMIZERS["critic"]),
        target_critic=fake.critic_params(slow_seed),
        value=init_learnable(value_params(bias), OPTIMIZERS["critic"]),
    )


@jax.jit
def step(learners):
    return iql.iql_step(
        OPTIMIZERS,
        CONSTANTS,
        SECTION,
        Networks(),
        learners,
        recorded_rows(),
        jax.random.key(0),
    )


class TestIqlStep:
    def advantage(self):
        """Of the slow critics' least value over V, by NumPy."""
        rows, slow = recorded_rows(), fake.critic_params(8)
        values = fake.q_values(slow, fake.encode(slow, rows.observation), rows.action)
        state = np.float64(state_value(rows.observation))
        return np.min(np.float64(values), axis=0) - state

    def test_critics_learn_the_reward_and_what_v_promises(self):
        rows, (_, metrics) = recorded_rows(), step(learners())
        promised = np.float64(state_value(rows.following))
        target = reference.bellman_targets(
            rows.reward, rows.continues, promised[None], CONSTANTS.discount
        )
        np.testing.assert_allclose(metrics["critic/target"], np.mean(target), rtol=1e-4)

    def test_advantages_are_the_least_slow_critics_over_v(self):
        _, metrics = step(learners())
        expected = self.advantage()
        weights = np.minimum(np.exp(3.0 * expected), 20.0)
        np.testing.assert_allclose(
            metrics["critic/advantage"], np.mean(expected), rtol=1e-4
        )
        np.testing.assert_allclose(metrics["actor/weight"], np.mean(weights), rtol=1e-4)

    def test_the_policy_clones_what_was_meant_and_critics_value_what_was_done(self):
        rows, (_, metrics) = recorded_rows(), step(learners())
        feature = fake.encode(actor_params(), rows.observation)
        density = log_density(fake.actor_params(), feature, rows.behaviour_action)
        weights = np.minimum(np.exp(3.0 * self.advantage()), 20.0)
        np.testing.assert_allclose(
            metrics["actor/loss"], -np.mean(weights * density), rtol=1e-3
        )

    @pytest.mark.parametrize(("bias", "weight"), [(-1e3, 20.0), (1e3, 0.0)])
    def test_weights_are_bounded(self, bias, weight):
        after, metrics = step(learners(bias))
        np.testing.assert_allclose(metrics["actor/weight"], weight, rtol=1e-5)
        chex.assert_tree_all_finite(after)

    def test_live_critics_do_not_move_v_or_the_policy(self):
        other = {**fake.critic_params(), "w": fake.critic_params(3)["w"]}
        one, another = step(learners())[0], step(learners(critic=other))[0]
        chex.assert_trees_all_equal(one.value, another.value)
        chex.assert_trees_all_equal(one.actor, another.actor)
        assert np.any(one.critic.params["w"] != another.critic.params["w"])
        slower = step(learners(slow_seed=9))[0]
        # With Adam's moments, since its first step is as long whatever the gradient.
        with pytest.raises(AssertionError):
            chex.assert_trees_all_close(one.value, slower.value)

    def test_the_policy_moves_nothing_but_itself(self):
        one, another = step(learners())[0], step(learners(actor_seed=4))[0]
        for field in ("critic", "value", "target_critic"):
            chex.assert_trees_all_equal(getattr(one, field), getattr(another, field))

    def test_each_head_trains_an_encoder_of_its_own(self):
        before = learners()
        after, _ = step(before)
        for head in ("actor", "critic", "value"):
            old, new = (getattr(one, head).params["encoder"] for one in (before, after))
            assert np.any(jax.tree.leaves(old)[0] != jax.tree.leaves(new)[0]), head

    def test_slow_critics_move_by_their_share(self):
        before = learners()
        after, _ = step(before)
        fake.assert_slow_critics_moved(before, after, share=0.25)


class TestBc:
    PARAMS = {
        "encoder": fake.critic_params()["encoder"],
        "actor": fake.actor_params(),
    }

    @functools.partial(jax.jit, static_argnames=("self", "choice"))
    def loss(self, params, choice, rows):
        return bc.policy_loss(params, Networks(), bc._ROWS[choice], rows)[0]

    @pytest.mark.parametrize("choice", ["all", "behaviour"])
    def test_is_the_likelihood_of_the_chosen_rows_to_the_ends_of_the_box(self, choice):
        rows = recorded_rows().replace(recorded=jnp.ones(fake.COUNT, bool))
        feature = fake.encode(self.PARAMS, rows.observation)
        density = log_density(self.PARAMS["actor"], feature, rows.behaviour_action)
        chosen = {"all": slice(None), "behaviour": np.asarray(rows.is_behaviour)}
        expected = -np.mean(density[chosen[choice]])
        measured = self.loss(self.PARAMS, choice, rows)
        np.testing.assert_allclose(measured, expected, rtol=1e-4)

    def test_only_flagged_rows_are_cloned_where_asked(self):
        rows = recorded_rows()
        flags = rows.is_behaviour[:, None]
        other = rows.replace(
            behaviour_action=jnp.where(
                flags, rows.behaviour_action, -rows.behaviour_action
            ),
            observation=jnp.where(flags, rows.observation, 0.0),
        )
        slope = jax.grad(self.loss)
        chex.assert_trees_all_equal(
            slope(self.PARAMS, "behaviour", rows),
            slope(self.PARAMS, "behaviour", other),
        )
        none = rows.replace(is_behaviour=jnp.zeros(fake.COUNT, bool))
        for leaf in jax.tree.leaves(slope(self.PARAMS, "behaviour", none)):
            np.testing.assert_array_equal(leaf, 0.0)

    def test_encoder_and_policy_learn_and_likelihood_rises(self):
        rows = recorded_rows()
        gradient = jax.grad(self.loss)(self.PARAMS, "all", rows)
        for leaf in jax.tree.leaves(gradient):
            assert np.all(np.isfinite(leaf)) and np.all(leaf != 0.0)
        moved = jax.tree.map(lambda p, g: p - 1e-3 * g, self.PARAMS, gradient)
        assert self.loss(moved, "all", rows) < self.loss(self.PARAMS, "all", rows)
