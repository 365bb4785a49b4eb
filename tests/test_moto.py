"""MOTO's losses against NumPy (Eq. 4 to 10), and what an update changes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.configs.base import get_config
from moto_jax.agents import make_agent, moto
from moto_jax.networks.rssm import LatentState
from tests import fakes, reference

LENGTH, SIZE, HORIZON = 4, 3, 3
STARTS = LENGTH * SIZE
NETWORKS = moto.Networks(
    fakes.linear_world_model(),
    fakes.LinearActor(),
    fakes.LinearCritics(),
)


def hyperparameters(**changes) -> moto.Hyperparameters:
    section = dict(get_config("full").moto)
    section.update(horizon=HORIZON, discount=0.9, lambda_=0.7, alpha=0.8, beta=0.5)
    return moto.make_hyperparameters({**section, **changes})


def recorded_batch():
    """Two sequences with a boundary or a terminal inside, and one without."""
    batch = fakes.random_batch(
        LENGTH, SIZE, action_size=fakes.ACTION_SIZE, image_size=2
    )
    batch.is_first[2, 0] = True
    batch.is_terminal[1, 1] = True
    batch.is_behaviour[:, 2] = False
    batch.is_behaviour[0, 2] = True
    return batch


def posterior() -> LatentState:
    generator = np.random.default_rng(6)
    index = generator.integers(0, fakes.MEMBERS, (LENGTH, SIZE, fakes.GROUPS))
    return LatentState(
        jnp.float32(generator.normal(size=(LENGTH, SIZE, fakes.DETER))),
        jax.nn.one_hot(index, fakes.MEMBERS),
    )


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
    return moto.actor_loss(
        params["actor"],
        NETWORKS,
        hyper,
        params["model"],
        params["critic"],
        posterior(),
        batch,
        return_range,
        jax.random.key(1),
    )


@functools.partial(jax.jit, static_argnames="settings")
def actor_loss_gradient(params, batch, return_range=0.0, settings=(), **weights):
    """Gradients in the parameters of actor, model and critics."""

    def loss(params):
        return actor_loss(params, batch, return_range, settings, **weights)[0]

    return jax.grad(loss)(params)


def rolled_out(params, dream, *, alpha, normalise):
    """Rewards (Eq. 3) and Q [C, H + 1, N] of a float64 rollout of the actor.

    The policy looks at the features as `dream` recorded them; members are the dream's.
    """
    seen = np.float64(dream.feature)
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
    for j in range(LENGTH - 1):
        for b in range(SIZE):
            if batch.is_behaviour[j, b]:
                mean = fakes.linear_action(actor_params, feature[j, b])
                error = np.sum((np.float64(batch.prev_action[j + 1, b]) - mean) ** 2)
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
        np.testing.assert_array_equal(
            dream.feature[0], posterior().feature.reshape(STARTS, -1)
        )
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
        assert mixture.shape == (HORIZON + 1, STARTS)
        np.testing.assert_allclose(loss, -np.mean(mixture[:-1]), rtol=1e-5)
        np.testing.assert_allclose(
            metrics["dream/uncertainty"], np.mean(dream.uncertainty), rtol=1e-5
        )

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
            prev_action=-batch.prev_action, is_behaviour=~batch.is_behaviour
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


@functools.partial(jax.jit, static_argnames="reduction")
def targets_of(target_params, model_params, dream, batch, key, reduction="min"):
    return moto.critic_targets(
        target_params,
        NETWORKS,
        hyperparameters(target_reduction=reduction),
        model_params,
        dream,
        batch,
        key,
    )


@jax.jit
def critic_loss(params, dream, batch, targets):
    return moto.critic_loss(
        params,
        NETWORKS,
        hyperparameters(),
        dream,
        posterior().feature,
        batch,
        *targets,
    )


class TestCritics:
    KEY = jax.random.key(2)

    def dream(self):
        return actor_loss(parameters(), recorded_batch())[1][0]

    def target_params(self):
        return jax.tree.map(lambda x: x[::-1] + 0.3, parameters()["critic"])

    def expected_targets(self, reduce):
        """Gbar^t of imagined rows, and Eq. 7's targets, in float64."""
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
        return returns[:-1], recorded

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
        np.testing.assert_allclose(recorded, expected[1], rtol=1e-3, atol=1e-4)

    def test_recorded_targets_carry_the_recorded_reward_and_no_penalty(self):
        _, recorded = self.measured_targets()
        batch = recorded_batch()
        # Nothing follows a terminal: its row's target is the reward alone.
        np.testing.assert_allclose(recorded[0, 1], batch.reward[1, 1], rtol=1e-6)
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
                        recorded, expected[1], rtol=1e-3, atol=1e-4
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
        eq_6 = reference.imagined_critic_loss(imagined[:, :-1], np.float64(targets[0]))
        eq_7 = reference.recorded_critic_loss(
            np.stack(recorded), np.float64(targets[1]), batch.is_first
        )
        np.testing.assert_allclose(metrics["critic/imagined_loss"], eq_6, rtol=1e-4)
        np.testing.assert_allclose(metrics["critic/recorded_loss"], eq_7, rtol=1e-4)
        np.testing.assert_allclose(loss, eq_6 + eq_7, rtol=1e-4)

    def test_rows_before_another_episode_teach_nothing(self):
        params, dream = parameters()["critic"], self.dream()
        imagined, recorded = self.measured_targets()
        # Row 1 of sequence 0 is followed by another episode's first row.
        elsewhere = recorded.at[1, 0].set(1e3)
        batch = recorded_batch()
        loss = critic_loss(params, dream, batch, (imagined, recorded))[0]
        assert loss == critic_loss(params, dream, batch, (imagined, elsewhere))[0]
        elsewhere = recorded.at[1, 1].set(1e3)
        assert loss != critic_loss(params, dream, batch, (imagined, elsewhere))[0]

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


OPTIMIZERS = moto.Optimizers(*[optax.adam(0.01)] * 3)


@jax.jit
def update(state, batch, weights):
    """An update of the fakes; `weights` replaces numbers of the hyper-parameters."""
    hyper = hyperparameters(target_period=3)._replace(**weights)
    return moto.make_update(NETWORKS, OPTIMIZERS, hyper)(state, batch)


@functools.cache
def initial_state():
    return moto.init_state(jax.random.key(0), NETWORKS, OPTIMIZERS, fakes.ACTION_SIZE)


def updated(**weights):
    defaults = {
        "alpha": 0.8,
        "beta": 0.5,
        "value_scale": 1.0,
        "behaviour_model_scale": 1.0,
        "acting_average": 0.5,
    }
    return lambda state, batch: update(state, batch, {**defaults, **weights})


def changed(first, second) -> set[str]:
    """The learnables whose parameters differ between two states."""
    names = ("model", "actor", "critic")
    return {
        name
        for name in names
        if any(
            np.any(a != b)
            for a, b in zip(
                jax.tree.leaves(getattr(first, name).params),
                jax.tree.leaves(getattr(second, name).params),
                strict=True,
            )
        )
    }


class TestUpdate:
    def after(self, **weights):
        state, _ = updated(**weights)(initial_state(), recorded_batch())
        return state

    def test_everything_learns(self):
        assert changed(self.after(), initial_state()) == {"model", "actor", "critic"}

    def test_the_actors_terms_move_the_actor_alone(self):
        assert changed(self.after(), self.after(beta=0.0)) == {"actor"}
        assert changed(self.after(), self.after(value_scale=0.0)) == {"actor"}

    def test_nothing_but_its_own_terms_moves_the_actor(self):
        still = self.after(beta=0.0, value_scale=0.0)
        assert changed(still, initial_state()) == {"model", "critic"}

    def test_the_penalty_reaches_actor_and_critics_but_not_the_model(self):
        assert changed(self.after(), self.after(alpha=0.0)) == {"actor", "critic"}

    def test_the_behaviour_term_shapes_the_model_by_its_weight(self):
        plain = self.after(behaviour_model_scale=0.0)
        assert "model" in changed(self.after(), plain)
        # The actor is held fixed in the model's loss: without other terms it stays.
        only = self.after(behaviour_model_scale=10.0, beta=0.0, value_scale=0.0)
        assert "actor" not in changed(only, initial_state())

    def test_each_step_draws_anew_and_the_same_step_the_same(self):
        assert not changed(self.after(), self.after())
        later = initial_state().replace(step=jnp.ones((), jnp.int32))
        other, _ = updated()(later, recorded_batch())
        assert changed(self.after(), other) == {"model", "actor", "critic"}

    def test_targets_are_copied_every_period_and_not_between(self):
        state = initial_state()
        target = state.critic.params
        for number in range(1, 8):
            state, _ = updated()(state, recorded_batch())
            if number in (3, 6):
                target = state.critic.params
            chex.assert_trees_all_equal(state.target_critic, target)
            assert state.step == number

    def test_acting_parameters_are_a_running_average_that_starts_short(self):
        state = initial_state()
        average = state.model.params["push"]
        for number in range(1, 13):
            state, _ = updated()(state, recorded_batch())
            # A tenth of an update's share is the first's, the config's 0.5 the last's.
            keep = min(0.5, number / (number + 10))
            average = keep * average + (1 - keep) * state.model.params["push"]
            np.testing.assert_allclose(
                state.acting["model"]["push"], average, rtol=1e-5
            )
        assert np.any(state.acting["actor"]["bias"] != state.actor.params["bias"])

    def test_without_an_average_the_learnt_parameters_act(self):
        state = self.after(acting_average=0.0)
        live = {"model": state.model.params, "actor": state.actor.params}
        chex.assert_trees_all_close(state.acting, live, rtol=1e-6)

    def test_return_range_follows_the_spread_of_returns(self):
        state, metrics = updated()(initial_state(), recorded_batch())
        spread = metrics["actor/return_range"]
        assert spread > 0
        np.testing.assert_allclose(state.return_range, 0.01 * spread, rtol=1e-4)
        later, metrics = updated()(state, recorded_batch())
        expected = 0.99 * state.return_range + 0.01 * metrics["actor/return_range"]
        np.testing.assert_allclose(later.return_range, expected, rtol=1e-4)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_a_bad_batch_changes_nothing_and_is_counted(self, bad):
        good = recorded_batch()
        reward = good.reward.copy()
        reward[1, 0] = bad
        state, metrics = updated()(initial_state(), good)
        assert metrics["skipped_in_a_row"] == 0
        refused = state
        for number in (1, 2):
            refused, metrics = updated()(refused, good.replace(reward=reward))
            assert refused.skipped == metrics["skipped_in_a_row"] == number
            assert refused.step == state.step + number
            chex.assert_trees_all_equal(
                refused.replace(step=state.step, skipped=state.skipped), state
            )
        recovered, metrics = updated()(refused, good)
        assert recovered.skipped == metrics["skipped_in_a_row"] == 0
        assert changed(recovered, refused) == {"model", "actor", "critic"}
        chex.assert_tree_all_finite(recovered.replace(key=0))


class TestPolicy:
    COUNT = 2

    def policy(self):
        return moto.make_policy(
            NETWORKS, fakes.ACTION_SIZE, lambda distribution, key: distribution.mode()
        )

    def act(self, carry, is_first, seed=0):
        image = np.full((self.COUNT, 2, 2, 3), 100, np.uint8)
        return self.policy().act(
            parameters(), carry, image, jnp.array(is_first), jax.random.key(seed)
        )

    def test_acts_on_the_filtered_state_and_remembers_its_own_action(self):
        action, carry = self.act(self.policy().initial(self.COUNT), [True, True])
        np.testing.assert_array_equal(carry.latent.deter, 0.0)
        following, later = self.act(carry, [False, False], seed=1)
        expected = fakes.linear_step(parameters()["model"], carry.latent.deter, action)
        np.testing.assert_allclose(later.latent.deter, expected, rtol=1e-5)
        np.testing.assert_allclose(
            following,
            fakes.linear_action(parameters()["actor"], later.latent.feature),
            rtol=1e-5,
        )
        np.testing.assert_array_equal(later.action, following)

    def test_a_new_episode_forgets_alone(self):
        _, carry = self.act(self.policy().initial(self.COUNT), [True, True])
        _, kept = self.act(carry, [False, False])
        _, reset = self.act(carry, [False, True])
        np.testing.assert_array_equal(reset.latent.deter[0], kept.latent.deter[0])
        np.testing.assert_array_equal(reset.latent.deter[1], 0.0)


class TestBuilding:
    @pytest.mark.parametrize(
        "field", ["disagreement", "target_reduction", "value_divisor", "row_weights"]
    )
    def test_unknown_choices_are_named_with_the_known_ones(self, field):
        config = get_config("tiny")
        config.moto[field] = "nonsense"
        with pytest.raises(ValueError, match=rf"'nonsense' in config\.moto\.{field}"):
            make_agent(config, action_size=9, image_size=64)

    def test_unknown_agents_are_named_with_the_known_ones(self):
        config = get_config("tiny")
        config.agent = "nobody"
        with pytest.raises(ValueError, match="'nobody': set config.agent to .*moto"):
            make_agent(config, action_size=9, image_size=64)

    def test_image_size_is_refused_before_anything_is_made(self):
        with pytest.raises(ValueError, match="image size 32"):
            make_agent(get_config("tiny"), action_size=9, image_size=32)
