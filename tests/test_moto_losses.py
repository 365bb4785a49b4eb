"""MOTO's losses against NumPy in value and gradient (Eq. 4 to 10)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moto_jax.agents.moto_losses import Recorded, make_losses
from tests import fakes, reference
from tests.fake_moto import (
    HORIZON,
    LENGTH,
    NETWORKS,
    SIZE,
    hyperparameters,
    posterior,
    recorded_batch,
)

STARTS = LENGTH * SIZE

# All rows are starts.
ALL = slice(None)


def parameters():
    """Actor, model and critic parameters, as float32 arrays."""
    return {
        "actor": NETWORKS.actor.init(None, None)["params"],
        "model": NETWORKS.model.init(jax.random.key(0)),
        "critic": NETWORKS.critic.init(None, None, None)["params"],
    }


def exact(params):
    return jax.tree.map(np.float64, params)


@functools.partial(jax.jit, static_argnames="settings")
def actor_loss(params, batch, return_range=0.0, settings=(), **weights):
    """The loss and its aux; `settings` are names of choices, `weights` numbers."""
    hyper = hyperparameters(**dict(settings))._replace(**weights)
    return make_losses(NETWORKS, hyper).actor(
        params["actor"],
        model=params["model"],
        critic=params["critic"],
        recorded=Recorded(batch, posterior(), ALL),
        return_range=return_range,
        key=jax.random.key(1),
    )


@functools.partial(jax.jit, static_argnames="settings")
def actor_loss_gradient(params, batch, return_range=0.0, settings=(), **weights):
    """Gradients in the parameters of actor, model and critics."""

    def loss(params):
        return actor_loss(params, batch, return_range, settings, **weights)[0]

    return jax.grad(loss)(params)


def rolled_out(params, dream, *, alpha, normalise):
    """Rewards (Eq. 3) and Q [C, H + 1, N] of a float64 rollout; N is T and B as one.

    The policy looks at the features as `dream` recorded them; members are the dream's.
    """
    seen = np.float64(dream.feature).reshape(HORIZON + 1, STARTS, -1)
    record = seen[..., fakes.DETER :]
    feature, rewards = [seen[0]], []
    for t in range(HORIZON):
        action = fakes.linear_action(params["actor"], seen[t])
        deter = feature[t][:, : fakes.DETER]
        following = fakes.linear_step(params["model"], deter, action)
        logits = fakes.linear_prior_logits(params["model"], following)
        member = np.argmax(record[t + 1, :, : fakes.MEMBERS], axis=-1)
        arrived = following + params["model"]["shift"][member]
        feature.append(np.concatenate([arrived, record[t + 1]], axis=-1))
        penalty = alpha * reference.disagreement(logits, normalise)
        rewards.append(feature[-1] @ params["model"]["reward"] - penalty)
    action = fakes.linear_action(params["actor"], seen)
    q_values = fakes.linear_q_values(params["critic"], np.stack(feature), action)
    return np.stack(rewards), np.stack(q_values)


def surprise(actor_params, batch):
    """Eq. 9 by a loop: minus the mean log-density of the accepted rows' actions."""
    feature = np.float64(posterior().feature)
    values = []
    for j in range(LENGTH):
        for b in range(SIZE):
            if batch.is_behaviour[j, b]:
                mean = fakes.linear_action(actor_params, feature[j, b])
                action = np.float64(batch.behaviour_action[j, b])
                error = np.sum((action - mean) ** 2)
                values.append(0.5 * (error + fakes.ACTION_SIZE * np.log(2 * np.pi)))
    return np.mean(values)


PAPER = ()
OTHERS = (
    ("disagreement", "logit_std"),
    ("row_weights", "cumulative_discount"),
    ("value_divisor", "return_range"),
)


class TestActorLoss:
    def expected(self, params, dream, batch, settings):
        """Eq. 10 from Eq. 4, 5 and 9, with a running range of returns of 4."""
        reward, q_values = rolled_out(
            params, dream, alpha=0.8, normalise=settings == PAPER
        )
        discounts = None if settings == PAPER else 0.9 ** np.arange(HORIZON)
        value_loss = reference.actor_value_loss(
            reward, np.min(q_values, axis=0), 0.9, 0.7, discounts
        )
        divisor = 1.0 if settings == PAPER else 4.0
        return value_loss / divisor + 0.5 * surprise(params["actor"], batch)

    @pytest.mark.parametrize("settings", [PAPER, OTHERS], ids=["paper", "others"])
    def test_value_and_gradient_are_those_of_the_equations(self, settings):
        params, batch = parameters(), recorded_batch()
        loss, (dream, _, _) = actor_loss(params, batch, 4.0, settings)
        np.testing.assert_array_equal(dream.feature[0], posterior().feature)
        expected = self.expected(exact(params), dream, batch, settings)
        np.testing.assert_allclose(loss, expected, rtol=1e-4)
        gradient = actor_loss_gradient(params, batch, 4.0, settings)["actor"]
        for name in ("weight", "bias"):

            def moved(leaf, name=name):
                actor = {**exact(params["actor"]), name: leaf}
                there = {**exact(params), "actor": actor}
                return self.expected(there, dream, batch, settings)

            numerical = reference.numerical_gradient(moved, params["actor"][name])
            np.testing.assert_allclose(gradient[name], numerical, rtol=2e-3, atol=1e-3)

    def test_mixture_is_what_eq_5_averages(self):
        params, batch = parameters(), recorded_batch()
        loss, (dream, mixture, metrics) = actor_loss(params, batch, beta=0.0)
        assert mixture.shape == (HORIZON + 1, LENGTH, SIZE)
        np.testing.assert_allclose(loss, -np.mean(mixture[:-1]), rtol=1e-5)
        np.testing.assert_allclose(
            metrics["dream/uncertainty"], np.mean(dream.uncertainty), rtol=1e-5
        )

    @pytest.mark.parametrize("rematerialise", [False, True])
    def test_imagined_steps_are_computed_again_where_asked(self, rematerialise):
        batch = recorded_batch()
        program = jax.make_jaxpr(
            lambda params: actor_loss.__wrapped__(
                params, batch, rematerialise=rematerialise
            )[0]
        )(parameters())
        # Kept steps hand the logits of all members out of the loop.
        logits = HORIZON, fakes.MEMBERS, LENGTH, SIZE, fakes.GROUPS, fakes.MEMBERS
        kept = f"f32[{','.join(map(str, logits))}]"
        assert (kept not in str(program)) == rematerialise

    def test_value_scale_multiplies_the_value_term_alone(self):
        params, batch = parameters(), recorded_batch()
        whole = actor_loss(params, batch)[0]
        value = actor_loss(params, batch, beta=0.0)[0]
        scaled = actor_loss(params, batch, value_scale=0.25)[0]
        np.testing.assert_allclose(scaled, whole - 0.75 * value, rtol=1e-4)

    def test_without_alpha_the_disagreement_does_not_exist(self):
        params, batch = parameters(), recorded_batch()
        # The fake's prior heads make nothing but the disagreement.
        other = {**params, "model": {**params["model"], "prior": jnp.ones((3, 2, 6))}}
        assert (
            actor_loss(params, batch, alpha=0.0)[0]
            == actor_loss(other, batch, alpha=0.0)[0]
        )
        assert actor_loss(params, batch)[0] != actor_loss(other, batch)[0]
        gradient = actor_loss_gradient(params, batch, alpha=0.0)
        assert not np.any(gradient["model"]["prior"])
        assert np.any(actor_loss_gradient(params, batch)["model"]["prior"])

    def test_without_beta_the_demonstrations_do_not_exist(self):
        params, batch = parameters(), recorded_batch()
        other = batch.replace(
            behaviour_action=-batch.behaviour_action,
            is_behaviour=~batch.is_behaviour,
        )
        assert (
            actor_loss(params, batch, beta=0.0)[0]
            == actor_loss(params, other, beta=0.0)[0]
        )
        assert actor_loss(params, batch)[0] != actor_loss(params, other)[0]

    def test_no_row_to_clone_is_no_behaviour_term(self):
        params, batch = parameters(), recorded_batch()
        none = batch.replace(is_behaviour=np.zeros_like(batch.is_behaviour))
        np.testing.assert_allclose(
            actor_loss(params, none)[0], actor_loss(params, batch, beta=0.0)[0]
        )

    def test_penalty_pushes_the_actor_toward_agreement(self):
        params, batch = parameters(), recorded_batch()
        only = {"beta": 0.0, "value_scale": 1.0}

        def uncertainty(actor):
            loss_and_aux = actor_loss({**params, "actor": actor}, batch, **only)
            return float(loss_and_aux[1][2]["dream/uncertainty"])

        def step(alpha):
            gradient = actor_loss_gradient(params, batch, alpha=alpha, **only)
            return jax.tree.map(
                lambda p, g: p - 1e-4 * g, params["actor"], gradient["actor"]
            )

        assert uncertainty(step(100.0)) < uncertainty(params["actor"])
        assert uncertainty(step(100.0)) < uncertainty(step(0.0))


@functools.partial(jax.jit, static_argnames=("reduction", "starts"))
def targets_of(
    target_params, model_params, dream, batch, key, reduction="min", starts=ALL
):
    losses = make_losses(NETWORKS, hyperparameters(target_reduction=reduction))
    rows = ALL if starts is ALL else jnp.array(starts)
    return losses.critic_targets(
        target_params,
        model=model_params,
        dream=dream,
        recorded=Recorded(batch, posterior(), rows),
        key=key,
    )


@functools.partial(jax.jit, static_argnames="starts")
def critic_loss(params, dream, batch, targets, starts=ALL):
    rows = ALL if starts is ALL else jnp.array(starts)
    return make_losses(NETWORKS, hyperparameters()).critic(
        params,
        dream=dream,
        recorded=Recorded(batch, posterior(), rows),
        targets=targets,
    )


class TestCritics:
    KEY = jax.random.key(2)

    def dream(self):
        return actor_loss(parameters(), recorded_batch())[1][0]

    def target_params(self):
        return jax.tree.map(lambda x: x[::-1] + 0.3, parameters()["critic"])

    def expected_targets(self, reduce):
        """Gbar^t of imagined rows [H, T, B], and Eq. 7's targets, in float64."""
        params = {**exact(parameters()), "critic": exact(self.target_params())}
        reward, q_values = rolled_out(params, self.dream(), alpha=0.8, normalise=True)
        value = reduce(q_values)
        returns = reference.lambda_returns(reward, value, 0.9, 0.7)
        batch = recorded_batch()
        recorded = reference.recorded_targets(
            np.float64(batch.reward),
            batch.is_terminal,
            returns[0].reshape(LENGTH, SIZE),
            value[0].reshape(LENGTH, SIZE),
            0.9,
            0.7,
        )
        return returns[:-1].reshape(HORIZON, LENGTH, SIZE), recorded

    def measured_targets(self, key=KEY, reduction="min"):
        return targets_of(
            self.target_params(),
            parameters()["model"],
            self.dream(),
            recorded_batch(),
            key,
            reduction,
        )

    def test_targets_are_those_of_the_equations(self):
        imagined, recorded = self.measured_targets()
        expected = self.expected_targets(lambda q_values: np.min(q_values, axis=0))
        np.testing.assert_allclose(imagined, expected[0], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(recorded[1:], expected[1], rtol=1e-3, atol=1e-4)

    def test_recorded_targets_carry_the_recorded_reward_and_no_penalty(self):
        _, recorded = self.measured_targets()
        batch = recorded_batch()
        # Nothing follows a terminal: its row's target is the reward alone.
        np.testing.assert_allclose(recorded[1, 1], batch.reward[1, 1], rtol=1e-6)
        richer = batch.replace(reward=batch.reward + 1.0)
        _, more = targets_of(
            self.target_params(), parameters()["model"], self.dream(), richer, self.KEY
        )
        np.testing.assert_allclose(more, recorded + 1.0, rtol=1e-4, atol=1e-4)

    def test_a_random_critic_is_the_same_one_for_all_targets_of_an_update(self):
        chosen = set()
        for key in jax.random.split(jax.random.key(3), 8):
            imagined, recorded = self.measured_targets(key, "random")
            for critic in range(2):
                expected = self.expected_targets(lambda q, c=critic: q[c])
                if np.allclose(imagined, expected[0], rtol=1e-3, atol=1e-4):
                    np.testing.assert_allclose(
                        recorded[1:], expected[1], rtol=1e-3, atol=1e-4
                    )
                    chosen.add(critic)
        assert chosen == {0, 1}

    def test_loss_is_eq_8(self):
        params, batch, dream = parameters(), recorded_batch(), self.dream()
        targets = self.measured_targets()
        loss, metrics = critic_loss(params["critic"], dream, batch, targets)
        _, imagined = rolled_out(exact(params), dream, alpha=0.8, normalise=True)
        recorded = fakes.linear_q_values(
            exact(params["critic"]),
            np.float64(posterior().feature[:-1]),
            np.float64(batch.prev_action[1:]),
        )
        target = np.float64(targets[0]).reshape(HORIZON, STARTS)
        eq_6 = reference.imagined_critic_loss(imagined[:, :-1], target)
        eq_7 = reference.recorded_critic_loss(
            np.stack(recorded), np.float64(targets[1][1:]), batch.is_first
        )
        np.testing.assert_allclose(metrics["critic/imagined_loss"], eq_6, rtol=1e-4)
        np.testing.assert_allclose(metrics["critic/recorded_loss"], eq_7, rtol=1e-4)
        np.testing.assert_allclose(loss, eq_6 + eq_7, rtol=1e-4)

    def test_rows_before_another_episode_teach_nothing(self):
        params, dream = parameters()["critic"], self.dream()
        imagined, recorded = self.measured_targets()
        # Row 1 of sequence 0 is followed by another episode's first row, row 2.
        elsewhere = recorded.at[2, 0].set(1e3)
        batch = recorded_batch()
        loss = critic_loss(params, dream, batch, (imagined, recorded))[0]
        assert loss == critic_loss(params, dream, batch, (imagined, elsewhere))[0]
        elsewhere = recorded.at[2, 1].set(1e3)
        assert loss != critic_loss(params, dream, batch, (imagined, elsewhere))[0]

    def test_nothing_comes_before_a_sequence(self):
        params, dream, batch = parameters()["critic"], self.dream(), recorded_batch()
        imagined, recorded = self.measured_targets()
        loss = critic_loss(params, dream, batch, (imagined, recorded))[0]
        elsewhere = recorded.at[0].set(1e3)
        assert loss == critic_loss(params, dream, batch, (imagined, elsewhere))[0]

    @pytest.mark.parametrize("starts", [(1, 3), (0, 2)])
    def test_some_starts_teach_what_they_teach_among_all(self, starts):
        params, batch, dream = parameters(), recorded_batch(), self.dream()
        rows = np.array(starts)
        some = jax.tree.map(lambda leaf: leaf[:, rows], dream)
        targets = targets_of(
            self.target_params(), params["model"], some, batch, self.KEY, starts=starts
        )
        whole = self.measured_targets()
        np.testing.assert_allclose(targets[0], whole[0][:, rows], rtol=1e-5)
        np.testing.assert_allclose(targets[1], whole[1][rows], rtol=1e-5)
        # Eq. 7 over the rows before the starts alone: those of others are left out.
        _, metrics = critic_loss(params["critic"], some, batch, targets, starts)
        own = batch.is_first.copy()
        own[[row for row in range(LENGTH) if row not in starts]] = True
        _, of_own = critic_loss(
            params["critic"], dream, batch.replace(is_first=own), whole
        )
        np.testing.assert_allclose(
            metrics["critic/recorded_loss"], of_own["critic/recorded_loss"], rtol=1e-5
        )

    def test_targets_carry_no_gradient(self):
        params, batch, dream = parameters(), recorded_batch(), self.dream()

        @jax.jit
        @functools.partial(jax.grad, argnums=(0, 1, 2))
        def gradients(critic_params, target_params, model_params):
            targets = targets_of(target_params, model_params, dream, batch, self.KEY)
            return critic_loss(critic_params, dream, batch, targets)[0]

        to_critic, *others = gradients(
            params["critic"], self.target_params(), params["model"]
        )
        assert np.any(to_critic["state"]) and np.any(to_critic["action"])
        for leaf in jax.tree.leaves(others):
            np.testing.assert_array_equal(leaf, 0.0)
