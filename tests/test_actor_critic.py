"""Soft actor-critic on linear networks: targets by hand, who learns from what."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moto_jax.learning import actor_critic, conservatism
from moto_jax.learning.value_targets import mean_over_critics
from tests import reference
from tests.fake_actor_critic import (
    ACTION_SIZE,
    COUNT,
    CRITICS,
    FUNCTIONS,
    actor_params,
    assert_slow_critics_moved,
    critic_params,
    encode,
    policy,
    q_values,
    transitions,
)

OPTIMIZERS = actor_critic.Optimizers(*[optax.adam(0.01)] * 3)
CONSTANTS = actor_critic.Constants(
    discount=0.9,
    tau=0.25,
    initial_temperature=0.1,
    target_entropy_per_action=-1.0,
    backup_entropy=True,
)


def learners():
    return actor_critic.init_actor_critic(
        actor_params(), critic_params(), OPTIMIZERS, CONSTANTS.initial_temperature
    )


@functools.partial(
    jax.jit,
    static_argnames=("regulariser", "backup_entropy", "entropy_scale"),
    # Compiled otherwise, programs that should agree are rounded apart.
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_cpu_use_fusion_emitters": True,
    },
)
def step(
    state,
    regulariser=actor_critic.no_regulariser,
    seed=0,
    rows=None,
    target_entropy=-1.0,
    backup_entropy=True,
    entropy_scale=1.0,
):
    return actor_critic.actor_critic_step(
        state,
        FUNCTIONS,
        OPTIMIZERS,
        CONSTANTS._replace(
            target_entropy_per_action=target_entropy,
            backup_entropy=backup_entropy,
            entropy_scale=entropy_scale,
        ),
        regulariser,
        rows or transitions(),
        jax.random.key(seed),
    )


def conservative(weight, pushed_down=conservatism.everywhere, **options):
    numbers = conservatism.Conservatism(
        weight, policy_actions=3, uniform_actions=4, backup_entropy=True
    )
    return conservatism.make_conservative(numbers, pushed_down, **options)


class Certainly(NamedTuple):
    """A policy whose log-density is what it is given, of actions that it is given."""

    action: jax.Array
    density: jax.Array

    def sample(self, key):
        return self.action

    def log_prob(self, action):
        return self.density


class TestBellmanTargets:
    ACTION = jnp.full((COUNT, ACTION_SIZE), 0.5)

    def targets(self, target_params, backup_entropy=True, **functions):
        def certainly(params, feature):
            return Certainly(self.ACTION, jnp.sum(feature, axis=-1))

        return actor_critic.bellman_targets(
            None,
            critic_params(),
            target_params,
            jnp.float32(0.2),
            FUNCTIONS._replace(policy=certainly, **functions),
            CONSTANTS._replace(backup_entropy=backup_entropy),
            transitions(),
            jax.random.key(0),
        )

    @pytest.mark.parametrize("backup_entropy", [True, False])
    def test_are_the_least_slow_critics_less_the_entropys_price(self, backup_entropy):
        slow, rows = critic_params(seed=16), transitions()
        value = np.asarray(q_values(slow, encode(slow, rows.following), self.ACTION))
        assert len(set(np.argmin(value, axis=0))) == CRITICS
        # The policy sees the features of the live encoder.
        log_prob = np.sum(encode(critic_params(), rows.following), axis=-1)
        soft = value - 0.2 * log_prob[None] * backup_entropy
        expected = reference.bellman_targets(rows.reward, rows.continues, soft, 0.9)
        measured = self.targets(slow, backup_entropy)
        np.testing.assert_allclose(measured, expected, rtol=1e-4)

    def test_are_of_what_the_slow_critics_are_reduced_to(self):
        slow, rows = critic_params(seed=16), transitions()
        value = np.asarray(q_values(slow, encode(slow, rows.following), self.ACTION))
        mean = self.targets(slow, False, target_value=mean_over_critics)
        expected = rows.reward + 0.9 * rows.continues * np.mean(value, axis=0)
        np.testing.assert_allclose(mean, expected, rtol=1e-4)
        # Only those: the actor's reduction plays no part.
        least = self.targets(slow, False, actor_value=mean_over_critics)
        np.testing.assert_array_equal(least, self.targets(slow, False))

    def test_bootstrap_at_a_time_limit_and_not_at_a_terminal(self):
        rows = transitions()
        ended = rows.continues == 0
        first, other = (self.targets(critic_params(seed)) for seed in (7, 8))
        np.testing.assert_array_equal(first[ended], rows.reward[ended])
        assert np.all(first[~ended] != other[~ended])


class TestLosses:
    KEY = jax.random.key(3)

    def test_the_critics_shape_the_encoder_and_leave_the_actor_alone(self):
        @jax.jit
        @functools.partial(jax.grad, argnums=(0, 1))
        def gradients(critic, actor):
            rest = transitions(), jnp.zeros(COUNT), self.KEY
            penalty = conservative(1.0)
            return actor_critic.critic_loss(critic, FUNCTIONS, penalty, actor, *rest)[0]

        to_critic, to_actor = gradients(critic_params(), actor_params())
        for leaf in jax.tree.leaves(to_critic):
            assert np.all(leaf != 0.0)
        for leaf in jax.tree.leaves(to_actor):
            np.testing.assert_array_equal(leaf, 0.0)

    def test_regression_is_on_the_targets(self):
        params, rows, target = critic_params(), transitions(), np.arange(COUNT)
        none = actor_critic.no_regulariser
        loss, (feature, _) = actor_critic.critic_loss(
            params, FUNCTIONS, none, actor_params(), rows, target, self.KEY
        )
        np.testing.assert_array_equal(feature, encode(params, rows.observation))
        value = np.asarray(q_values(params, feature, rows.action))
        np.testing.assert_allclose(loss, np.mean((value - target) ** 2), rtol=1e-5)

    def test_the_actor_is_paid_by_the_least_critic_and_for_entropy(self):
        params, feature = (
            critic_params(),
            encode(critic_params(), transitions().following),
        )
        loss, (entropy, _) = actor_critic.actor_loss(
            actor_params(), FUNCTIONS, params, jnp.float32(0.3), feature, self.KEY
        )
        distribution = policy(actor_params(), feature)
        action = distribution.sample(self.KEY)
        log_prob = np.asarray(distribution.log_prob(action))
        value = np.min(np.asarray(q_values(params, feature, action)), axis=0)
        np.testing.assert_allclose(loss, np.mean(0.3 * log_prob - value), rtol=1e-5)
        np.testing.assert_allclose(entropy, -np.mean(log_prob), rtol=1e-5)

    def test_the_actor_may_be_paid_the_mean_of_the_critics(self):
        params = critic_params()
        feature = encode(params, transitions().observation)
        functions = FUNCTIONS._replace(actor_value=mean_over_critics)
        loss, _ = actor_critic.actor_loss(
            actor_params(), functions, params, jnp.float32(0.0), feature, self.KEY
        )
        action = policy(actor_params(), feature).sample(self.KEY)
        value = np.asarray(q_values(params, feature, action))
        np.testing.assert_allclose(loss, -np.mean(value), rtol=1e-5)

    @pytest.mark.parametrize("temperature", [0.0, 100.0])
    def test_descending_raises_the_value_or_at_a_high_price_the_entropy(
        self, temperature
    ):
        critic = critic_params()
        # Enough rows for a mean.
        feature = jnp.repeat(encode(critic, transitions().observation), 500, axis=0)

        def goal(actor):
            distribution = policy(actor, feature)
            value = q_values(critic, feature, distribution.sample(self.KEY))
            return jnp.mean(distribution.entropy() if temperature else value)

        @jax.jit
        def descend(actor):
            rest = FUNCTIONS, critic, temperature, feature, self.KEY
            gradient, _ = jax.grad(actor_critic.actor_loss, has_aux=True)(actor, *rest)
            return jax.tree.map(lambda p, g: p - 1e-3 * g, actor, gradient)

        assert goal(descend(actor_params())) > goal(actor_params())


class TestConservative:
    def distribution(self):
        feature = encode(critic_params(), transitions().observation)
        return policy(actor_params(), feature)

    @pytest.mark.parametrize(
        ("pushed_down", "down"),
        [
            (conservatism.everywhere, np.ones(COUNT, bool)),
            (conservatism.where_imagined, ~np.asarray(transitions().recorded)),
        ],
        ids=["cql", "combo"],
    )
    def test_pushes_its_rows_down_and_recorded_actions_up(self, pushed_down, down):
        @jax.jit
        @functools.partial(jax.grad, argnums=(0, 1))
        def gradients(sampled, data):
            return conservative(3.0, pushed_down)(
                lambda action: sampled,
                data,
                self.distribution(),
                transitions(),
                jax.random.key(0),
            )[0]

        to_sampled, to_data = gradients(
            jnp.zeros((CRITICS, 7, COUNT)), jnp.zeros((CRITICS, COUNT))
        )
        up = transitions().recorded
        assert np.all(to_sampled[..., down] > 0.0)
        np.testing.assert_array_equal(to_sampled[..., ~down], 0.0)
        assert np.all(to_data[:, up] < 0.0)
        np.testing.assert_array_equal(to_data[:, ~up], 0.0)
        # Both sides weigh the same: a constant added to Q changes nothing.
        np.testing.assert_allclose(np.sum(to_sampled), 3.0, rtol=1e-5)
        np.testing.assert_allclose(np.sum(to_data), -3.0, rtol=1e-5)

    @pytest.mark.parametrize("drawn", [(4_000, 1), (1, 4_000), (2_000, 2_000)])
    def test_integrates_over_the_box_whatever_the_policy(self, drawn):
        regulariser = conservatism.make_conservative(
            conservatism.Conservatism(2.0, *drawn, True), conservatism.everywhere
        )
        slope = jnp.array([0.5, -1.0])
        data = jnp.zeros((1, COUNT)), self.distribution(), transitions()
        loss, metrics = jax.jit(
            lambda key: regulariser(lambda action: (action @ slope)[None], *data, key)
        )(jax.random.key(1))
        expected = np.log(2 * np.sinh(0.5) / 0.5) + np.log(2 * np.sinh(1.0))
        np.testing.assert_allclose(loss, 2.0 * expected, rtol=0.02)
        np.testing.assert_allclose(metrics["critic/conservative_gap"], 0.5 * loss)

    def test_the_policys_actions_are_not_pushed_below_what_the_data_got(self):
        rows = transitions().replace(return_to_go=jnp.array([1.0, -1.0] * 3))

        @jax.jit
        @jax.grad
        def gradient(sampled):
            return conservative(1.0, lower_bound=conservatism.recorded_returns)(
                lambda action: sampled,
                jnp.zeros((CRITICS, COUNT)),
                self.distribution(),
                rows,
                jax.random.key(0),
            )[0]

        # Three actions are the policy's; values of 0 are below a bound of 1 ...
        pushed = gradient(jnp.zeros((CRITICS, 7, COUNT)))
        np.testing.assert_array_equal(pushed[:, :3, ::2], 0.0)
        assert np.all(pushed[:, 3:, ::2] > 0.0)
        # ... and above one of -1.
        assert np.all(pushed[:, :, 1::2] > 0.0)

    def test_a_bound_below_all_values_changes_nothing(self):
        rows = transitions().replace(return_to_go=jnp.full(COUNT, -1e3))
        bounded = conservative(2.0, lower_bound=conservatism.recorded_returns)
        one, other = (step(learners(), r, 0, rows)[0] for r in (bounded, PLAIN))
        chex.assert_trees_all_equal(one, other)


PLAIN = conservative(2.0)


class TestStep:
    def test_a_weight_of_zero_is_sac(self):
        plain = weightless = learners()
        for seed in range(3):
            plain, _ = step(plain, seed=seed)
            weightless, _ = step(weightless, conservative(0.0), seed)
        chex.assert_trees_all_equal(plain, weightless)

    def test_a_conservative_critic_trusts_the_data_more(self):
        # One action was recorded everywhere.
        taken = jnp.broadcast_to(jnp.array([[0.8, -0.8]]), (COUNT, ACTION_SIZE))
        rows = transitions().replace(action=taken)
        elsewhere = jax.random.uniform(jax.random.key(9), taken.shape, minval=-1.0)

        def preference(regulariser):
            state = learners()
            for seed in range(40):
                state, _ = step(state, regulariser, seed, rows)
            params = state.critic.params
            feature = encode(params, rows.observation)
            values = [q_values(params, feature, a) for a in (taken, elsewhere)]
            return np.mean(values[0]) - np.mean(values[1])

        plain = preference(actor_critic.no_regulariser)
        assert preference(conservative(5.0)) > plain + 0.1

    def test_slow_critics_move_by_their_share(self):
        before = learners()
        after, _ = step(before)
        assert_slow_critics_moved(before, after, share=0.25)

    @pytest.mark.parametrize(("target", "sign"), [(-50.0, -1.0), (50.0, 1.0)])
    def test_temperature_moves_against_the_entropys_excess(self, target, sign):
        before = learners()
        after, metrics = step(before, target_entropy=target)
        moved = after.temperature.params - before.temperature.params
        np.testing.assert_allclose(moved, sign * 0.01, rtol=1e-3)
        np.testing.assert_allclose(metrics["actor/temperature"], 0.1, rtol=1e-6)

    def test_target_entropy_counts_every_dimension_of_the_action(self):
        # Two dimensions' target is above the entropy, and one's is below.
        entropy = float(step(learners())[1]["actor/entropy"])
        assert entropy > 0.0
        after, _ = step(learners(), target_entropy=0.75 * entropy)
        assert after.temperature.params > learners().temperature.params

    def test_without_entropy_its_temperature_is_worth_nothing(self):
        state = learners()
        dear = state.replace(temperature=state.temperature.replace(params=jnp.log(9.0)))
        one, other = (step(s, entropy_scale=0.0) for s in (state, dear))
        chex.assert_trees_all_equal(one[0].critic, other[0].critic)
        chex.assert_trees_all_equal(one[0].actor, other[0].actor)
        assert one[1]["actor/temperature"] == other[1]["actor/temperature"] == 0.0

    def test_the_actors_loss_does_not_reach_the_critics(self):
        state = learners()
        dear = state.replace(temperature=state.temperature.replace(params=jnp.log(9.0)))
        one, other = (step(s, backup_entropy=False)[0] for s in (state, dear))
        chex.assert_trees_all_equal(one.critic, other.critic)
        assert np.any(one.actor.params["log_std"] != other.actor.params["log_std"])
