"""Actions and latents: densities, samples, their gradients, at the ends included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from moto_jax.learning import distributions
from moto_jax.learning.distributions import TruncatedNormal
from moto_jax.learning.networks.heads import Actor
from tests import reference

MEANS = [-1.0, -0.999, -0.4, 0.0, 0.7, 1.0]
STDS = [0.1, 0.5, 2.1]
GRID = [(mean, std) for mean in MEANS for std in STDS]


def scipy_normal(mean: float, std: float):
    return stats.truncnorm((-1 - mean) / std, (1 - mean) / std, mean, std)


def one_dimensional(mean, std, dtype=jnp.float32) -> TruncatedNormal:
    return TruncatedNormal(jnp.array([mean], dtype), jnp.array([std], dtype))


@jax.jit
def log_prob_and_gradient(mean, std, action):
    """log p of one-dimensional actions [n] and its gradients in mean, std, action."""

    def log_prob(mean, std, action):
        return TruncatedNormal(mean[None], std[None]).log_prob(action[None])

    return jax.vmap(jax.value_and_grad(log_prob, argnums=(0, 1, 2)), (None, None, 0))(
        mean, std, action
    )


@jax.jit
def samples_and_gradient(mean, std, keys):
    """Samples [n] of a one-dimensional action and their gradients in mean and std."""

    def sample(mean, std, key):
        return TruncatedNormal(mean[None], std[None]).sample(key)[0]

    return jax.vmap(jax.value_and_grad(sample, argnums=(0, 1)), (None, None, 0))(
        mean, std, keys
    )


class TestTruncatedNormal:
    @pytest.mark.parametrize(("mean", "std"), GRID)
    def test_log_prob_is_scipys(self, mean, std):
        actions = np.linspace(-1, 1, 21, dtype=np.float32)
        log_prob, _ = log_prob_and_gradient(mean, std, actions)
        expected = scipy_normal(mean, std).logpdf(actions)
        np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(("mean", "std"), GRID)
    def test_density_integrates_to_one(self, mean, std):
        actions = np.linspace(-1, 1, 4001, dtype=np.float32)
        log_prob, _ = log_prob_and_gradient(mean, std, actions)
        np.testing.assert_allclose(
            np.trapezoid(np.exp(np.float64(log_prob)), actions), 1.0, atol=2e-3
        )

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
    @pytest.mark.parametrize(("mean", "std"), GRID)
    def test_log_prob_and_its_gradient_are_finite_to_the_ends(self, mean, std, dtype):
        actions = jnp.array([-1.0, 0.0, 1.0], dtype)
        results = log_prob_and_gradient(mean, std, actions)
        for values in jax.tree.leaves(results):
            assert np.all(np.isfinite(np.float32(values)))

    @pytest.mark.parametrize(("mean", "std"), GRID)
    def test_gradient_of_log_prob_is_that_of_scipys(self, mean, std):
        action = 0.3
        _, gradient = log_prob_and_gradient(mean, std, np.float32([action]))
        expected = reference.numerical_gradient(
            lambda point: scipy_normal(point[0], point[1]).logpdf(point[2]),
            [mean, std, action],
        )
        np.testing.assert_allclose(np.ravel(gradient), expected, rtol=2e-3, atol=2e-3)

    def test_log_prob_sums_over_action_dimensions(self):
        mean, std = jnp.array([0.2, -0.9]), jnp.array([0.3, 0.1])
        action = jnp.array([0.1, -1.0])
        expected = sum(
            scipy_normal(*arguments[:2]).logpdf(arguments[2])
            for arguments in np.stack([mean, std, action], axis=1)
        )
        log_prob = TruncatedNormal(mean, std).log_prob(action)
        np.testing.assert_allclose(log_prob, expected, rtol=1e-4)

    @pytest.mark.parametrize(("mean", "std"), GRID)
    def test_samples_are_inside_and_their_gradient_is_finite(self, mean, std):
        keys = jax.random.split(jax.random.key(0), 5_000)
        samples, gradients = samples_and_gradient(mean, std, keys)
        assert np.max(np.abs(samples)) <= 1.0
        for gradient in gradients:
            assert np.all(np.isfinite(gradient))

    def test_samples_at_the_ends_of_the_uniform_draw_stay_finite(self, monkeypatch):
        mean, std = jnp.array(GRID).T
        for uniform in (0.0, 1e-12, 1 - 6e-8):
            monkeypatch.setattr(
                jax.random, "uniform", lambda *_, u=uniform: jnp.full(mean.shape, u)
            )
            gradients = jax.grad(
                lambda *args: jnp.sum(TruncatedNormal(*args).sample(None)), (0, 1)
            )(mean, std)
            assert np.all(np.isfinite(gradients))

    @pytest.mark.parametrize(("mean", "std"), GRID)
    def test_samples_have_the_density(self, mean, std):
        keys = jax.random.split(jax.random.key(1), 5_000)
        samples, _ = samples_and_gradient(mean, std, keys)
        # Kolmogorov-Smirnov: a 0.1 % critical value at 5,000 samples is 0.0276.
        result = stats.ks_1samp(np.float64(samples), scipy_normal(mean, std).cdf)
        assert result.statistic < 0.0276

    @pytest.mark.parametrize(("mean", "std"), GRID)
    def test_gradient_of_a_sample_is_that_of_its_quantile(self, mean, std):
        keys = jax.random.split(jax.random.key(2), 20)
        samples, gradients = samples_and_gradient(mean, std, keys)
        quantiles = scipy_normal(mean, std).cdf(np.float64(samples))
        for quantile, *gradient in zip(quantiles, *gradients, strict=True):
            expected = reference.numerical_gradient(
                lambda point, q=quantile: scipy_normal(*point).ppf(q), [mean, std]
            )
            np.testing.assert_allclose(gradient, expected, rtol=5e-3, atol=5e-3)

    @pytest.mark.parametrize(("mean", "std"), GRID)
    def test_entropy_is_the_mean_surprise_of_samples(self, mean, std):
        keys = jax.random.split(jax.random.key(3), 5_000)
        samples, _ = samples_and_gradient(mean, std, keys)
        surprise = -np.float64(log_prob_and_gradient(mean, std, samples)[0])
        error = 5 * np.std(surprise) / np.sqrt(surprise.size) + 1e-4
        entropy = one_dimensional(mean, std).entropy()
        np.testing.assert_allclose(entropy, np.mean(surprise), atol=error)
        np.testing.assert_allclose(
            entropy, scipy_normal(mean, std).entropy(), rtol=1e-3, atol=1e-3
        )

    @pytest.mark.parametrize("mean", MEANS)
    def test_mode_is_the_most_likely_action(self, mean):
        actions = np.linspace(-1, 1, 2001, dtype=np.float32)
        log_prob, _ = log_prob_and_gradient(mean, 0.3, actions)
        mode = one_dimensional(mean, 0.3).mode()
        np.testing.assert_allclose(mode, actions[np.argmax(log_prob)], atol=1e-3)

    def test_samples_differ_between_rows_and_dimensions(self):
        distribution = TruncatedNormal(jnp.zeros((3, 2)), jnp.ones((3, 2)))
        assert len(np.unique(distribution.sample(jax.random.key(0)))) == 6


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_actor_is_finite_and_float32_however_far_its_outputs_go(dtype):
    actor = Actor(action_size=2, layers=1, units=4, min_std=0.1, dtype=dtype)
    feature = jnp.array([[0.0] * 3, [1e4] * 3, [-1e4] * 3], dtype)
    params = actor.init(jax.random.key(0), feature)

    def surprise(params):
        distribution = actor.apply(params, feature)
        ends = jnp.array([[1.0, -1.0]] * 3, dtype)
        log_prob = distribution.log_prob(ends) + distribution.entropy()
        sample = distribution.sample(jax.random.key(1))
        return jnp.sum(log_prob) + jnp.sum(sample), distribution

    gradient, distribution = jax.jit(jax.grad(surprise, has_aux=True))(params)
    for leaf in jax.tree.leaves((distribution, gradient)):
        assert leaf.dtype == jnp.float32
        assert np.all(np.isfinite(leaf))
    assert np.max(np.abs(distribution.mean)) == 1.0
    assert np.min(distribution.std) >= 0.1


class TestStraightThrough:
    LOGITS = jnp.array([[[0.0, 1.0, -1.0], [5.0, 5.0, -30.0]]])

    def test_value_is_one_hot(self):
        keys = jax.random.split(jax.random.key(0), 100)
        samples = jax.vmap(distributions.sample_one_hot, (0, None))(keys, self.LOGITS)
        assert samples.shape == (100, 1, 2, 3)
        np.testing.assert_allclose(np.max(samples, axis=-1), 1.0, atol=1e-6)
        np.testing.assert_allclose(np.sum(samples, axis=-1), 1.0, atol=1e-6)
        np.testing.assert_allclose(np.min(samples, axis=-1), 0.0, atol=1e-6)

    def test_frequencies_are_the_probabilities(self):
        keys = jax.random.split(jax.random.key(1), 4_000)
        samples = jax.vmap(distributions.sample_one_hot, (0, None))(keys, self.LOGITS)
        # Four standard deviations of a frequency at 4,000 draws.
        np.testing.assert_allclose(
            np.mean(samples, axis=0), reference.softmax(self.LOGITS), atol=0.032
        )

    def test_gradient_is_that_of_the_probabilities(self):
        weights = jnp.arange(6.0).reshape(1, 2, 3)

        def weighted(logits):
            sample = distributions.sample_one_hot(jax.random.key(2), logits)
            return jnp.sum(sample * weights)

        expected = reference.numerical_gradient(
            lambda logits: np.sum(reference.softmax(logits) * np.asarray(weights)),
            self.LOGITS,
        )
        np.testing.assert_allclose(jax.grad(weighted)(self.LOGITS), expected, atol=1e-5)


class TestBalancedKL:
    POSTERIOR = jnp.array([[[[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]]], [[[0.0] * 3] * 2]])
    PRIOR = jnp.array([[[[0.0, 1.0, 1.0], [-3.0, 0.5, 2.0]]], [[[0.0] * 3] * 2]])

    def gradients(self, balance, free_nats):
        def loss(posterior, prior):
            return distributions.balanced_kl(posterior, prior, balance, free_nats)[0]

        return jax.grad(loss, argnums=(0, 1))(self.POSTERIOR, self.PRIOR)

    def test_kl_by_hand(self):
        # KL((3/4, 1/4) || (1/2, 1/2)) = 3/4 log 3/2 + 1/4 log 1/2.
        left = jnp.log(jnp.array([[3.0, 1.0]]))
        right = jnp.zeros((1, 2))
        expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
        kl = distributions.categorical_kl(left, right)
        np.testing.assert_allclose(kl, expected, rtol=1e-5)
        np.testing.assert_allclose(distributions.categorical_kl(left, left), 0.0)

    def test_value_is_the_mean_kl_whatever_the_balance(self):
        expected = reference.categorical_kl(self.POSTERIOR, self.PRIOR)
        for balance in (0.0, 0.8, 1.0):
            loss, kl = distributions.balanced_kl(
                self.POSTERIOR, self.PRIOR, balance, 0.0
            )
            np.testing.assert_allclose(kl, expected, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-5)

    def test_prior_gets_four_fifths_of_its_gradient_and_posterior_one_fifth(self):
        to_posterior, to_prior = self.gradients(0.8, 0.0)
        # By hand, for a mean over two rows: in the prior's logits q - p; in the
        # posterior's, p (log p - log q - KL of the group).
        left, right = reference.softmax(self.POSTERIOR), reference.softmax(self.PRIOR)
        ratio = np.log(left) - np.log(right)
        group_kl = np.sum(left * ratio, axis=-1, keepdims=True)
        np.testing.assert_allclose(to_prior, 0.8 * (right - left) / 2, atol=1e-6)
        np.testing.assert_allclose(
            to_posterior, 0.2 * left * (ratio - group_kl) / 2, atol=1e-6
        )

    def test_free_nats_bound_the_mean_and_stop_its_gradient(self):
        kl = reference.categorical_kl(self.POSTERIOR, self.PRIOR)
        mean = float(np.mean(kl))
        # One row has no KL at all: a bound on rows would act where the mean's does not.
        assert np.min(kl) == 0.0 and mean > 1.0
        below, _ = distributions.balanced_kl(
            self.POSTERIOR, self.PRIOR, 0.8, mean + 0.1
        )
        np.testing.assert_allclose(below, mean + 0.1, rtol=1e-6)
        for gradient in self.gradients(0.8, mean + 0.1):
            np.testing.assert_array_equal(gradient, 0.0)
        above, _ = distributions.balanced_kl(
            self.POSTERIOR, self.PRIOR, 0.8, mean - 0.1
        )
        np.testing.assert_allclose(above, mean, rtol=1e-5)
        for gradient, free in zip(
            self.gradients(0.8, mean - 0.1), self.gradients(0.8, 0.0), strict=True
        ):
            np.testing.assert_array_equal(gradient, free)
