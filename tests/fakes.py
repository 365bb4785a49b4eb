"""World models, actors and critics with known answers, and random batches.

The linear model's formulas take NumPy and JAX arrays alike, so that a test can roll it
out by itself in float64 and compare.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from moto_jax.learning.distributions import sample_one_hot
from moto_jax.learning.networks.rssm import LatentState
from moto_jax.learning.networks.world_networks import Sizes
from moto_jax.learning.world_model import WorldModel, make_world_model
from moto_jax.types import Batch

ACTION_SIZE = 2
DETER = 2
GROUPS = 2
MEMBERS = 3  # K equals E: the stochastic state records which member was asked.
FEATURE = DETER + GROUPS * MEMBERS


def random_batch(
    length: int, size: int, *, action_size: int, image_size: int, seed: int = 0
) -> Batch:
    """Rows of one long episode that began before the batch; every second is cloned."""
    generator = np.random.default_rng(seed)
    rows = (length, size)
    shape = (*rows, image_size, image_size, 3)
    action = generator.uniform(-1, 1, (*rows, action_size)).astype(np.float32)
    return Batch(
        image=generator.integers(0, 256, shape).astype(np.uint8),
        prev_action=action,
        reward=generator.integers(0, 5, rows).astype(np.float32),
        is_first=np.zeros(rows, np.bool_),
        is_last=np.zeros(rows, np.bool_),
        is_terminal=np.zeros(rows, np.bool_),
        is_behaviour=np.broadcast_to(np.arange(length)[:, None] % 2 == 0, rows).copy(),
        behaviour_action=np.roll(action, -1, axis=0),
        return_to_go=generator.uniform(0, 4, rows).astype(np.float32),
        row=np.arange(length * size, dtype=np.int32).reshape(rows, order="F"),
    )


def linear_model_params(seed: int = 0, image_size: int = 2) -> dict[str, np.ndarray]:
    """Parameters of `linear_world_model`, as float32 arrays."""
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return generator.normal(size=shape).astype(np.float32)

    return {
        "keep": np.float32(0.8),
        "push": normal(ACTION_SIZE, DETER),
        "shift": 0.3 * normal(MEMBERS, DETER),
        "prior": normal(MEMBERS, DETER, GROUPS * MEMBERS),
        "look": normal(3, DETER),
        "posterior": normal(DETER, GROUPS * MEMBERS),
        "reward": normal(FEATURE),
        "decode": 0.1 * normal(FEATURE, image_size * image_size * 3),
    }


def linear_step(params, deter, action, shift=0.0):
    """h' = keep h + a push + the member's shift."""
    return params["keep"] * deter + action @ params["push"] + shift


def linear_prior_logits(params, deter):
    """Logits [E, ..., S, K], a linear map of h a member."""
    logits = [deter @ params["prior"][member] for member in range(MEMBERS)]
    stack = jnp.stack if isinstance(deter, jax.Array) else np.stack
    return stack(logits).reshape((MEMBERS, *deter.shape[:-1], GROUPS, MEMBERS))


def linear_world_model(image_size: int = 2) -> WorldModel:
    """A model that is linear in everything.

    In imagination h' carries the shift of the member that was drawn, z' is one-hot at
    its index in every group, and logits are those at the h' of member-free dynamics.
    """

    def embed(params, image):
        means = jnp.mean(image.astype(jnp.float32) / 255.0, axis=(-3, -2))
        return means @ params["look"]

    def observe(params, part, prev_action, is_first, latent, key):
        keep = 1.0 - is_first.astype(jnp.float32)[..., None]
        deter = linear_step(params, latent.deter * keep, prev_action * keep)
        logits = (deter + part) @ params["posterior"]
        logits = logits.reshape((*deter.shape[:-1], GROUPS, MEMBERS))
        return LatentState(deter, sample_one_hot(key, logits)), logits

    def imagine_step(params, latent, action, member, key):
        del key
        deter = linear_step(params, latent.deter, action)
        logits = linear_prior_logits(params, deter)
        record = jax.nn.one_hot(member, MEMBERS)[..., None, :]
        stoch = jnp.broadcast_to(record, (*member.shape, GROUPS, MEMBERS))
        shift = jnp.take(params["shift"], member, axis=0)
        return LatentState(deter + shift, stoch), logits

    def decode(params, feature):
        flat = feature @ params["decode"]
        return flat.reshape((*feature.shape[:-1], image_size, image_size, 3))

    return WorldModel(
        init=lambda key: jax.tree.map(jnp.asarray, linear_model_params(0, image_size)),
        initial=lambda leading: LatentState.zeros(leading, DETER, GROUPS, MEMBERS),
        embed=embed,
        observe=observe,
        imagine_step=imagine_step,
        prior_logits=linear_prior_logits,
        reward=lambda params, feature: feature @ params["reward"],
        decode=decode,
        members=MEMBERS,
    )


BLIND_SIZES = Sizes(
    deter=6,
    hidden=8,
    groups=2,
    classes=3,
    members=4,
    depth=1,
    reward_layers=1,
    reward_units=4,
)


def blind_world_model(dtype=jnp.float32) -> WorldModel:
    """A real, small model without the networks that see and draw.

    They take long to compile. An image is passed on as its own embedding, a decoded
    image is the feature's mean, and parameters are drawn by NumPy.
    """
    model = make_world_model(BLIND_SIZES, action_size=ACTION_SIZE, dtype=dtype)

    def init(key):
        generator = np.random.default_rng(0)
        return jax.tree.map(
            lambda leaf: jnp.asarray(generator.normal(size=leaf.shape), leaf.dtype),
            jax.eval_shape(model.init, key),
        )

    def decode(params, feature):
        mean = jnp.mean(feature, axis=-1)[..., None, None, None]
        return jnp.broadcast_to(mean, (*feature.shape[:-1], 1, 1, 8))

    def embed(params, image):
        return image[..., 0, 0, :].astype(dtype)

    return model._replace(init=init, embed=embed, decode=decode)


@struct.dataclass
class Certain:
    """An action distribution whose sample is its mean; log_prob is a unit normal's."""

    mean: jax.Array

    @property
    def std(self):
        return jnp.ones_like(self.mean)

    def mode(self):
        return self.mean

    def sample(self, key):
        del key
        return self.mean

    def log_prob(self, action):
        error = jnp.square(action - self.mean) + jnp.log(2 * jnp.pi)
        return -0.5 * jnp.sum(error, axis=-1)

    def entropy(self):
        return jnp.zeros(self.mean.shape[:-1])


def linear_action(params, feature):
    bias = params["bias"].reshape((*(1,) * (feature.ndim - 1), -1))
    return feature @ params["weight"] + bias


class LinearActor(NamedTuple):
    """Stands for a Linen actor: features to `Certain` actions, linearly."""

    def init(self, key, feature):
        del key, feature
        generator = np.random.default_rng(1)
        weight = 0.3 * generator.normal(size=(FEATURE, ACTION_SIZE))
        bias = 0.3 * generator.normal(size=ACTION_SIZE)
        return {"params": {"weight": jnp.float32(weight), "bias": jnp.float32(bias)}}

    def apply(self, variables, feature):
        return Certain(linear_action(variables["params"], feature))


def linear_q_values(params, feature, action):
    """Q_i [C, ...], a linear map of state and action a critic."""
    return [
        feature @ params["state"][critic] + action @ params["action"][critic]
        for critic in range(params["state"].shape[0])
    ]


class LinearCritics(NamedTuple):
    """Stands for a Linen critic ensemble."""

    critics: int = 2

    def init(self, key, feature, action):
        del key, feature, action
        generator = np.random.default_rng(2)
        state = generator.normal(size=(self.critics, FEATURE))
        action_weights = generator.normal(size=(self.critics, ACTION_SIZE))
        params = {"state": jnp.float32(state), "action": jnp.float32(action_weights)}
        return {"params": params}

    def apply(self, variables, feature, action):
        return jnp.stack(linear_q_values(variables["params"], feature, action))
