"""What comes from elsewhere in a wrong shape is refused, and never broadcast.

With rank promotion allowed, as a user has it: the suite's own setting would refuse some
of it too. Programs are traced and not compiled.
"""

import ast
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import moto_jax
from experiments.configs.base import get_config
from moto_jax.agents import bc, dreamer_v2, iql, make_agent, moto
from moto_jax.agents.moto_losses import Recorded, make_losses
from moto_jax.learning import (
    actor_critic,
    conservatism,
    disagreement,
    latent_actor_critic,
    latent_rows,
    losses,
    model_based,
    model_free,
    value_targets,
    world_model,
)
from moto_jax.learning.distributions import TruncatedNormal, balanced_kl
from moto_jax.learning.imagination import imagine, open_loop
from moto_jax.learning.learners import init_state, make_update
from moto_jax.learning.networks.rssm import LatentState
from tests import fake_actor_critic, fake_moto, fakes, test_latent_actor_critic
from tests import test_dreamer_v2 as fake_dreamer
from tests import test_likelihood_agents as fake_likelihood
from tests.fake_actor_critic import FUNCTIONS

T, B, C, A, S, K, E = 5, 3, 2, 4, 6, 7, 8
# In place of [T, B].
WRONG = {"[T, 1]": (T, 1), "[1, B]": (1, B), "[B]": (B,)}


@pytest.fixture(autouse=True)
def rank_promotion_as_a_user_has_it() -> Iterator[None]:
    with jax.numpy_rank_promotion("allow"):
        yield


def assert_refused(function: Callable[..., Any], *args: Any) -> None:
    with pytest.raises(AssertionError, match=r"\[Chex\]"):
        jax.eval_shape(function, *args)


def reshaped(function: Callable[..., Any], change: Callable[..., Any]) -> Any:
    """The function with each array that it returns changed."""
    return lambda *args: jax.tree.map(change, function(*args))


def one_more(array: jax.Array) -> jax.Array:
    """[..., 1]: what a head returns whose last axis was forgotten."""
    return array[..., None]


def first_alone(array: jax.Array) -> jax.Array:
    """[1, ...]: it would be broadcast."""
    return array[:1]


def first_behind(array: jax.Array) -> jax.Array:
    """[N, 1, ...]: likewise."""
    return array[:, :1]


# Losses and targets.


def rows_of(*before: int, after: tuple[int, ...] = (), dtype: Any = np.float32):
    """Rows [T, B], or what stands in their place -> [*before, T, B, *after]."""
    return lambda rows: jax.ShapeDtypeStruct((*before, *rows, *after), dtype)


def from_start_to_end(rows):
    """[T + 1, B]."""
    return jax.ShapeDtypeStruct((rows[0] + 1, *rows[1:]), np.float32)


PLAIN, MASK = rows_of(), rows_of(dtype=np.bool_)
VALUE = rows_of(C)
ACTION, LOGITS = rows_of(after=(A,)), rows_of(after=(S, K))
STATE = rows_of(after=(fake_actor_critic.PIXELS,))


def value_loss(observation, data_value):
    networks = fake_likelihood.Networks()
    params = fake_likelihood.value_params()
    return iql.value_loss(params, networks, observation, data_value, 0.8)


def weighted_cloning(observation, action, weights):
    params, networks = fake_likelihood.actor_params(), fake_likelihood.Networks()
    return iql.actor_loss(params, networks, observation, action, weights)


# Functions, and the arrays that they take.
CASES: dict[str, tuple[Callable[..., Any], dict[str, Callable[..., Any]]]] = {
    "masked_mean": (losses.masked_mean, {"values": PLAIN, "mask": MASK}),
    "behaviour_loss": (
        functools.partial(losses.behaviour_loss, fakes.Certain),
        {"feature": ACTION, "behaviour_action": ACTION, "is_behaviour": MASK},
    ),
    "imagined_critic_loss": (
        losses.imagined_critic_loss,
        {"value": VALUE, "target": PLAIN},
    ),
    "recorded_critic_loss": (
        losses.recorded_critic_loss,
        {"value": VALUE, "target": PLAIN, "mask": MASK},
    ),
    "regression_loss": (losses.regression_loss, {"value": VALUE, "target": PLAIN}),
    "likelihood_loss": (
        losses.likelihood_loss,
        {"log_prob": PLAIN, "weights": PLAIN, "mask": MASK},
    ),
    "lambda_returns": (
        functools.partial(value_targets.lambda_returns, discount=0.9, lambda_=0.5),
        {"reward": PLAIN, "value": from_start_to_end},
    ),
    "lambda_mixture": (
        functools.partial(value_targets.lambda_mixture, lambda_=0.5),
        {"returns": PLAIN, "value": PLAIN},
    ),
    "one_step_targets": (
        value_targets.one_step_targets,
        {"reward": PLAIN, "discount": PLAIN, "mixture": PLAIN},
    ),
    "balanced_kl": (
        functools.partial(balanced_kl, balance=0.8, free_nats=1.0),
        {"posterior_logits": LOGITS, "prior_logits": LOGITS},
    ),
    "log_prob": (
        lambda mean, std, action: TruncatedNormal(mean, std).log_prob(action),
        {"mean": ACTION, "std": ACTION, "action": ACTION},
    ),
    "log_density_deviation": (
        disagreement.log_density_deviation,
        {"logits": rows_of(E, after=(S, K)), "stoch": LOGITS},
    ),
    "choose_member": (
        world_model.choose_member,
        {"logits": rows_of(E, after=(S, K)), "member": rows_of(dtype=np.int32)},
    ),
    "iql.value_loss": (value_loss, {"observation": STATE, "data_value": PLAIN}),
    "iql.actor_loss": (
        weighted_cloning,
        {
            "observation": STATE,
            "action": rows_of(after=(fake_actor_critic.ACTION_SIZE,)),
            "weights": PLAIN,
        },
    ),
}
ARGUMENTS = [(name, argument) for name, case in CASES.items() for argument in case[1]]


def call(name, **changed):
    function, specs = CASES[name]
    arrays = {key: spec((T, B)) for key, spec in specs.items()} | changed
    return lambda: jax.eval_shape(lambda arrays: function(**arrays), arrays)


@pytest.mark.parametrize("name", CASES)
def test_rows_of_one_shape_are_taken(name):
    call(name)()


@pytest.mark.parametrize("rows", WRONG)
@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_rows_of_another_shape_are_refused(name, argument, rows):
    wrong = CASES[name][1][argument](WRONG[rows])
    with pytest.raises(AssertionError, match=r"\[Chex\]"):
        call(name, **{argument: wrong})()


@pytest.mark.parametrize("shape", [(T, 1), (1, T), (1,), (B,), (T, B)])
def test_weights_are_those_of_the_rows_of_the_horizon(shape):
    value, weights = np.zeros((T + 1, B)), np.ones(shape)
    assert_refused(losses.model_value_loss, value, weights)
    assert_refused(losses.imagined_critic_loss, value[None, 1:], value[1:], weights)
    for right in (np.ones(T), 1.0):
        jax.eval_shape(losses.model_value_loss, value, right)


def test_numbers_are_scalars():
    reward, value = np.zeros((T, B)), np.zeros((T + 1, B))
    for numbers in ((np.ones(B), 0.5), (0.9, np.ones(B))):
        assert_refused(value_targets.lambda_returns, reward, value, *numbers)
    assert_refused(value_targets.lambda_mixture, value, value, np.ones(B))
    assert_refused(losses.temperature_loss, 0.0, np.ones(B), -1.0)
    assert_refused(losses.temperature_loss, np.zeros(B), 1.0, -1.0)


def test_a_mask_is_no_weight():
    assert_refused(losses.masked_mean, np.ones(B), np.ones(B))


@pytest.mark.parametrize(
    ("argument", "shape"),
    [
        *[(0, (C, 1, B)), (0, (C, T, 1)), (1, (T, 1)), (1, (1, B)), (1, (B,))],
        *[(2, (1, B)), (2, (C, 1)), (2, (B,)), (3, (1,)), (4, (1,)), (3, (C, B))],
    ],
)
def test_the_conservative_gap_is_of_one_state_a_column(argument, shape):
    arrays = [np.zeros((C, T, B)), np.zeros((T, B)), np.zeros((C, B))]
    arrays += [np.ones(B, np.bool_), np.ones(B, np.bool_)]
    jax.eval_shape(losses.conservative_penalty, *arrays)
    arrays[argument] = np.zeros(shape, arrays[argument].dtype)
    assert_refused(losses.conservative_penalty, *arrays)


# Batches and transitions.


@functools.cache
def update_of(name: str) -> tuple[Callable[..., Any], Any, tuple[int, int]]:
    """An update, its state's shapes and those of its batches."""
    if name == "moto":
        optimizers = moto.Optimizers(*[optax.sgd(0.1)] * 3)
        hyper = fake_moto.hyperparameters()
        init, update = fake_moto.make_moto(fake_moto.NETWORKS, optimizers, hyper)
        shape = fake_moto.LENGTH, fake_moto.SIZE
    elif name == "dreamer_v2":

        def acting_params(learners):
            return {"actor": learners.actor.params}

        def init(key):
            return init_state(key, fake_dreamer.learners(), acting_params)

        step = dreamer_v2.make_step(
            fake_dreamer.NETWORKS, fake_dreamer.OPTIMIZERS, fake_dreamer.SECTION
        )
        update = make_update(step, acting_params, 0.5)
        shape = fake_moto.LENGTH, fake_moto.SIZE
    else:
        config = get_config("tiny")
        config.agent = name
        agent = make_agent(config, action_size=fakes.ACTION_SIZE, image_size=16)
        init, update, shape = agent.init, agent.updates["offline"], agent.batch_shape
    return update, jax.eval_shape(init, jax.random.key(0)), shape


def batch_of(name: str):
    size = 16 if name == "bc" else 2
    shape = update_of(name)[2]
    return fakes.random_batch(*shape, action_size=fakes.ACTION_SIZE, image_size=size)


FIELDS = tuple(vars(fake_moto.recorded_batch()))
KINDS = {
    **dict.fromkeys(["image", "row"], np.float32),
    **dict.fromkeys(["prev_action", "behaviour_action"], np.int32),
    **dict.fromkeys(["reward", "return_to_go"], np.int32),
    **dict.fromkeys([field for field in FIELDS if field.startswith("is_")], np.uint8),
}
AGENTS = ("moto", "dreamer_v2", "bc")


@pytest.mark.parametrize("name", AGENTS)
def test_an_update_takes_the_batch_that_it_asks_for(name):
    update, state, _ = update_of(name)
    jax.eval_shape(update, state, batch_of(name))


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("name", AGENTS)
def test_a_batch_with_one_field_of_a_wrong_shape_is_refused(name, field):
    (update, state, _), batch = update_of(name), batch_of(name)
    right = getattr(batch, field)
    wrong = (right[:, :1], right[:1], right[0], right[..., None], right[1:])
    for array in wrong:
        assert_refused(update, state, batch.replace(**{field: array}))
    kind = right.astype(KINDS[field])
    assert_refused(update, state, batch.replace(**{field: kind}))


def test_actions_of_a_batch_are_of_one_size():
    (update, state, _), batch = update_of("moto"), batch_of("moto")
    shorter = batch.behaviour_action[..., :1]
    assert_refused(update, state, batch.replace(behaviour_action=shorter))


def test_stacks_of_frames_want_sequences_of_their_length():
    (update, state, _), batch = update_of("bc"), batch_of("bc")
    assert_refused(update, state, jax.tree.map(lambda leaf: leaf[1:], batch))


def test_every_metric_is_a_scalar():
    _, state, _ = update_of("moto")
    update = make_update(
        lambda learners, *_: (learners, {"loss": jnp.ones(3)}), moto.acting_params, 0.5
    )
    assert_refused(update, state, batch_of("moto"))


def soft_actor_critic(transitions):
    learners = actor_critic.init_actor_critic(
        fake_actor_critic.actor_params(),
        fake_actor_critic.critic_params(),
        actor_critic.Optimizers(*[optax.sgd(0.1)] * 3),
        0.1,
    )
    return soft_step(learners, transitions)


def soft_step(learners, transitions, **changes):
    return actor_critic.actor_critic_step(
        learners,
        FUNCTIONS._replace(**changes),
        actor_critic.Optimizers(*[optax.sgd(0.1)] * 3),
        actor_critic.Constants(0.9, 0.1, 0.1, -1.0, True),
        actor_critic.no_regulariser,
        transitions,
        jax.random.key(0),
    )


def implicit_q_learning(transitions, networks=fake_likelihood.Networks):
    return iql.iql_step(
        fake_likelihood.OPTIMIZERS,
        fake_likelihood.CONSTANTS,
        fake_likelihood.SECTION,
        networks(),
        fake_likelihood.learners(),
        transitions,
        jax.random.key(0),
    )


def cloning(transitions, networks=fake_likelihood.Networks, rows=bc._ROWS["all"]):
    params = fake_likelihood.TestBc.PARAMS
    return bc.policy_loss(params, networks(), rows, transitions)


LEARNERS = {"sac": soft_actor_critic, "iql": implicit_q_learning, "bc": cloning}


@pytest.mark.parametrize("field", vars(fake_actor_critic.transitions()))
@pytest.mark.parametrize("name", LEARNERS)
def test_transitions_with_one_field_of_a_wrong_shape_are_refused(name, field):
    transitions = fake_actor_critic.transitions()
    right = getattr(transitions, field)
    wrong = [right[:, None]]
    # Observations are of any kind and size, if both are.
    if field not in ("observation", "following"):
        wrong += [right[:1], right[0], right.astype(np.uint8)]
    for array in wrong:
        other = transitions.replace(**{field: array})
        assert_refused(LEARNERS[name], other)


def test_both_actions_of_a_transition_are_of_one_size():
    transitions = fake_actor_critic.transitions()
    shorter = transitions.behaviour_action[:, :1]
    other = transitions.replace(behaviour_action=shorter)
    assert_refused(soft_actor_critic, other)


# Functions that are handed in.


def with_changed(name: str, policy: Callable[..., Any], change: Callable[..., Any]):
    """A policy one of whose methods returns something else."""

    def returned(self, *args):
        return change(getattr(super(Changed, self), name)(*args))

    Changed = type("Changed", (fakes.Certain,), {name: returned})
    return lambda *args: Changed(policy(*args).mean)


class TestActorCritic:
    NUMBERS = conservatism.Conservatism(1.0, 2, 2, True)

    def bellman(self, temperature=0.0, rows=None, **changes):
        return actor_critic.bellman_targets(
            fake_actor_critic.actor_params(),
            fake_actor_critic.critic_params(),
            fake_actor_critic.critic_params(),
            temperature,
            FUNCTIONS._replace(**changes),
            actor_critic.Constants(0.9, 0.1, 0.1, -1.0, True),
            rows or fake_actor_critic.transitions(),
            jax.random.key(0),
        )

    def critic(self, target=None, regulariser=None, **changes):
        transitions = fake_actor_critic.transitions()
        return actor_critic.critic_loss(
            fake_actor_critic.critic_params(),
            FUNCTIONS._replace(**changes),
            regulariser or actor_critic.no_regulariser,
            fake_actor_critic.actor_params(),
            transitions,
            transitions.reward if target is None else target,
            jax.random.key(0),
        )

    def actor(self, temperature=0.1, **changes):
        return actor_critic.actor_loss(
            fake_actor_critic.actor_params(),
            FUNCTIONS._replace(**changes),
            fake_actor_critic.critic_params(),
            temperature,
            jnp.zeros((fake_actor_critic.COUNT, fake_actor_critic.FEATURE)),
            jax.random.key(0),
        )

    @pytest.mark.parametrize("loss", ["bellman", "critic", "actor"])
    def test_right_ones_are_taken(self, loss):
        jax.eval_shape(getattr(self, loss))

    @pytest.mark.parametrize("change", [one_more, first_behind])
    @pytest.mark.parametrize("loss", ["bellman", "critic", "actor"])
    def test_critics_value_every_action(self, loss, change):
        q_values = reshaped(fake_actor_critic.q_values, change)
        assert_refused(lambda: getattr(self, loss)(q_values=q_values))

    @pytest.mark.parametrize("change", [one_more, first_alone])
    @pytest.mark.parametrize("loss", ["bellman", "actor"])
    def test_a_density_is_one_a_row(self, loss, change):
        policy = with_changed("log_prob", fake_actor_critic.policy, change)
        assert_refused(lambda: getattr(self, loss)(policy=policy))

    @pytest.mark.parametrize("loss", ["bellman", "actor"])
    def test_a_policy_draws_at_every_row(self, loss):
        policy = with_changed("sample", fake_actor_critic.policy, first_alone)
        assert_refused(lambda: getattr(self, loss)(policy=policy))

    @pytest.mark.parametrize("change", [one_more, first_alone])
    @pytest.mark.parametrize("field", ["reward", "continues"])
    def test_a_backup_is_of_rewards_one_a_row(self, field, change):
        rows = fake_actor_critic.transitions()
        rows = rows.replace(**{field: change(getattr(rows, field))})
        assert_refused(lambda: self.bellman(rows=rows))

    @pytest.mark.parametrize(
        ("loss", "change"),
        [("bellman", first_alone), ("bellman", first_behind), ("actor", first_alone)],
    )
    def test_a_policy_acts_at_every_row(self, loss, change):
        policy = reshaped(fake_actor_critic.policy, change)
        assert_refused(lambda: getattr(self, loss)(policy=policy))

    def test_an_encoder_keeps_the_rows(self):
        encode = reshaped(fake_actor_critic.encode, first_alone)
        assert_refused(lambda: self.critic(encode=encode))

    @pytest.mark.parametrize("change", [one_more, first_alone])
    def test_targets_are_one_a_row(self, change):
        target = change(fake_actor_critic.transitions().reward)
        assert_refused(lambda: self.critic(target))

    def test_a_regulariser_returns_a_scalar(self):
        assert_refused(lambda: self.critic(None, lambda *_: (jnp.zeros(3), {})))

    def test_a_temperature_is_a_scalar(self):
        temperature = np.ones(fake_actor_critic.COUNT)
        assert_refused(lambda: self.bellman(temperature=temperature))
        assert_refused(lambda: self.actor(temperature))

    @pytest.mark.parametrize("change", [one_more, first_alone])
    def test_rows_that_are_pushed_down_are_marked_one_by_one(self, change):
        regulariser = conservatism.make_conservative(
            self.NUMBERS, lambda transitions: change(transitions.recorded)
        )
        assert_refused(lambda: self.critic(None, regulariser))

    @pytest.mark.parametrize("change", [one_more, first_alone])
    def test_values_are_bounded_below_one_by_one(self, change):
        regulariser = conservatism.make_conservative(
            self.NUMBERS,
            conservatism.everywhere,
            lambda transitions: change(transitions.return_to_go),
        )
        assert_refused(lambda: self.critic(None, regulariser))


class TestLikelihoodAgents:
    @pytest.mark.parametrize("change", [one_more, first_alone])
    @pytest.mark.parametrize(
        ("learn", "function"),
        [
            (implicit_q_learning, "state_value"),
            (implicit_q_learning, "policy"),
            (cloning, "policy"),
        ],
    )
    def test_values_and_densities_are_one_a_row(self, learn, function, change):
        networks = fake_likelihood.Networks
        right = getattr(networks, function)
        changed = reshaped(right, change)
        if function == "policy":
            inner = fake_actor_critic.policy
            changed = with_changed("log_prob", inner, change)
        other = type("Other", (networks,), {function: staticmethod(changed)})
        assert_refused(lambda: learn(fake_actor_critic.transitions(), other))

    def test_targets_are_one_a_row(self):
        networks = fake_likelihood.Networks
        changed = reshaped(networks.state_value, one_more)
        other = type("Other", (networks,), {"state_value": staticmethod(changed)})
        transitions = fake_actor_critic.transitions()
        assert_refused(
            lambda: iql.critic_targets(
                fake_likelihood.learners(), other(), 0.9, transitions
            )
        )

    def test_slow_critics_value_every_action(self):
        networks, calls = fake_likelihood.Networks, []

        def q_values(*args):
            # The live ones come first.
            calls.append(None)
            value = networks.q_values(*args)
            return value if len(calls) == 1 else value[..., None]

        other = type("Other", (networks,), {"q_values": staticmethod(q_values)})
        assert_refused(
            lambda: implicit_q_learning(fake_actor_critic.transitions(), other)
        )

    @pytest.mark.parametrize("change", [one_more, first_alone, jnp.any])
    def test_rows_that_are_cloned_are_marked_one_by_one(self, change):
        assert_refused(
            lambda: cloning(
                fake_actor_critic.transitions(), rows=lambda rows: change(rows.recorded)
            )
        )


MODEL = fakes.linear_world_model()
LENGTH, SIZE, HORIZON = fake_moto.LENGTH, fake_moto.SIZE, fake_moto.HORIZON


def act(feature, key):
    return jnp.zeros((*feature.shape[:-1], fakes.ACTION_SIZE))


def zeros(logits, following):
    return jnp.zeros(following.shape[:-2])


class TestImagination:
    def dream(self, model=MODEL, policy=act, uncertainty=zeros, starts=None, **options):
        return lambda: imagine(
            model,
            fakes.linear_model_params(),
            policy,
            uncertainty,
            starts or fake_moto.posterior(),
            HORIZON,
            jax.random.key(0),
            **options,
        )

    @pytest.mark.parametrize("rematerialise", [False, True])
    def test_right_ones_are_taken(self, rematerialise):
        dream = jax.eval_shape(self.dream(rematerialise=rematerialise))
        assert dream.uncertainty.shape == (HORIZON, LENGTH, SIZE)

    @pytest.mark.parametrize(
        "change",
        [one_more, first_alone, first_behind, lambda x: x[0], lambda x: x[0, 0]],
    )
    def test_a_policy_acts_at_every_start(self, change):
        assert_refused(self.dream(policy=reshaped(act, change)))

    @pytest.mark.parametrize("rematerialise", [False, True])
    @pytest.mark.parametrize("change", [one_more, jnp.mean, lambda x: x[..., :1]])
    def test_an_uncertainty_is_one_number_a_row(self, change, rematerialise):
        uncertainty = reshaped(zeros, change)
        options = {"rematerialise": rematerialise}
        assert_refused(self.dream(uncertainty=uncertainty, **options))

    @pytest.mark.parametrize("change", [one_more, first_alone, first_behind])
    @pytest.mark.parametrize("part", [0, 1])
    def test_a_step_returns_states_and_all_members_logits(self, part, change):
        def step(*args):
            results = list(MODEL.imagine_step(*args))
            results[part] = jax.tree.map(change, results[part])
            return tuple(results)

        assert_refused(self.dream(MODEL._replace(imagine_step=step)))

    @pytest.mark.parametrize("change", [first_alone, first_behind, lambda x: x[0]])
    def test_both_parts_of_a_start_belong_together(self, change):
        starts = fake_moto.posterior()
        starts = starts.replace(stoch=change(starts.stoch))
        assert_refused(self.dream(starts=starts))

    @pytest.mark.parametrize("change", [first_alone, lambda x: x[..., :1]])
    def test_predicted_images_are_like_the_recorded_ones(self, change):
        def predict(decode):
            model = MODEL._replace(decode=decode)
            params, batch = fakes.linear_model_params(), fake_moto.recorded_batch()
            return lambda: open_loop(model, params, batch, 2, jax.random.key(0))

        jax.eval_shape(predict(MODEL.decode))
        assert_refused(predict(reshaped(MODEL.decode, change)))


class TestWorldModel:
    def loss(self, batch=None, **functions):
        return lambda: world_model.world_model_loss(
            fakes.linear_model_params(),
            MODEL._replace(**functions),
            batch or fake_moto.recorded_batch(),
            jax.random.key(0),
        )

    def test_right_ones_are_taken(self):
        jax.eval_shape(self.loss())

    @pytest.mark.parametrize(
        ("name", "change"),
        [
            (name, change)
            for name in ("embed", "reward", "decode", "prior_logits")
            for change in (one_more, first_alone, first_behind)
            # What is behind the rows of an embedding is the model's own affair.
            if (name, change) != ("embed", one_more)
        ],
    )
    def test_a_function_keeps_the_rows(self, name, change):
        function = reshaped(getattr(MODEL, name), change)
        assert_refused(self.loss(**{name: function}))

    @pytest.mark.parametrize("name", ["decode", "image_coordinates"])
    def test_errors_of_images_are_of_three_colours(self, name):
        function = reshaped(getattr(MODEL, name), lambda image: image[..., :1])
        assert_refused(self.loss(**{name: function}))

    @pytest.mark.parametrize("change", [one_more, first_alone])
    @pytest.mark.parametrize("part", [0, 1])
    def test_a_filters_step_returns_states_and_logits(self, part, change):
        def observe(*args):
            results = list(MODEL.observe(*args))
            results[part] = jax.tree.map(change, results[part])
            return tuple(results)

        assert_refused(self.loss(observe=observe))

    @pytest.mark.parametrize("change", [first_behind, one_more])
    @pytest.mark.parametrize("field", ["prev_action", "is_first"])
    def test_rows_that_are_filtered_belong_together(self, field, change):
        batch = fake_moto.recorded_batch()
        changed = batch.replace(**{field: change(getattr(batch, field))})
        assert_refused(self.loss(changed))

    @pytest.mark.parametrize("field", ["deter", "stoch"])
    def test_the_state_before_is_one_a_sequence(self, field):
        latent = MODEL.initial((SIZE,))
        latent = latent.replace(**{field: getattr(latent, field)[:1]})
        keys = jax.random.split(jax.random.key(0), LENGTH)
        assert_refused(
            lambda: world_model.observe_sequence(
                MODEL,
                fakes.linear_model_params(),
                fake_moto.recorded_batch(),
                latent,
                keys,
            )
        )

    @pytest.mark.parametrize("argument", range(4))
    def test_what_is_observed_is_of_as_many_rows_as_the_state(self, argument):
        model = fakes.blind_world_model()
        args = [
            jnp.zeros((B, fakes.BLIND_SIZES.hidden)),
            jnp.zeros((B, fakes.ACTION_SIZE)),
            jnp.zeros(B, bool),
            model.initial((B,)),
        ]
        params, key = jax.eval_shape(model.init, jax.random.key(0)), jax.random.key(0)
        jax.eval_shape(model.observe, params, *args, key)
        args[argument] = jax.tree.map(lambda leaf: leaf[:1], args[argument])
        assert_refused(model.observe, params, *args, key)


class TestPolicies:
    COUNT, PIXELS, FRAMES = 3, 2, 2

    def seen(self, **changes):
        shape = (self.COUNT, self.PIXELS, self.PIXELS, 3)
        right = {
            "image": np.zeros(shape, np.uint8),
            "is_first": np.zeros(self.COUNT, np.bool_),
        }
        return {**right, **changes}

    def filtering(self, actor=None, carry=None, model=MODEL, **seen):
        def linear(params):
            return lambda feature: fakes.LinearActor().apply(
                {"params": params}, feature
            )

        policy = model_based.make_policies(
            model, actor or linear, fakes.ACTION_SIZE, 0.1
        )["mean"]
        params = {
            "model": fakes.linear_model_params(),
            "actor": fakes.LinearActor().init(None, None)["params"],
        }
        carry = (carry or (lambda carry: carry))(policy.initial(self.COUNT))
        return lambda: policy.act(
            params, carry, *self.seen(**seen).values(), jax.random.key(0)
        )

    def stacking(self, carry=None, change=lambda action: action, **seen):
        class Networks:
            encode = staticmethod(lambda params, stack: stack)
            policy = staticmethod(
                lambda params, stack: fakes.Certain(
                    change(stack[:, 0, 0, :2].astype(jnp.float32))
                )
            )

        policy = model_free.make_policies(Networks(), self.FRAMES, self.PIXELS, 0.1)
        policy, params = policy["mean"], {"encoder": None, "actor": None}
        carry = (carry or (lambda carry: carry))(policy.initial(self.COUNT))
        return lambda: policy.act(
            params, carry, *self.seen(**seen).values(), jax.random.key(0)
        )

    @pytest.mark.parametrize("kind", ["filtering", "stacking"])
    @pytest.mark.parametrize(
        "changes",
        [
            {"image": np.zeros((3, 2, 2, 3), np.float32)},
            {"image": np.zeros((1, 2, 2, 3), np.uint8)},
            {"image": np.zeros((2, 2, 3), np.uint8)},
            {"is_first": np.zeros(1, np.bool_)},
            {"is_first": np.zeros((3, 1), np.bool_)},
            {"is_first": np.zeros(3, np.float32)},
            {
                "image": np.zeros((3, 1, 2, 2, 3), np.uint8),
                "is_first": np.zeros((3, 1), np.bool_),
            },
        ],
    )
    def test_see_an_image_and_a_flag_an_environment(self, kind, changes):
        jax.eval_shape(getattr(self, kind)())
        assert_refused(getattr(self, kind)(**changes))

    @pytest.mark.parametrize("change", [first_alone, one_more, first_behind])
    def test_act_once_an_environment(self, change):
        def actor(params):
            linear = fakes.LinearActor()
            return lambda feature: fakes.Certain(
                change(linear.apply({"params": params}, feature).mean)
            )

        assert_refused(self.filtering(actor))
        if change is not first_behind:
            assert_refused(self.stacking(change=change))

    def test_remember_every_environment(self):
        for field in ("latent", "action"):

            def forget(carry, field=field):
                part = jax.tree.map(first_alone, getattr(carry, field))
                return carry.replace(**{field: part})

            assert_refused(self.filtering(carry=forget))
        assert_refused(self.stacking(first_alone))
        assert_refused(self.stacking(lambda stack: stack[..., :3]))

    @pytest.mark.parametrize("change", [first_alone, one_more])
    def test_filter_with_a_model_that_keeps_the_rows(self, change):
        def observe(*args):
            latent, logits = MODEL.observe(*args)
            return jax.tree.map(change, latent), logits

        assert_refused(self.filtering(model=MODEL._replace(observe=observe)))
        embed = reshaped(MODEL.embed, change)
        assert_refused(self.filtering(model=MODEL._replace(embed=embed)))


class TestLatentRows:
    def arguments(self):
        latent = LatentState.zeros((B,), 2, S, K)
        rows = latent_rows.empty_rows(9, latent, A)
        flags = np.zeros(B, np.bool_)
        return [
            rows,
            np.arange(B),
            latent,
            np.zeros((B, A), np.float32),
            np.zeros(B, np.float32),
            flags,
            flags,
        ]

    @pytest.mark.parametrize("change", [first_alone, first_behind, one_more])
    @pytest.mark.parametrize("argument", [1, 3, 4, 5, 6])
    def test_every_field_is_one_a_row(self, argument, change):
        args = self.arguments()
        jax.eval_shape(latent_rows.write_rows, *args)
        if change is first_behind:
            args[argument] = args[argument][:, None]
        else:
            args[argument] = change(args[argument])
        assert_refused(latent_rows.write_rows, *args)

    @pytest.mark.parametrize("field", ["deter", "stoch"])
    @pytest.mark.parametrize("change", [first_alone, first_behind])
    def test_a_state_is_of_the_rings_sizes(self, field, change):
        args = self.arguments()
        args[2] = args[2].replace(**{field: change(getattr(args[2], field))})
        assert_refused(latent_rows.write_rows, *args)

    @pytest.mark.parametrize("argument", [1, 5, 6])
    def test_numbers_and_flags_are_no_floats(self, argument):
        args = self.arguments()
        args[argument] = args[argument].astype(np.float32)
        assert_refused(latent_rows.write_rows, *args)

    @pytest.mark.parametrize("change", [first_alone, first_behind])
    def test_what_is_stored_is_the_state_of_every_row(self, change):
        def fit(*args, **named):
            learnable, posterior, metrics = test_latent_actor_critic.PARTS.fit(
                *args, **named
            )
            return learnable, jax.tree.map(change, posterior), metrics

        assert_refused(self.latent_step(fit=fit))

    @pytest.mark.parametrize("change", [first_alone, first_behind, one_more])
    def test_rollouts_have_a_reward_a_row(self, change):
        model = MODEL._replace(reward=reshaped(MODEL.reward, change))
        # Filtering asks for no reward.
        assert_refused(self.latent_step("policy", model=model))

    def latent_step(self, phase="joint", **changes):
        parts = test_latent_actor_critic.PARTS._replace(**changes)
        step = getattr(latent_actor_critic, f"{phase}_step")
        return lambda: step(
            parts,
            test_latent_actor_critic.initial_learners(),
            test_latent_actor_critic.recorded_batch(),
            jax.random.key(0),
            0,
        )


class Critics(fakes.LinearCritics):
    """Linear critics whose values are changed by a class attribute."""

    change = staticmethod(one_more)

    def apply(self, variables, feature, action):
        return self.change(super().apply(variables, feature, action))


class TestMoto:
    NETWORKS = fake_moto.NETWORKS

    def recorded(self, posterior=None):
        posterior = posterior or fake_moto.posterior()
        return Recorded(fake_moto.recorded_batch(), posterior, slice(None))

    def losses(self, networks=NETWORKS, **numbers):
        return make_losses(networks, fake_moto.hyperparameters()._replace(**numbers))

    def actor(self, return_range=0.0, posterior=None, networks=NETWORKS, **numbers):
        return self.losses(networks, **numbers).actor(
            networks.actor.init(None, None)["params"],
            model=fakes.linear_model_params(),
            critic=networks.critic.init(None, None, None)["params"],
            recorded=self.recorded(posterior),
            return_range=return_range,
            key=jax.random.key(1),
        )

    @functools.cached_property
    def dream(self):
        """A rollout of zeros."""
        shapes = jax.eval_shape(self.actor)[1][0]
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)

    def targets(self, networks=NETWORKS, dream=None, **numbers):
        return self.losses(networks, **numbers).critic_targets(
            networks.critic.init(None, None, None)["params"],
            model=fakes.linear_model_params(),
            dream=dream or self.dream,
            recorded=self.recorded(),
            key=jax.random.key(2),
        )

    def critic(self, networks=NETWORKS, posterior=None, change=None, **numbers):
        shapes = jax.eval_shape(self.targets)
        targets = [np.zeros(leaf.shape, leaf.dtype) for leaf in shapes]
        if change:
            part, function = change
            targets[part] = function(targets[part])
        return self.losses(networks, **numbers).critic(
            networks.critic.init(None, None, None)["params"],
            dream=self.dream,
            recorded=self.recorded(posterior),
            targets=tuple(targets),
        )

    @pytest.mark.parametrize("loss", ["actor", "targets", "critic"])
    def test_right_ones_are_taken(self, loss):
        jax.eval_shape(getattr(self, loss))

    @pytest.mark.parametrize("change", [one_more, jnp.mean, lambda x: x[..., :1]])
    def test_disagreement_is_one_number_a_row(self, change):
        right = disagreement.disagreement
        assert_refused(lambda: self.actor(disagreement=reshaped(right, change)))

    @pytest.mark.parametrize("change", [one_more, first_alone, first_behind])
    @pytest.mark.parametrize("loss", ["actor", "targets"])
    def test_a_reward_is_one_number_a_row(self, loss, change):
        model = MODEL._replace(reward=reshaped(MODEL.reward, change))
        networks = self.NETWORKS._replace(model=model)
        assert_refused(lambda: getattr(self, loss)(networks=networks))

    @pytest.mark.parametrize("change", [one_more, first_behind, lambda q: q[..., :1]])
    @pytest.mark.parametrize("loss", ["actor", "targets", "critic"])
    def test_critics_value_every_action(self, loss, change):
        critics = type("Changed", (Critics,), {"change": staticmethod(change)})()
        networks = self.NETWORKS._replace(critic=critics)
        assert_refused(lambda: getattr(self, loss)(networks=networks))

    def test_critics_take_an_action_a_state(self):
        params = fakes.LinearCritics().init(None, None, None)["params"]
        action = self.dream.action[:, :, :1]
        assert_refused(self.NETWORKS.q_values, params, self.dream.feature, action)

    @pytest.mark.parametrize("change", [one_more, first_alone, first_behind, jnp.mean])
    def test_a_reduction_leaves_a_value_a_row(self, change):
        reduction = reshaped(value_targets.minimum_over_critics, change)
        assert_refused(lambda: self.targets(target_reduction=reduction))

    @pytest.mark.parametrize(
        "shape", [(HORIZON, 1), (1, HORIZON), (1,), (LENGTH, SIZE)]
    )
    @pytest.mark.parametrize("loss", ["actor", "critic"])
    def test_row_weights_are_a_scalar_or_one_a_step(self, loss, shape):
        weights = np.ones(shape)
        assert_refused(lambda: getattr(self, loss)(row_weights=lambda *_: weights))

    def test_what_values_are_divided_by_is_a_scalar(self):
        assert_refused(lambda: self.actor(value_divisor=lambda _: np.ones(SIZE)))
        assert_refused(lambda: self.actor(np.zeros(SIZE), value_divisor=jnp.max))

    @pytest.mark.parametrize("change", [one_more, first_alone, first_behind])
    @pytest.mark.parametrize("name", ["log_prob", "entropy"])
    def test_entropies_and_densities_are_one_a_row(self, name, change):
        class Actor(fakes.LinearActor):
            def apply(self, variables, feature):
                return with_changed(name, super().apply, change)(variables, feature)

        networks = self.NETWORKS._replace(actor=Actor())
        assert_refused(lambda: self.actor(networks=networks))

    @pytest.mark.parametrize(
        "change",
        [one_more, first_alone, first_behind, lambda x: x[..., :1], lambda x: x[0]],
    )
    @pytest.mark.parametrize("part", [0, 1], ids=["imagined", "recorded"])
    def test_targets_are_one_a_row(self, part, change):
        assert_refused(lambda: self.critic(change=(part, change)))

    @pytest.mark.parametrize("change", [first_alone, first_behind])
    def test_states_are_those_of_the_batch(self, change):
        posterior = jax.tree.map(change, fake_moto.posterior())
        assert_refused(lambda: self.critic(posterior=posterior))


class TestDreamer:
    def actor(self, networks=fake_dreamer.DRAWING):
        return fake_dreamer.actor_loss(fake_dreamer.drawing_params(), networks)

    def critic(self, change, networks=fake_dreamer.NETWORKS):
        shapes = jax.eval_shape(self.actor)
        _, (dream, returns, _) = jax.tree.map(
            lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes
        )
        return dreamer_v2.critic_loss(
            networks,
            fake_dreamer.SECTION,
            fake_dreamer.value_params(),
            dream=dream,
            target=change(returns),
        )

    @pytest.mark.parametrize("change", [one_more, first_alone, first_behind])
    def test_values_and_rewards_are_one_a_row(self, change):
        networks = fake_dreamer.DRAWING
        value = reshaped(networks.value, change)
        assert_refused(lambda: self.actor(networks._replace(value=value)))
        model = MODEL._replace(reward=reshaped(MODEL.reward, change))
        assert_refused(lambda: self.actor(networks._replace(model=model)))

    @pytest.mark.parametrize("change", [one_more, first_behind, lambda x: x[..., :1]])
    def test_entropies_are_one_a_row(self, change):
        right = fake_dreamer.DRAWING.policy

        def policy(params):
            return with_changed("entropy", right(params), change)

        networks = fake_dreamer.DRAWING._replace(policy=policy)
        assert_refused(lambda: self.actor(networks))

    @pytest.mark.parametrize(
        "change",
        [one_more, first_alone, first_behind, lambda x: x[..., :1], lambda x: x[0]],
    )
    def test_targets_are_one_a_row(self, change):
        jax.eval_shape(lambda: self.critic(lambda target: target))
        assert_refused(lambda: self.critic(change))
        value = reshaped(fake_dreamer.NETWORKS.value, change)
        networks = fake_dreamer.NETWORKS._replace(value=value)
        assert_refused(lambda: self.critic(lambda target: target, networks))


# The source.

ROOT = Path(moto_jax.__file__).parent


def sources(*rooms: str) -> dict[Path, str]:
    paths = (path for room in rooms for path in sorted((ROOT / room).rglob("*.py")))
    return {path: path.read_text() for path in paths}


def calls_in(text: str) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]


def test_there_are_ten_assertions_in_a_thousand_lines():
    texts = sources("learning", "agents").values()
    lines = sum(len(text.splitlines()) for text in texts)
    names = [ast.unparse(call.func) for text in texts for call in calls_in(text)]
    count = sum(name.startswith("chex.assert_") for name in names)
    assert lines > 1_000 and count >= lines / 100


def test_no_call_of_an_agent_has_more_than_five_positional_arguments():
    long = [
        f"{path.name}:{call.lineno}"
        for path, text in sources("agents").items()
        for call in calls_in(text)
        if len(call.args) > 5
    ]
    assert not long
