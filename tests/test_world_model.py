"""The RSSM ensemble: members, filtering, its loss by hand, and its disagreement."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moto_jax.learning import disagreement, world_model
from moto_jax.learning.networks.pixels import check_image_size
from moto_jax.learning.networks.rssm import RSSM, LatentState
from moto_jax.learning.networks.world_networks import Sizes
from tests import fakes, reference
from tests.test_scans import equations_of, scans_of

DETER, HIDDEN, GROUPS, CLASSES, MEMBERS = fakes.BLIND_SIZES[:5]
ACTION = fakes.ACTION_SIZE


@functools.cache
def small_model(dtype=jnp.float32):
    model = fakes.blind_world_model(dtype)
    return model, model.init(jax.random.key(0))


def random_latent(*leading: int, seed: int = 0) -> LatentState:
    deter_key, stoch_key = jax.random.split(jax.random.key(seed))
    index = jax.random.randint(stoch_key, (*leading, GROUPS), 0, CLASSES)
    return LatentState(
        jnp.tanh(jax.random.normal(deter_key, (*leading, DETER))),
        jax.nn.one_hot(index, CLASSES),
    )


def with_disagreement(params, factor):
    """The prior heads drawn `factor` times as far from their mean head."""
    heads = params["rssm"]["prior_heads"]

    def move(leaf):
        mean = jnp.mean(leaf, axis=0, keepdims=True)
        return mean + factor * (leaf - mean)

    return {
        **params,
        "rssm": {**params["rssm"], "prior_heads": jax.tree.map(move, heads)},
    }


@functools.cache
def jitted_imagine_step():
    return jax.jit(small_model()[0].imagine_step)


def imagine_once(params, action, member, latent=None):
    latent = random_latent(3) if latent is None else latent
    return jitted_imagine_step()(params, latent, action, member, jax.random.key(1))


ACTIONS = jnp.array([[0.5, -0.3], [1.0, 0.0], [-0.7, 0.2]])


class TestEnsemble:
    def test_members_begin_different(self):
        rssm = RSSM(DETER, HIDDEN, GROUPS, CLASSES, MEMBERS)
        arguments = (random_latent(3), ACTIONS, jnp.zeros((3, 5)))
        params = jax.jit(rssm.init)(jax.random.key(0), *arguments)
        _, logits = rssm.apply(params, *arguments)
        assert logits.shape == (MEMBERS, 3, GROUPS, CLASSES)
        assert len(np.unique(np.round(logits[:, 0, 0, 0], 5))) == MEMBERS

    def test_choose_member_by_hand(self):
        logits = jnp.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2)
        chosen = world_model.choose_member(logits, jnp.array([1, 0, 1]))
        expected = [logits[1, 0], logits[0, 1], logits[1, 2]]
        np.testing.assert_array_equal(chosen, jnp.stack(expected))

    def test_permuting_members_and_their_indices_changes_nothing_else(self):
        _, params = small_model()
        order = jnp.array([2, 0, 3, 1])
        heads = params["rssm"]["prior_heads"]
        permuted = {
            **params,
            "rssm": {
                **params["rssm"],
                "prior_heads": jax.tree.map(lambda leaf: leaf[order], heads),
            },
        }
        member = jnp.array([0, 3, 1])
        following, logits = imagine_once(params, ACTIONS, order[member])
        same_following, permuted_logits = imagine_once(permuted, ACTIONS, member)
        np.testing.assert_allclose(permuted_logits, logits[order], rtol=1e-5)
        chex.assert_trees_all_close(same_following, following, rtol=1e-5)
        for measure in disagreement.DISAGREEMENTS.values():
            np.testing.assert_allclose(
                measure(permuted_logits), measure(logits), rtol=1e-4
            )

    def test_permuting_rows_permutes_results(self):
        _, params = small_model()
        order = jnp.array([2, 0, 1])
        member = jnp.array([0, 3, 1])
        latent = random_latent(3)
        following, logits = imagine_once(params, ACTIONS, member, latent)
        other, other_logits = imagine_once(
            params,
            ACTIONS[order],
            member[order],
            jax.tree.map(lambda field: field[order], latent),
        )
        np.testing.assert_allclose(other.deter, following.deter[order], rtol=1e-5)
        np.testing.assert_allclose(other_logits, logits[:, order], rtol=1e-4)

    def test_gradients_pass_through_the_sampled_state(self):
        model, params = small_model()
        member = jnp.zeros(3, int)

        def following_stoch(actions):
            latent, _ = imagine_once(params, actions, member)
            later, _ = imagine_once(params, ACTIONS, member, latent)
            return jnp.sum(later.stoch[..., 0])

        gradient = jax.grad(following_stoch)(ACTIONS)
        assert np.all(np.isfinite(gradient))
        assert np.all(np.any(gradient != 0, axis=-1))


class TestDisagreement:
    def random_logits(self, members=MEMBERS):
        return 2 * jax.random.normal(jax.random.key(3), (members, 5, GROUPS, CLASSES))

    @pytest.mark.parametrize(
        ("name", "normalise"), [("log_prob_std", True), ("logit_std", False)]
    )
    def test_is_the_mean_deviation_over_members(self, name, normalise):
        logits = self.random_logits()
        expected = reference.disagreement(logits, normalise)
        measured = disagreement.DISAGREEMENTS[name](logits)
        np.testing.assert_allclose(measured, expected, rtol=1e-4)

    def test_by_hand(self):
        # Deviations of (1, 3) and (0, 0): 1 and 0, mean 1/2.
        logits = jnp.array([[[[1.0, 0.0]]], [[[3.0, 0.0]]]])
        measured = disagreement.logit_disagreement(logits)
        np.testing.assert_allclose(measured, [0.5], rtol=1e-6)

    def test_divergence_by_hand(self):
        # Two members sure of different classes in one group, alike in the other:
        # ln 2 and 0. Three members of which one is sure of another class.
        apart = jnp.array([[[[50.0, 0.0], [1.0, 3.0]]], [[[0.0, 50.0], [1.0, 3.0]]]])
        measured = disagreement.jensen_shannon(apart)
        np.testing.assert_allclose(measured, [np.log(2) / 2], rtol=1e-5)
        one_of_three = jnp.array([[[50.0, 0.0]], [[50.0, 0.0]], [[0.0, 50.0]]])
        entropy = np.log(3) - 2 / 3 * np.log(2)
        measured = disagreement.jensen_shannon(one_of_three)
        np.testing.assert_allclose(measured, entropy, rtol=1e-5)
        # Sharper members do not disagree more, as deviations would have it.
        sharper = disagreement.jensen_shannon(2 * apart)
        np.testing.assert_allclose(sharper, [np.log(2) / 2], rtol=1e-5)

    def test_only_the_papers_letter_sees_a_constant_a_group(self):
        logits = self.random_logits()
        constants = jnp.arange(float(MEMBERS)).reshape(MEMBERS, 1, 1, 1)
        shifted = logits + constants
        np.testing.assert_allclose(
            disagreement.disagreement(shifted),
            disagreement.disagreement(logits),
            rtol=1e-4,
        )
        raw = disagreement.logit_disagreement(shifted)
        assert np.all(raw != disagreement.logit_disagreement(logits))

    @pytest.mark.parametrize("name", disagreement.DISAGREEMENTS)
    @pytest.mark.parametrize("members", [1, 2, 7])
    def test_is_zero_with_a_zero_gradient_where_members_agree(self, name, members):
        logits = jnp.repeat(self.random_logits(1), members, axis=0)

        def total(logits):
            return jnp.sum(disagreement.DISAGREEMENTS[name](logits))

        value, gradient = jax.value_and_grad(total)(logits)
        np.testing.assert_allclose(value, 0.0, atol=1e-5)
        np.testing.assert_allclose(gradient, 0.0, atol=1e-5)

    @pytest.mark.parametrize("name", disagreement.DISAGREEMENTS)
    def test_falls_to_zero_as_members_come_to_agree(self, name):
        _, params = small_model()

        @jax.jit
        def measured(factor):
            closer = with_disagreement(params, factor)
            _, logits = imagine_once(closer, ACTIONS, jnp.zeros(3, int))
            return disagreement.DISAGREEMENTS[name](logits)

        values = np.stack([measured(factor) for factor in (1.0, 0.5, 0.1, 0.0)])
        assert np.all(np.diff(values, axis=0) < 0)
        np.testing.assert_allclose(values[-1], 0.0, atol=1e-5)

    @pytest.mark.parametrize("name", disagreement.DISAGREEMENTS)
    def test_is_differentiable_in_the_action(self, name):
        _, params = small_model()

        @jax.jit
        def measured(action):
            _, logits = imagine_once(params, action, jnp.zeros(3, int))
            return jnp.sum(disagreement.DISAGREEMENTS[name](logits))

        gradient = jax.jit(jax.grad(measured))(ACTIONS)
        # float32 arithmetic: a wide step and a loose tolerance.
        expected = reference.numerical_gradient(
            lambda action: float(measured(jnp.float32(action))), ACTIONS, step=1e-2
        )
        assert np.all(gradient != 0)
        np.testing.assert_allclose(gradient, expected, rtol=0.05, atol=2e-3)


@functools.cache
def filter_rows():
    """The jitted filter of the small model, whose images are embeddings."""
    model, params = small_model()
    return jax.jit(
        lambda batch, latent, keys: world_model.observe_sequence(
            model, params, batch, latent, keys
        )
    )


class TestFiltering:
    LENGTH, SIZE = 6, 2

    def batch(self, seed=0):
        batch = fakes.random_batch(
            self.LENGTH, self.SIZE, action_size=ACTION, image_size=1, seed=seed
        )
        shape = (self.LENGTH, self.SIZE, 1, 1, HIDDEN)
        image = np.random.default_rng(seed).normal(size=shape)
        return batch.replace(image=np.float32(image))

    def keys(self):
        return jax.random.split(jax.random.key(5), self.LENGTH)

    @pytest.mark.parametrize("cut", [2, 5])
    def test_two_parts_with_the_carry_passed_equal_the_whole(self, cut):
        batch, keys, start = self.batch(), self.keys(), random_latent(self.SIZE)
        whole = filter_rows()(batch, start, keys)
        first = filter_rows()(
            jax.tree.map(lambda field: field[:cut], batch), start, keys[:cut]
        )
        carry = jax.tree.map(lambda field: field[-1], first[0])
        second = filter_rows()(
            jax.tree.map(lambda field: field[cut:], batch), carry, keys[cut:]
        )
        joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)
        chex.assert_trees_all_close(joined, whole, rtol=1e-5, atol=1e-5)

    def test_is_first_erases_the_past(self):
        is_first = np.zeros((self.LENGTH, self.SIZE), np.bool_)
        is_first[3, 0] = True
        batch = self.batch().replace(is_first=is_first)
        # Another past, and another action into the episode's first row.
        other = jax.tree.map(np.copy, self.batch(seed=1)).replace(is_first=is_first)
        other.image[3:] = batch.image[3:]
        other.prev_action[4:] = batch.prev_action[4:]
        posterior, logits = filter_rows()(batch, random_latent(2), self.keys())
        other_posterior, other_logits = filter_rows()(
            other, random_latent(2, seed=1), self.keys()
        )
        chex.assert_trees_all_equal(
            posterior.deter[3:, 0], other_posterior.deter[3:, 0]
        )
        chex.assert_trees_all_equal(logits[3:, 0], other_logits[3:, 0])
        # The other sequence goes on, and remembers.
        assert np.all(posterior.deter[3:, 1] != other_posterior.deter[3:, 1])

    def test_is_first_begins_at_zero_state_and_zero_action(self):
        batch = self.batch()
        first_row = np.zeros((self.LENGTH, self.SIZE), np.bool_)
        first_row[0] = True
        zero_action = batch.prev_action.copy()
        zero_action[0] = 0.0
        marked = filter_rows()(
            batch.replace(is_first=first_row), random_latent(2), self.keys()
        )
        model, _ = small_model()
        explicit = filter_rows()(
            batch.replace(prev_action=zero_action), model.initial((2,)), self.keys()
        )
        chex.assert_trees_all_close(marked, explicit, rtol=1e-6)

    def test_every_row_depends_on_all_before_and_none_after(self):
        batch = self.batch()
        start, keys = random_latent(self.SIZE), self.keys()
        _, logits = filter_rows()(batch, start, keys)
        changed = jax.tree.map(np.copy, batch)
        changed.prev_action[3] += 0.5
        _, other = filter_rows()(changed, start, keys)
        np.testing.assert_array_equal(logits[:3], other[:3])
        assert np.all(np.any(logits[3:] != other[3:], axis=(1, 2, 3)))


@jax.jit
def fake_loss(params, batch, kl_scale=1.0, kl_balance=0.8, free_nats=1.0):
    return world_model.world_model_loss(
        params,
        fakes.linear_world_model(),
        batch,
        jax.random.key(0),
        kl_scale=kl_scale,
        kl_balance=kl_balance,
        free_nats=free_nats,
    )


def decided_params():
    """Reward and image depend on h alone, and all members agree: nothing is drawn."""
    params = fakes.linear_model_params()
    params["reward"][fakes.DETER :] = 0.0
    params["decode"][fakes.DETER :] = 0.0
    params["prior"][:] = params["prior"][:1]
    return params


class TestLoss:
    def batch(self, length=4, size=3):
        return fakes.random_batch(
            length, size, action_size=fakes.ACTION_SIZE, image_size=2
        )

    def by_hand(self, params, batch):
        """Mean image and reward likelihoods and KL of `decided_params`, row by row."""
        image_loss, reward_loss, kl = [], [], []
        deter = np.zeros((batch.reward.shape[1], fakes.DETER))
        for j in range(batch.reward.shape[0]):
            keep = 1.0 - batch.is_first[j][:, None]
            action = batch.prev_action[j] * keep
            deter = fakes.linear_step(params, deter * keep, action)
            image = batch.image[j] / 255.0
            part = np.mean(image, axis=(1, 2)) @ params["look"]
            posterior = (deter + part) @ params["posterior"]
            posterior = posterior.reshape(-1, fakes.GROUPS, fakes.MEMBERS)
            prior = fakes.linear_prior_logits(params, deter)[0]
            kl.append(reference.categorical_kl(posterior, prior))
            reward = deter @ params["reward"][: fakes.DETER]
            reward_loss.append(0.5 * (reward - batch.reward[j]) ** 2)
            predicted = (deter @ params["decode"][: fakes.DETER]).reshape(image.shape)
            error = (predicted - (image - 0.5)) ** 2
            image_loss.append(0.5 * np.sum(error, axis=(1, 2, 3)))
        return np.mean(image_loss), np.mean(reward_loss), np.mean(kl)

    def test_is_the_sum_of_the_likelihoods_and_the_kl(self):
        params, batch = decided_params(), self.batch()
        batch.is_first[2, 1] = True
        image_loss, reward_loss, kl = self.by_hand(params, batch)
        loss, (posterior, metrics) = fake_loss(
            params, batch, kl_scale=0.7, free_nats=0.0
        )
        np.testing.assert_allclose(metrics["model/image_loss"], image_loss, rtol=1e-4)
        np.testing.assert_allclose(metrics["model/reward_loss"], reward_loss, rtol=1e-4)
        np.testing.assert_allclose(metrics["model/kl"], kl, rtol=1e-4)
        np.testing.assert_allclose(loss, image_loss + reward_loss + 0.7 * kl, rtol=1e-4)
        assert posterior.feature.shape == (4, 3, fakes.FEATURE)

    def test_the_member_of_each_row_is_drawn_anew_and_uniformly(self):
        params, batch = decided_params(), self.batch(40, 25)
        # Members 0 and 1 know the posterior's h-part; only member 2 has a KL worth
        # the name, so its share of rows is the metric's share of the full KL.
        params["look"][:] = 0.0
        params["prior"][:] = params["posterior"][None]
        none = fake_loss(params, batch)[1][1]["model/kl"]
        np.testing.assert_allclose(none, 0.0, atol=1e-5)
        params["prior"][2] = 0.0
        one = float(fake_loss(params, batch)[1][1]["model/kl"])
        params["prior"][:] = 0.0
        full = float(fake_loss(params, batch)[1][1]["model/kl"])
        # 1,000 draws at 1/3, weighted by unequal KLs: 5 standard deviations are 0.1.
        assert abs(one / full - 1 / 3) < 0.1
        assert one != full

    def test_every_member_learns_and_by_the_balance(self):
        @jax.jit
        @jax.grad
        def gradient(params, balance):
            options = {"kl_balance": balance, "free_nats": 0.0}
            return fake_loss(params, self.batch(10, 10), **options)[0]

        params = fakes.linear_model_params()
        full = gradient(params, 1.0)["prior"]
        assert np.all(np.any(full != 0, axis=(1, 2)))
        for balance in (0.0, 0.8):
            share = gradient(params, balance)["prior"]
            np.testing.assert_allclose(share, balance * full, rtol=1e-4, atol=1e-6)

    def test_everything_in_the_model_learns(self):
        params = fakes.linear_model_params()
        gradient = jax.grad(lambda p: fake_loss(p, self.batch(10, 10))[0])(params)
        # The member's shift belongs to the fake's imagination.
        silent = {name for name, leaf in gradient.items() if not np.any(leaf)}
        assert silent == {"shift"}
        chex.assert_tree_all_finite(gradient)


def test_bfloat16_keeps_parameters_states_and_logits_in_float32():
    model, params = small_model(jnp.bfloat16)
    arguments = (random_latent(3), ACTIONS, jnp.zeros(3, int), jax.random.key(0))
    following, logits = jax.eval_shape(model.imagine_step, params, *arguments)
    for leaf in jax.tree.leaves((params, following, logits)):
        assert leaf.dtype == jnp.float32
    chex.assert_trees_all_equal_shapes_and_dtypes(params, small_model()[1])


def test_image_sizes_that_the_networks_cannot_take_are_named_with_the_mend():
    check_image_size(64)
    with pytest.raises(
        ValueError, match="image size 84 .* set config.env.image_size to one of 16"
    ):
        world_model.make_world_model(Sizes(), action_size=ACTION, image_size=84)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_kernels_that_are_cast_once_compute_what_those_of_every_step_do(dtype):
    model, params = small_model(dtype)
    latent, rows = model.initial((3,)), jnp.ones((3, HIDDEN), dtype)
    first, action = jnp.zeros(3, bool), jnp.ones((3, ACTION))

    @jax.jit
    def stepped(params):
        _, logits = model.observe(
            params, rows, action, first, latent, jax.random.key(1)
        )
        member = jnp.zeros(3, jnp.int32)
        return logits, model.imagine_step(
            params, latent, action, member, jax.random.key(2)
        )

    cast = model.cast(params)
    jax.tree.map(np.testing.assert_array_equal, stepped(cast), stepped(params))
    cell = cast["rssm"]["cell"]
    assert cell["Dense_0"]["kernel"].dtype == dtype
    assert cell["LayerNorm_0"]["scale"].dtype == jnp.float32


def test_no_step_of_a_loop_casts_a_kernel():
    model, params = small_model(jnp.bfloat16)
    batch = fakes.random_batch(4, 2, action_size=ACTION, image_size=8)
    batch = batch.replace(image=np.zeros((4, 2, 1, 1, HIDDEN), np.uint8))

    def total(params):
        latent, keys = model.initial((2,)), jax.random.split(jax.random.key(0), 4)
        states, logits = world_model.observe_sequence(
            model, params, batch, latent, keys
        )
        return jnp.sum(states.feature) + jnp.sum(logits)

    program = jax.make_jaxpr(jax.grad(total))(params).jaxpr
    kernel = params["rssm"]["cell"]["Dense_0"]["kernel"].shape
    cast = [
        equation.invars[0].aval.shape
        for loop in scans_of(program)
        for equation in equations_of(loop.params["jaxpr"].jaxpr)
        if equation.primitive.name == "convert_element_type"
    ]
    assert cast and kernel not in cast


@pytest.mark.parametrize(("layers", "linear"), [(0, True), (2, False)])
def test_a_reward_without_hidden_layers_adds_up(layers, linear):
    model = world_model.make_world_model(
        fakes.BLIND_SIZES._replace(reward_layers=layers, reward_units=8),
        action_size=ACTION,
    )
    generator = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: generator.normal(size=leaf.shape).astype(np.float32),
        jax.eval_shape(model.init, jax.random.key(0)),
    )
    nothing = jnp.zeros(DETER + GROUPS * CLASSES)
    one, other = jax.random.normal(jax.random.key(1), (2, *nothing.shape))
    rewards = jax.jit(model.reward)(
        params, jnp.stack([one + other, nothing, one, other])
    )
    sums = rewards[0] + rewards[1], rewards[2] + rewards[3]
    assert (abs(sums[0] - sums[1]) < 1e-4) == linear
