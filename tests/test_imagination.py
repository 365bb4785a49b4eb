"""Rollouts in the model: alignment, members, gradients, and open-loop pictures."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moto_jax.learning.disagreement import logit_disagreement
from moto_jax.learning.imagination import imagine, open_loop
from moto_jax.learning.networks.rssm import LatentState
from moto_jax.learning.networks.world_networks import Sizes
from moto_jax.learning.world_model import make_world_model
from tests import fakes, reference

HORIZON, STARTS = 4, 3


def ignoring_the_draw(logits, following):
    del following
    return logit_disagreement(logits)


def starts(count: int = STARTS) -> LatentState:
    generator = np.random.default_rng(4)
    return LatentState(
        jnp.float32(generator.normal(size=(count, fakes.DETER))),
        jnp.zeros((count, fakes.GROUPS, fakes.MEMBERS)),
    )


@functools.partial(jax.jit, static_argnames="horizon")
def dream_with(actor_params, model_params, starts, key, horizon=HORIZON):
    """A rollout of the linear actor in the linear model."""
    actor = fakes.LinearActor()
    return imagine(
        fakes.linear_world_model(),
        model_params,
        lambda feature, key: actor.apply({"params": actor_params}, feature).sample(key),
        ignoring_the_draw,
        starts,
        horizon,
        key,
    )


def actor_params():
    return fakes.LinearActor().init(None, None)["params"]


def members_of(dream):
    """The member drawn for each transition, as the fake's z recorded it: [H, N]."""
    record = dream.feature[1:, :, fakes.DETER : fakes.DETER + fakes.MEMBERS]
    return np.argmax(record, axis=-1)


class TestImagine:
    def test_rollout_by_hand(self):
        model_params = fakes.linear_model_params()
        dream = dream_with(actor_params(), model_params, starts(), jax.random.key(0))
        assert dream.feature.shape == (HORIZON + 1, STARTS, fakes.FEATURE)
        assert dream.action.shape == (HORIZON + 1, STARTS, fakes.ACTION_SIZE)
        assert dream.uncertainty.shape == (HORIZON, STARTS)
        np.testing.assert_array_equal(dream.feature[0], starts().feature)
        members = members_of(dream)
        deter = np.float64(starts().deter)
        for t in range(HORIZON + 1):
            np.testing.assert_allclose(
                dream.feature[t, :, : fakes.DETER], deter, rtol=1e-4, atol=1e-4
            )
            action = fakes.linear_action(actor_params(), np.asarray(dream.feature[t]))
            np.testing.assert_allclose(dream.action[t], action, rtol=1e-4, atol=1e-4)
            if t == HORIZON:
                break
            following = fakes.linear_step(model_params, deter, np.asarray(action))
            logits = fakes.linear_prior_logits(model_params, following)
            np.testing.assert_allclose(
                dream.uncertainty[t],
                reference.disagreement(logits, normalise=False),
                rtol=1e-3,
            )
            deter = following + model_params["shift"][members[t]]

    def test_members_are_drawn_anew_for_every_row_and_step(self):
        dream = dream_with(
            actor_params(),
            fakes.linear_model_params(),
            starts(400),
            jax.random.key(1),
        )
        members = members_of(dream)
        for t in range(HORIZON):
            # Five standard deviations of a frequency of 1/3 at 400 draws.
            shares = np.bincount(members[t], minlength=fakes.MEMBERS) / 400
            np.testing.assert_allclose(shares, 1 / 3, atol=0.12)
        agree = np.mean(members[1:] == members[:-1])
        assert abs(agree - 1 / 3) < 0.1

    def test_every_step_has_its_own_key(self):
        def noise(feature, key):
            return jax.random.normal(key, (STARTS, fakes.ACTION_SIZE))

        dream = imagine(
            fakes.linear_world_model(),
            fakes.linear_model_params(),
            noise,
            ignoring_the_draw,
            starts(),
            HORIZON,
            jax.random.key(2),
        )
        assert len(np.unique(dream.action)) == dream.action.size

    def test_one_step_horizon(self):
        dream = dream_with(
            actor_params(),
            fakes.linear_model_params(),
            starts(),
            jax.random.key(0),
            horizon=1,
        )
        assert dream.feature.shape[0] == dream.action.shape[0] == 2

    def test_rematerialising_takes_less_memory_for_the_same_gradient(self):
        model = make_world_model(
            Sizes(deter=16, hidden=16, groups=4, classes=8, members=3, depth=1),
            action_size=2,
        )
        model_params = jax.jit(model.init)(jax.random.key(0))
        latent = model.initial((50,))

        def total(weight, rematerialise):
            dream = imagine(
                model,
                model_params,
                lambda feature, key: jnp.tanh(feature @ weight),
                ignoring_the_draw,
                latent,
                12,
                jax.random.key(1),
                rematerialise=rematerialise,
            )
            return jnp.sum(dream.feature**2) + jnp.sum(dream.uncertainty)

        weight = jnp.full((latent.feature.shape[-1], 2), 0.1)
        programs = [
            jax.jit(jax.grad(total), static_argnums=1).lower(weight, choice).compile()
            for choice in (False, True)
        ]
        kept, again = (
            program.memory_analysis().temp_size_in_bytes for program in programs
        )
        assert again < 0.7 * kept
        gradients = [np.asarray(program(weight)) for program in programs]
        np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-6)
        assert np.abs(gradients[0]).max() > 1e-3

    def test_gradient_reaches_the_actor_only_through_its_actions(self):
        """Against differences of a NumPy rollout whose policy inputs stay fixed."""
        model_params = jax.tree.map(np.float64, fakes.linear_model_params())
        key = jax.random.key(3)

        def summary(feature, uncertainty):
            return (feature[1:] ** 2).sum() + (uncertainty**2).sum()

        @jax.jit
        @jax.grad
        def gradient(params):
            dream = dream_with(params, fakes.linear_model_params(), starts(), key)
            return summary(dream.feature[..., : fakes.DETER], dream.uncertainty)

        dream = dream_with(actor_params(), model_params, starts(), key)
        seen, members = np.float64(dream.feature), members_of(dream)

        def rolled_out(params):
            deter = [np.float64(starts().deter)]
            uncertainty = []
            for t in range(HORIZON):
                action = fakes.linear_action(params, seen[t])
                following = fakes.linear_step(model_params, deter[-1], action)
                logits = fakes.linear_prior_logits(model_params, following)
                uncertainty.append(reference.disagreement(logits, normalise=False))
                deter.append(following + model_params["shift"][members[t]])
            return summary(np.stack(deter), np.stack(uncertainty))

        measured = gradient(actor_params())
        exact = jax.tree.map(np.float64, actor_params())
        for name in ("weight", "bias"):
            expected = reference.numerical_gradient(
                lambda leaf, name=name: rolled_out({**exact, name: leaf}), exact[name]
            )
            np.testing.assert_allclose(measured[name], expected, rtol=1e-3, atol=1e-3)


class TestOpenLoop:
    LENGTH, SIZE, CONTEXT = 5, 2, 2

    def batch(self):
        batch = fakes.random_batch(
            self.LENGTH, self.SIZE, action_size=fakes.ACTION_SIZE, image_size=2
        )
        # Small movements, so that predicted grey levels stay inside 0..255.
        return batch.replace(prev_action=0.3 * batch.prev_action)

    def params(self):
        """Grey levels that follow h, with members that all move alike."""
        params = fakes.linear_model_params()
        params["decode"][fakes.DETER :] = 0.0
        params["shift"][:] = 0.0
        return params

    @functools.cached_property
    def predict(self):
        return jax.jit(
            lambda batch: open_loop(
                fakes.linear_world_model(),
                self.params(),
                batch,
                self.CONTEXT,
                jax.random.key(0),
            )
        )

    def test_images_follow_the_recorded_actions_row_by_row(self):
        params, batch = self.params(), self.batch()
        images = self.predict(batch)
        assert images.dtype == np.uint8
        assert images.shape == batch.image.shape
        deter = np.zeros((self.SIZE, fakes.DETER))
        for j in range(self.LENGTH):
            deter = fakes.linear_step(params, deter, batch.prev_action[j])
            mean = deter @ params["decode"][: fakes.DETER]
            expected = np.clip((mean + 0.5) * 255.0, 0, 255).reshape(images[j].shape)
            # Whole grey levels.
            np.testing.assert_allclose(images[j], expected, atol=1.001)

    def test_images_after_the_context_are_not_looked_at(self):
        batch = self.batch()
        blind = batch.replace(image=batch.image.copy())
        blind.image[self.CONTEXT :] = 0
        np.testing.assert_array_equal(self.predict(batch), self.predict(blind))


@pytest.mark.parametrize("members_differ", [False, True])
def test_penalty_falls_with_agreement_along_a_rollout(members_differ):
    params = fakes.linear_model_params()
    if not members_differ:
        params["prior"][:] = params["prior"][:1]
    dream = dream_with(actor_params(), params, starts(), jax.random.key(0))
    if members_differ:
        assert np.all(dream.uncertainty > 0.01)
    else:
        np.testing.assert_allclose(dream.uncertainty, 0.0, atol=1e-5)
