"""What each phase of LOMPO and COMBO changes, what is stored, and LOMPO's penalty."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moto_jax.learning import actor_critic, latent_actor_critic, model_based
from moto_jax.learning.disagreement import log_density_deviation
from moto_jax.learning.learners import init_learnable
from tests import fakes, reference

LENGTH, SIZE, HORIZON, EVERY, HALF = 4, 2, 2, 3, 6
ROWS = LENGTH * SIZE
ROLLED = ROWS * (HORIZON + 1)
SCALE = 0.7
MODEL, ACTOR, CRITICS = (
    fakes.linear_world_model(),
    fakes.LinearActor(),
    fakes.LinearCritics(),
)


def tell_transitions(q_values, data_value, policy, transitions, key):
    """No regulariser; what the agent learns from is among the metrics."""
    del q_values, data_value, policy, key
    return 0.0, {"transitions": transitions}


MODEL_OPTIMIZER = optax.adam(0.1)
SECTION = latent_actor_critic.Section(
    model_share=0.5,
    horizon=HORIZON,
    rollout_every=EVERY,
    batch_size=HALF,
    critics=2,
    recorded_rows=3 * ROWS,
    imagined_rows=2 * ROLLED,
    learning_rates={},
    kl_scale=1.0,
    kl_balance=0.8,
    free_nats=0.0,
)
PARTS = latent_actor_critic.Parts(
    model=MODEL,
    fit=functools.partial(
        model_based.fit_model,
        model=MODEL,
        optimizer=MODEL_OPTIMIZER,
        scales=SECTION,
    ),
    functions=actor_critic.Functions(
        encode=lambda params, feature: feature,
        policy=lambda params, feature: ACTOR.apply({"params": params}, feature),
        q_values=lambda params, *inputs: CRITICS.apply({"params": params}, *inputs),
    ),
    optimizers=actor_critic.Optimizers(*[optax.adam(0.01)] * 3),
    constants=actor_critic.Constants(0.9, 0.1, 0.1, -1.0, True),
    section=SECTION,
    pessimism=latent_actor_critic.Pessimism(
        uncertainty=log_density_deviation,
        penalty_scale=SCALE,
        regulariser=tell_transitions,
    ),
)


def recorded_batch(first_row=0):
    """Rows of two episodes, one behind the other in the replay."""
    batch = fakes.random_batch(
        LENGTH, SIZE, action_size=fakes.ACTION_SIZE, image_size=2, seed=first_row
    )
    batch.is_first[0] = True
    batch.prev_action[0] = 0.0
    batch.is_terminal[-1, 1] = True
    return batch.replace(row=batch.row + np.int32(first_row))


def initial_learners():
    return latent_actor_critic.init_learners(
        PARTS,
        init_learnable(MODEL.init(None), MODEL_OPTIMIZER),
        ACTOR.init(None, None)["params"],
        CRITICS.init(None, None, None)["params"],
        fakes.ACTION_SIZE,
    )


@functools.partial(jax.jit, static_argnames="phase")
def step(phase, learners, batch, number=0):
    function = getattr(latent_actor_critic, f"{phase}_step")
    return function(PARTS, learners, batch, jax.random.key(0), number)


def changed(first, second):
    """The fields of learners whose parameters or rows differ."""

    def differ(name):
        pairs = zip(
            jax.tree.leaves(getattr(first, name)),
            jax.tree.leaves(getattr(second, name)),
            strict=True,
        )
        return any(bool(np.any(a != b)) for a, b in pairs)

    return {name for name in vars(first) if differ(name)}


class TestPhases:
    def test_the_model_learns_alone_first(self):
        before = initial_learners()
        after, _ = step("model", before, recorded_batch())
        assert changed(before, after) == {"model"}

    def test_then_all_but_the_model(self):
        before = initial_learners()
        after, _ = step("policy", before, recorded_batch())
        assert changed(before, after) == set(vars(before)) - {"model"}

    def test_then_everything(self):
        before = initial_learners()
        after, _ = step("joint", before, recorded_batch())
        assert changed(before, after) == set(vars(before))

    def test_the_policy_is_rolled_out_every_so_many_of_its_own_updates(self):
        learners, written = initial_learners(), []
        # The number of the update plays no part.
        for number in range(5, 5 + EVERY + 2):
            before = learners
            learners, _ = step("policy", learners, recorded_batch(), number)
            written.append(int(learners.written))
            if written[-1] == int(before.written):
                chex.assert_trees_all_equal(learners.imagined, before.imagined)
        assert written == [ROLLED] * EVERY + [2 * ROLLED] * 2
        assert learners.agent_steps == EVERY + 2


def encoded(params, batch):
    """h of every row [T, B, D] by a loop: the linear model's is deterministic."""
    params = jax.tree.map(np.float64, params)
    deter, result = np.zeros((SIZE, fakes.DETER)), []
    for t in range(LENGTH):
        keep = ~batch.is_first[t][:, None]
        deter = fakes.linear_step(params, deter * keep, batch.prev_action[t] * keep)
        result.append(deter)
    return np.stack(result)


class TestRecordedRows:
    def test_hold_what_the_model_made_of_the_batch_at_their_numbers(self):
        batch, before = recorded_batch(), initial_learners()
        rows = step("policy", before, batch)[0].recorded
        expected = encoded(before.model.params, batch)
        for t, b in np.ndindex(LENGTH, SIZE):
            slot = batch.row[t, b]
            assert rows.number[slot] == slot
            np.testing.assert_allclose(rows.deter[slot], expected[t, b], rtol=1e-4)
            np.testing.assert_array_equal(
                rows.prev_action[slot], batch.prev_action[t, b]
            )
            assert rows.reward[slot] == batch.reward[t, b]
            assert rows.is_first[slot] == batch.is_first[t, b]
            assert rows.is_terminal[slot] == batch.is_terminal[t, b]
        np.testing.assert_array_equal(rows.number[ROWS:], -1)

    def test_wait_for_a_sequence_that_holds_enough_of_what_was_before(self):
        batch = recorded_batch()
        # The second sequence begins inside an episode.
        batch.is_first[0, 1] = False
        early, _ = step("policy", initial_learners(), batch)
        assert early.recorded.number[batch.row[0, 1]] == -1
        for t, b in np.ndindex(LENGTH, SIZE):
            if (t, b) != (0, 1):
                slot = batch.row[t, b]
                assert early.recorded.number[slot] == slot
        # A later sequence has the row with more before it.
        later, _ = step("policy", early, batch.replace(row=batch.row - 1))
        assert later.recorded.number[batch.row[0, 1]] == batch.row[0, 1]

    def test_are_not_encoded_again_though_the_model_goes_on_learning(self):
        old, new = recorded_batch(), recorded_batch(first_row=ROWS)
        stored, _ = step("policy", initial_learners(), old)
        later, _ = step("joint", stored, old)
        chex.assert_trees_all_equal(later.recorded, stored.recorded)
        # Today's model would give them other states, as it does to new rows.
        today = encoded(later.model.params, old)[1:]
        assert np.all(np.abs(today - encoded(stored.model.params, old)[1:]) > 1e-3)
        latest, _ = step("policy", later, new)
        expected = np.swapaxes(encoded(later.model.params, new), 0, 1)
        np.testing.assert_allclose(
            latest.recorded.deter[ROWS : 2 * ROWS],
            expected.reshape(ROWS, -1),
            rtol=1e-4,
        )


class TestRollouts:
    def fields(self):
        """The first rollouts' rows [N, H + 1, ...], and the learners that made them."""
        learners = initial_learners()
        after, _ = step("policy", learners, recorded_batch())
        rows = jax.tree.map(
            lambda leaf: np.asarray(leaf)[:ROLLED].reshape(
                ROWS, HORIZON + 1, *leaf.shape[1:]
            ),
            after.imagined,
        )
        return learners, after, rows

    def test_begin_at_the_batchs_states_and_lie_one_behind_another(self):
        learners, after, rows = self.fields()
        starts = encoded(learners.model.params, recorded_batch())
        np.testing.assert_allclose(
            rows.deter[:, 0], starts.reshape(ROWS, -1), rtol=1e-4
        )
        order = after.recorded.stoch[recorded_batch().row.ravel()]
        np.testing.assert_array_equal(rows.stoch[:, 0], order)
        np.testing.assert_array_equal(rows.number.ravel(), np.arange(ROLLED))
        first = np.arange(HORIZON + 1) == 0
        np.testing.assert_array_equal(rows.is_first, np.tile(first, (ROWS, 1)))
        assert not np.any(rows.is_terminal)
        np.testing.assert_array_equal(after.imagined.number[ROLLED:], -1)

    def test_follow_the_policy_through_the_model_at_the_penalised_reward(self):
        learners, _, rows = self.fields()
        model = jax.tree.map(np.float64, learners.model.params)
        actor = jax.tree.map(np.float64, learners.agent.actor.params)
        stoch = np.eye(fakes.MEMBERS)[rows.stoch].reshape(ROWS, HORIZON + 1, -1)
        feature = np.concatenate([rows.deter, stoch], axis=-1)
        for t in range(HORIZON):
            action = rows.prev_action[:, t + 1]
            expected = fakes.linear_action(actor, feature[:, t])
            np.testing.assert_allclose(action, expected, rtol=1e-3, atol=1e-4)
            following = fakes.linear_step(model, rows.deter[:, t], action)
            index = rows.stoch[:, t + 1]
            # The fake's stochastic state is the member that was drawn.
            arrived = following + model["shift"][index[:, 0]]
            np.testing.assert_allclose(
                rows.deter[:, t + 1], arrived, rtol=1e-3, atol=1e-4
            )
            logits = fakes.linear_prior_logits(model, following)
            penalty = reference.log_density_deviation(logits, index)
            assert np.all(penalty > 0.0)
            reward = feature[:, t + 1] @ model["reward"] - SCALE * penalty
            np.testing.assert_allclose(
                rows.reward[:, t + 1], reward, rtol=1e-3, atol=1e-4
            )
        assert not np.any(rows.prev_action[:, 0]) and not np.any(rows.reward[:, 0])

    def test_are_one_half_of_what_the_agent_learns_from(self):
        _, after, rows = self.fields()
        _, metrics = step("policy", initial_learners(), recorded_batch())
        transitions = metrics["transitions"]
        np.testing.assert_array_equal(transitions.recorded, np.arange(2 * HALF) < HALF)
        # Recorded rewards are whole numbers, without a penalty.
        reward = np.asarray(transitions.reward)
        assert set(reward[:HALF]) <= set(np.asarray(after.recorded.reward))
        assert set(reward[HALF:]) <= set(rows.reward[:, 1:].ravel())
        np.testing.assert_allclose(
            metrics["dream/penalised_reward"], np.mean(reward[HALF:]), rtol=1e-5
        )
        assert metrics["recorded_rows"] == ROWS


class TestLogDensityDeviation:
    def arrays(self):
        generator = np.random.default_rng(0)
        logits = np.float32(generator.normal(size=(4, 5, 2, 3)))
        return logits, generator.integers(0, 3, (5, 2))

    def test_is_the_deviation_of_a_loop(self):
        logits, index = self.arrays()
        np.testing.assert_allclose(
            log_density_deviation(logits, jax.nn.one_hot(index, 3)),
            reference.log_density_deviation(logits, index),
            rtol=1e-4,
        )

    @pytest.mark.parametrize("members", [1, 4])
    def test_agreeing_members_give_zero_with_a_zero_gradient(self, members):
        logits, index = self.arrays()
        same = jnp.tile(logits[:1], (members, 1, 1, 1))
        value, gradient = jax.value_and_grad(
            lambda logits: jnp.sum(
                log_density_deviation(logits, jax.nn.one_hot(index, 3))
            )
        )(same)
        assert value == 0.0
        np.testing.assert_array_equal(gradient, 0.0)

    def test_grows_with_the_disagreement_and_not_with_a_constant(self):
        logits, index = self.arrays()
        z = jax.nn.one_hot(index, 3)
        center = np.mean(logits, axis=0, keepdims=True)
        near = log_density_deviation(center + 0.1 * (logits - center), z)
        far = log_density_deviation(logits, z)
        assert np.all(near < far) and np.all(near > 0.0)
        shift = np.arange(4.0).reshape(4, 1, 1, 1)
        np.testing.assert_allclose(
            log_density_deviation(logits + np.float32(shift), z), far, rtol=1e-4
        )
