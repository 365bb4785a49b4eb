"""What an update of MOTO changes and keeps, how it acts, and how it is built."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.configs.base import get_config
from moto_jax.agents import make_agent, moto
from moto_jax.agents.moto_losses import Hyperparameters, Networks
from moto_jax.learning.learners import read_section
from moto_jax.learning.model_based import make_policies
from moto_jax.learning.networks.heads import Actor, CriticEnsemble
from tests import fakes
from tests.fake_moto import (
    LENGTH,
    NETWORKS,
    SIZE,
    hyperparameters,
    make_moto,
    recorded_batch,
    with_learners,
)

OPTIMIZERS = moto.Optimizers(*[optax.adam(0.01)] * 3)


@jax.jit
def update(state, batch, weights, average):
    """An update of the fakes; `weights` replaces numbers of the hyper-parameters."""
    hyper = hyperparameters(target_period=3)._replace(**weights)
    return make_moto(NETWORKS, OPTIMIZERS, hyper, average)[1](state, batch)


@functools.cache
def initial_state():
    init, _ = make_moto(NETWORKS, OPTIMIZERS, hyperparameters())
    return init(jax.random.key(0))


def updated(**weights):
    defaults = {
        "alpha": 0.8,
        "beta": 0.5,
        "value_scale": 1.0,
        "behaviour_model_scale": 1.0,
    }
    changed = {**defaults, **weights}
    average = changed.pop("acting_average", 0.5)
    return lambda state, batch: update(state, batch, changed, average)


def changed(first, second) -> set[str]:
    """The learnables whose parameters differ between two states."""
    names = ("model", "actor", "critic")
    return {
        name
        for name in names
        if any(
            np.any(a != b)
            for a, b in zip(
                jax.tree.leaves(getattr(first.learners, name).params),
                jax.tree.leaves(getattr(second.learners, name).params),
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

    def test_the_actor_follows_the_live_critics_and_they_their_targets(self):
        state = initial_state()
        targets = jax.tree.map(lambda x: x + 1.0, state.learners.target_critic)
        other, _ = updated()(
            with_learners(state, target_critic=targets), recorded_batch()
        )
        assert changed(self.after(), other) == {"critic"}

    def test_each_step_draws_anew_and_the_same_step_the_same(self):
        assert not changed(self.after(), self.after())
        later = initial_state().replace(step=jnp.ones((), jnp.int32))
        other, _ = updated()(later, recorded_batch())
        assert changed(self.after(), other) == {"model", "actor", "critic"}

    @pytest.mark.parametrize(("step", "share"), [(2, 1.0), (4, 0.75), (9, 0.5)])
    def test_the_value_terms_weight_falls_from_one_update_to_another(self, step, share):
        state = initial_state().replace(step=jnp.int32(step))
        falling = hyperparameters(
            value_final_share=0.5, value_decay_begin=2, value_decay_steps=4
        )
        constant = hyperparameters(value_scale=share)
        (after, _), (expected, _) = (
            jax.jit(make_moto(NETWORKS, OPTIMIZERS, hyper)[1])(state, recorded_batch())
            for hyper in (falling, constant)
        )
        # With the optimisers' moments, to which the size of a gradient matters.
        chex.assert_trees_all_close(after.learners, expected.learners, rtol=1e-5)

    def test_targets_are_copied_every_period_and_not_between(self):
        state = initial_state()
        target = state.learners.critic.params
        for number in range(1, 8):
            state, _ = updated()(state, recorded_batch())
            if number in (3, 6):
                target = state.learners.critic.params
            chex.assert_trees_all_equal(state.learners.target_critic, target)
            assert state.step == number

    def test_acting_parameters_are_a_running_average_that_starts_short(self):
        state = initial_state()
        average = state.learners.model.params["push"]
        for number in range(1, 13):
            state, _ = updated()(state, recorded_batch())
            # A tenth of an update's share is the first's, the config's 0.5 the last's.
            keep = min(0.5, number / (number + 10))
            average = keep * average + (1 - keep) * state.learners.model.params["push"]
            np.testing.assert_allclose(
                state.acting["model"]["push"], average, rtol=1e-5
            )
        assert np.any(
            state.acting["actor"]["bias"] != state.learners.actor.params["bias"]
        )

    def test_without_an_average_the_learnt_parameters_act(self):
        state = self.after(acting_average=0.0)
        live = {
            "model": state.learners.model.params,
            "actor": state.learners.actor.params,
        }
        chex.assert_trees_all_close(state.acting, live, rtol=1e-6)

    def test_return_range_follows_the_spread_of_returns(self):
        state, metrics = updated()(initial_state(), recorded_batch())
        spread = metrics["actor/return_range"]
        assert spread > 0
        np.testing.assert_allclose(
            state.learners.return_range, 0.01 * spread, rtol=1e-4
        )
        later, metrics = updated()(state, recorded_batch())
        expected = (
            0.99 * state.learners.return_range + 0.01 * metrics["actor/return_range"]
        )
        np.testing.assert_allclose(later.learners.return_range, expected, rtol=1e-4)

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


def test_bfloat16_computes_finite_losses_and_keeps_its_state_in_float32():
    sizes = {"layers": 1, "units": 8, "layer_norm": True, "dtype": jnp.bfloat16}
    networks = Networks(
        fakes.blind_world_model(jnp.bfloat16),
        Actor(fakes.ACTION_SIZE, **sizes),
        CriticEnsemble(2, **sizes),
    )
    init, update = make_moto(networks, OPTIMIZERS, hyperparameters())
    update = jax.jit(update, donate_argnums=0)
    state = init(jax.random.key(0))
    initial_params = jax.tree.map(np.array, state.learners.critic.params)
    image = np.random.default_rng(0).integers(0, 256, (LENGTH, SIZE, 1, 1, 8))
    batch = recorded_batch().replace(image=np.uint8(image))
    for _ in range(2):
        state, metrics = update(state, batch)
        chex.assert_tree_all_finite((metrics, state.replace(key=None)))
        assert metrics["skipped_in_a_row"] == 0
    for leaf in jax.tree.leaves(state.replace(key=None)):
        assert leaf.dtype in (jnp.float32, jnp.int32)
    for old, new in zip(
        jax.tree.leaves(initial_params),
        jax.tree.leaves(state.learners.critic.params),
        strict=True,
    ):
        assert np.any(old != new)


class TestPolicy:
    COUNT = 2

    def params(self):
        model = NETWORKS.model.init(jax.random.key(0))
        return {"model": model, "actor": NETWORKS.actor.init(None, None)["params"]}

    def policy(self):
        model, policy = NETWORKS.model, NETWORKS.policy
        return make_policies(model, policy, fakes.ACTION_SIZE, 0.1)["mean"]

    def act(self, carry, is_first, seed=0):
        image = np.full((self.COUNT, 2, 2, 3), 100, np.uint8)
        return self.policy().act(
            self.params(), carry, image, jnp.array(is_first), jax.random.key(seed)
        )

    def test_acts_on_the_filtered_state_and_remembers_its_own_action(self):
        action, carry = self.act(self.policy().initial(self.COUNT), [True, True])
        np.testing.assert_array_equal(carry.latent.deter, 0.0)
        following, later = self.act(carry, [False, False], seed=1)
        expected = fakes.linear_step(self.params()["model"], carry.latent.deter, action)
        np.testing.assert_allclose(later.latent.deter, expected, rtol=1e-5)
        np.testing.assert_allclose(
            following,
            fakes.linear_action(self.params()["actor"], later.latent.feature),
            rtol=1e-5,
        )
        np.testing.assert_array_equal(later.action, following)

    def test_a_new_episode_forgets_alone(self):
        _, carry = self.act(self.policy().initial(self.COUNT), [True, True])
        _, kept = self.act(carry, [False, False])
        _, reset = self.act(carry, [False, True])
        np.testing.assert_array_equal(reset.latent.deter[0], kept.latent.deter[0])
        np.testing.assert_array_equal(reset.latent.deter[1], 0.0)


def read(section):
    return read_section({"moto": section}, "moto", Hyperparameters, moto._CHOICES)


class TestBuilding:
    @pytest.mark.parametrize("change", ["missing", "unknown"])
    def test_a_section_of_another_version_is_refused_by_its_key(self, change):
        section = dict(get_config("full").moto)
        if change == "missing":
            del section["alpha"]
        else:
            section["alpha_2"] = 1.0
        with pytest.raises(ValueError, match=rf"config\.moto\.alpha.* is {change}"):
            read(section)

    def test_a_section_from_before_rematerialising_is_taken(self):
        section = dict(get_config("full").moto)
        del section["rematerialise"]
        assert read(section).rematerialise is False

    def test_its_critics_may_have_layers_of_their_own(self):
        def critics(name, **numbers):
            config = get_config("tiny")
            config.agent = name
            config.moto.update(numbers)
            agent = make_agent(config, action_size=9, image_size=64)
            state = jax.eval_shape(agent.init, jax.random.key(0))
            return jax.tree.map(lambda leaf: leaf.shape, state.learners.critic.params)

        as_everyone = critics("moto")
        # Deter 8, stochastic 4 x 4, action 9: no layer between them and the value.
        linear = critics("moto", critic_layers=0)["VmapMLP_0"]
        assert linear == {"Dense_0": {"kernel": (2, 33, 1), "bias": (2, 1)}}
        assert critics("moto", critic_layers=2) == as_everyone
        other = critics("dreamer_v2", critic_layers=0)
        assert other == critics("dreamer_v2")

    def test_its_critics_may_have_a_rate_of_their_own(self, monkeypatch):
        made = []
        monkeypatch.setattr(
            "moto_jax.learning.model_based.make_optimizer",
            lambda rate, **others: made.append(rate) or optax.sgd(rate),
        )
        config = get_config("tiny")
        for rate in (0.0, 0.25):
            config.moto.critic_learning_rate = rate
            make_agent(config, action_size=9, image_size=64)
        rates = config.optimizer.learning_rates
        assert made == [*(rates.model, rates.actor, rates.critic)] + [
            *(rates.model, rates.actor, 0.25)
        ]

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
        with pytest.raises(ValueError, match="image size 48"):
            make_agent(get_config("tiny"), action_size=9, image_size=48)
