"""Optimisers, gradient steps and keys."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moto_jax.learning import learners
from moto_jax.learning.distributions import TruncatedNormal
from moto_jax.running import checkpoints
from tests import fakes


def optimizer(learning_rate=0.01, **overrides):
    settings = {"epsilon": 1e-8, "clip_norm": 5.0, "weight_decay": 0.0}
    return learners.make_optimizer(learning_rate, **{**settings, **overrides})


def step_sizes(transformation, steps, gradient=1.0, params=0.0):
    """What each of `steps` equal gradients moves a single parameter by."""
    params = jnp.array([params])
    state = transformation.init(params)
    update = jax.jit(transformation.update)
    sizes = []
    for _ in range(steps):
        updates, state = update(jnp.array([gradient]), state, params)
        params = optax.apply_updates(params, updates)
        sizes.append(float(updates[0]))
    return np.array(sizes)


class TestOptimizer:
    def moment(self, gradients):
        """Adam's first moment after one step: a tenth of the gradient it saw."""
        transformation = optimizer(clip_norm=5.0)
        params = jax.tree.map(jnp.zeros_like, gradients)
        _, state = transformation.update(gradients, transformation.init(params), params)
        return optax.tree_utils.tree_get(state, "mu")

    def test_clips_the_norm_over_all_parameters(self):
        # Norm 50 over both leaves: each is divided by ten.
        moment = self.moment({"a": jnp.array([30.0]), "b": jnp.array([0.0, 40.0])})
        np.testing.assert_allclose(moment["a"], [0.3], rtol=1e-5)
        np.testing.assert_allclose(moment["b"], [0.0, 0.4], rtol=1e-5)

    def test_leaves_a_smaller_gradient_alone(self):
        moment = self.moment({"a": jnp.array([3.0]), "b": jnp.array([0.0, 3.9])})
        np.testing.assert_allclose(moment["a"], [0.3], rtol=1e-5)
        np.testing.assert_allclose(moment["b"], [0.0, 0.39], rtol=1e-5)

    def test_rate_is_constant_without_a_decay(self):
        # Adam's step under a constant gradient is the learning rate.
        np.testing.assert_allclose(step_sizes(optimizer(), 12), -0.01, rtol=1e-4)

    def test_cosine_decay_reaches_its_end_and_stays(self):
        sizes = step_sizes(optimizer(decay_steps=10, final_share=0.3), 14)
        np.testing.assert_allclose(sizes[0], -0.01, rtol=1e-4)
        np.testing.assert_allclose(sizes[5], -0.0065, rtol=1e-4)
        np.testing.assert_allclose(sizes[10:], -0.003, rtol=1e-4)
        assert np.all(np.diff(sizes[:11]) > 0)

    def test_weight_decay_shrinks_by_its_share_of_the_rate(self):
        decayed = optimizer(weight_decay=0.5)
        size = step_sizes(decayed, 1, gradient=0.0, params=2.0)
        np.testing.assert_allclose(size, -0.01 * 0.5 * 2.0, rtol=1e-5)

    def test_epsilon_damps_small_gradients(self):
        # The first step of Adam: gradient / (|gradient| + epsilon).
        size = step_sizes(optimizer(epsilon=1e-5), 1, gradient=1e-5)
        np.testing.assert_allclose(size, -0.005, rtol=1e-3)


class TestMuon:
    RATE, SCALE = 0.01, 10.0

    def moved(self, gradients, steps=1, **overrides):
        """What the last of some steps with the same gradients moves parameters by."""
        transformation = optimizer(
            self.RATE, clip_norm=1e9, muon_scale=self.SCALE, **overrides
        )
        params = jax.tree.map(jnp.zeros_like, gradients)
        state = transformation.init(params)
        update = jax.jit(transformation.update)
        for _ in range(steps):
            updates, state = update(gradients, state, params)
        return updates

    def matrix(self, *shape, seed=0):
        return jnp.float32(np.random.default_rng(seed).normal(size=shape))

    def test_a_matrix_moves_as_far_in_every_direction_of_its_gradient(self):
        left, _, right = np.linalg.svd(self.matrix(6, 6))
        # A hundred times steeper in one direction than in another.
        steepness = np.array([10.0, 5.0, 2.0, 1.0, 0.5, 0.1])
        gradient = jnp.float32(left @ np.diag(steepness) @ right)
        step = self.moved({"kernel": gradient})["kernel"]
        sizes = left.T @ step @ right.T
        along = np.diag(sizes) / (self.RATE * self.SCALE)
        # Five Newton-Schulz steps bring singular values near one, not to it.
        assert np.all((along < -0.6) & (along > -1.3))
        np.testing.assert_allclose(sizes - np.diag(np.diag(sizes)), 0.0, atol=1e-4)

    def test_what_is_no_matrix_moves_as_by_adam(self):
        gradients = {
            "bias": jnp.array([3.0, -2.0]),
            # Of an ensemble: two members.
            "members": {"bias": jnp.array([[1.0, 4.0], [-1.0, 2.0]])},
            "one_output": {"kernel": jnp.array([[2.0], [-5.0]])},
        }
        # Under a constant gradient Nesterov's momentum is soon the gradient.
        moved = self.moved(gradients, steps=100)
        for leaf, gradient in zip(
            jax.tree.leaves(moved), jax.tree.leaves(gradients), strict=True
        ):
            np.testing.assert_allclose(leaf, -self.RATE * np.sign(gradient), rtol=1e-3)

    def test_each_member_of_an_ensemble_is_a_matrix_of_its_own(self):
        both = self.matrix(2, 5, 3)
        together = self.moved({"kernel": both})["kernel"]
        for gradient, step in zip(both, together, strict=True):
            alone = self.moved({"kernel": gradient})["kernel"]
            np.testing.assert_allclose(step, alone, rtol=1e-4, atol=1e-6)

    def test_all_taps_of_a_convolution_are_one_matrix(self):
        gradient = self.matrix(2, 2, 3, 4)
        step = self.moved({"kernel": gradient})["kernel"]
        flat = self.moved({"kernel": gradient.reshape((12, 4))})["kernel"]
        np.testing.assert_allclose(step.reshape((12, 4)), flat, rtol=1e-4, atol=1e-6)

    def test_learning_goes_on_from_a_checkpoint_in_donated_buffers(self, tmp_path):
        gradients = {"kernel": self.matrix(4, 3), "bias": jnp.ones(3)}
        transformation = optimizer(self.RATE, muon_scale=self.SCALE, decay_steps=8)
        # As an agent's state: made in one program, and two learnables side by side.
        make = jax.jit(lambda: [transformation.init(gradients) for _ in range(2)])

        def both(states):
            moved = [transformation.update(gradients, one, gradients) for one in states]
            return [one for one, _ in moved], [state for _, state in moved]

        update = jax.jit(both, donate_argnums=0)
        _, states = update(make())
        checkpoints.save(tmp_path, 1, states, {})
        restored, _ = checkpoints.restore(tmp_path, jax.eval_shape(make))
        expected, _ = update(states)
        found, _ = update(restored)
        jax.tree.map(np.testing.assert_array_equal, found, expected)

    def test_weights_decay_by_their_share_of_either_rate(self):
        gradients = {"kernel": jnp.zeros((3, 3)), "bias": jnp.zeros(3)}
        params = {"kernel": self.matrix(3, 3), "bias": jnp.ones(3)}
        decayed = optimizer(self.RATE, muon_scale=self.SCALE, weight_decay=0.5)
        step, _ = decayed.update(gradients, decayed.init(params), params)
        for name, rate in (("kernel", self.RATE * self.SCALE), ("bias", self.RATE)):
            np.testing.assert_allclose(
                step[name], -0.5 * rate * params[name], rtol=1e-5, atol=1e-8
            )

    def test_epsilon_damps_small_gradients_of_what_is_no_matrix(self):
        damped = self.moved({"bias": jnp.full(3, 1e-6)}, steps=100, epsilon=1e-5)
        # Adam's, at a tenth of epsilon.
        np.testing.assert_allclose(damped["bias"], -self.RATE / 11, rtol=1e-3)

    def test_both_rates_decay(self):
        gradients = {"kernel": self.matrix(4, 4), "bias": jnp.ones(3)}
        decayed = self.moved(gradients, 9, decay_steps=8, final_share=0.25)
        constant = self.moved(gradients, 9)
        for name in gradients:
            np.testing.assert_allclose(
                decayed[name], 0.25 * constant[name], rtol=1e-4, atol=1e-8
            )


def test_gradient_step_moves_its_first_argument_downhill_and_returns_aux():
    def loss(params, target):
        error = params - target
        return jnp.sum(jnp.square(error)), {"error": error}

    transformation = optax.sgd(0.25)
    learnable = learners.init_learnable(jnp.array([1.0, -2.0]), transformation)
    target = jnp.array([3.0, 0.0])
    moved, aux, norm = learners.gradient_step(loss, transformation, learnable, target)
    # Gradient 2 (params - target), rate 1/4: half of the way.
    np.testing.assert_allclose(moved.params, [2.0, -1.0])
    np.testing.assert_allclose(aux["error"], [-2.0, -2.0])
    np.testing.assert_allclose(norm, 32**0.5)
    np.testing.assert_array_equal(learnable.params, [1.0, -2.0])


def test_the_norm_is_over_all_parameters():
    tree = {"a": jnp.array([[3.0]]), "b": jnp.array([0.0, 4.0]), "c": jnp.array(12.0)}
    np.testing.assert_allclose(learners.global_norm(tree), 13.0)


def test_a_finite_loss_with_a_gradient_that_is_not_is_thrown_away():
    """As of a root at zero, which no loss shows."""
    transformation = optimizer(1.0)

    def step(learnable, batch, key, number):
        learnt, loss, norm = learners.gradient_step(
            lambda params: (jnp.sum(jnp.sqrt(params)),) * 2,
            transformation,
            learnable,
        )
        return learnt, {"loss": loss, "gradient_norm": norm}

    update = jax.jit(learners.make_update(step, lambda learners: learners.params, 0.5))
    learner = learners.init_learnable(jnp.array([0.0, 4.0]), transformation)
    state = learners.init_state(jax.random.key(0), learner, lambda one: one.params)
    batch = fakes.random_batch(2, 1, action_size=1, image_size=1)
    refused, metrics = update(state, batch)
    assert np.isfinite(metrics["loss"]) and not np.isfinite(metrics["gradient_norm"])
    assert refused.skipped == metrics["skipped_in_a_row"] == 1
    for name in ("learners", "acting"):
        old, new = getattr(state, name), getattr(refused, name)
        jax.tree.map(np.testing.assert_array_equal, old, new)


def test_named_keys_differ_between_names_and_steps_and_come_again():
    key = jax.random.key(0)
    keys = [
        learners.named_keys(key, jnp.array(step), "model", "dream") for step in range(3)
    ]
    data = [jax.random.key_data(k).tobytes() for step in keys for k in step.values()]
    assert len(set(data)) == 6
    again = learners.named_keys(key, jnp.array(1), "model", "dream")
    assert again["dream"] == keys[1]["dream"]


def test_keep_if_takes_all_or_nothing():
    new, old = {"a": jnp.ones(2), "b": jnp.ones(())}, {"a": jnp.zeros(2), "b": 0.0}
    kept = learners.keep_if(jnp.array(True), new, old)
    refused = learners.keep_if(jnp.array(False), new, old)
    assert np.all(kept["a"] == 1) and kept["b"] == 1
    assert np.all(refused["a"] == 0) and refused["b"] == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_all_finite_sees_one_bad_number(bad):
    tree = {"a": jnp.ones(3), "count": jnp.array(2)}
    assert learners.all_finite(tree)
    assert not learners.all_finite({**tree, "b": jnp.array([[0.0, bad]])})


class TestChoices:
    MEAN = jnp.array([0.0, 0.3, 1.0, -0.98])
    NOISE = 0.05

    def drawn(self, name, seed=0, count=4_000):
        policy = TruncatedNormal(self.MEAN, jnp.full(4, 0.2))
        choose = learners.make_choices(self.NOISE)[name]
        keys = jax.random.split(jax.random.key(seed), count)
        return np.asarray(jax.vmap(lambda key: choose(policy, key))(keys))

    def test_the_mean_is_the_mode_whatever_the_key(self):
        np.testing.assert_array_equal(self.drawn("mean"), np.tile(self.MEAN, (4000, 1)))

    @pytest.mark.parametrize(
        ("name", "std"), [("mean_with_noise", NOISE), ("sampled", 0.2)]
    )
    def test_noise_is_of_the_std_that_was_asked_for_and_seeded(self, name, std):
        actions = self.drawn(name)
        np.testing.assert_allclose(actions[:, :2].std(axis=0), std, rtol=0.05)
        np.testing.assert_allclose(actions[:, :2].mean(axis=0), [0, 0.3], atol=0.02)
        assert np.abs(actions).max() <= 1.0
        assert actions[:, 2].mean() < 1.0 and actions[:, 3].mean() > -0.98
        np.testing.assert_array_equal(actions, self.drawn(name))
        assert np.any(actions != self.drawn(name, seed=1))
