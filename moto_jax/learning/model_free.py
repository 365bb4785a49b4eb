"""What the agents without a model share: stacks of frames, their encoder and policy.

As in DrQ (Yarats et al., 2021): each observation is the stack of the newest frames,
shifted at random by a few pixels when it is learnt from; the critics' loss trains the
encoder, and every head sees it through a projection of its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from moto_jax.learning.actor_critic import Functions, Transitions
from moto_jax.learning.distributions import TruncatedNormal
from moto_jax.learning.learners import (
    Choice,
    check_seen,
    init_state,
    make_choices,
    make_update,
    named_keys,
    read_section,
)
from moto_jax.learning.networks.heads import MLP, Actor, CriticEnsemble, Projected
from moto_jax.learning.networks.pixels import KERNELS, Encoder, check_image_size
from moto_jax.types import Agent, Array, Batch, Metrics, Params, Policy

_KERNEL = 3


class Section(NamedTuple):
    """Numbers of `config.model_free`, which comments each."""

    frames: int
    batch_size: int
    shift: int
    depth: int
    projection: int
    layers: int
    units: int
    critics: int
    min_std: float
    layer_norm: bool
    learning_rates: Any
    actor_decay_steps: int

    @property
    def batch_shape(self) -> tuple[int, int]:
        """(T, B): a stack of frames and the one that follows, for each transition."""
        return self.frames + 1, self.batch_size


class Networks(NamedTuple):
    """Encoder of stacks [..., height, width, 3 * frames] and the heads on it."""

    encoder: Encoder
    actor: Projected
    critic: Projected
    value: Projected

    def encode(self, params: Params, stack: Array) -> jax.Array:
        """Returns embeddings [..., F]; `params["encoder"]` is the encoder's."""
        return self.encoder.apply({"params": params["encoder"]}, stack)  # pyright: ignore

    def policy(self, params: Params, embedding: jax.Array) -> TruncatedNormal:
        """Returns the distribution of actions [..., A]."""
        return self.actor.apply({"params": params}, embedding)  # pyright: ignore

    def q_values(
        self, params: Params, embedding: jax.Array, action: Array
    ) -> jax.Array:
        """Returns Q_i [C, ...]; `params["critic"]` are the critics'."""
        return self.critic.apply(  # pyright: ignore
            {"params": params["critic"]}, embedding, action
        )

    def state_value(self, params: Params, embedding: jax.Array) -> jax.Array:
        """Returns V [...]."""
        value: Any = self.value.apply({"params": params}, embedding)
        return value[..., 0]

    @property
    def functions(self) -> Functions:
        """What an actor-critic learns with."""
        return Functions(self.encode, self.policy, self.q_values)


def make_model_free(
    config: Any,
    *,
    action_size: int,
    image_size: int,
    init_learners: Callable[[dict[str, Params]], Any],
    step: Callable[[Networks, Any, Transitions, jax.Array], tuple[Any, Metrics]],
    acting_params: Callable[[Any], Params] | None = None,
    section: Section | None = None,
    online_share: float | None = None,
) -> Agent:
    """Builds an agent that does the same update in both phases.

    Args:
      config: the run's ConfigDict; section `model_free`.
      action_size: A.
      image_size: pixels.
      init_learners: fresh parameters of "encoder", "actor", "critic" and "value" ->
        what learns.
      step: (networks, learners, transitions, key) -> (learners, metrics).
      acting_params: what learns -> parameters of "encoder" and "actor"; the critic's
        encoder and the actor where not given.
      section: what takes the place of `config.model_free`.
      online_share: see `types.Agent`.

    Raises:
      ValueError: for an image size that the networks cannot take.
    """
    check_image_size(image_size)
    section = section or read_section(config, "model_free", Section)
    dtype = jnp.dtype(config.compute_dtype)
    networks = make_networks(section, action_size, image_size, dtype)
    acting_params = acting_params or _critics_encoder_and_actor

    def init(key: jax.Array) -> Any:
        key, params_key = jax.random.split(key)
        params = init_params(params_key, networks, section, action_size, image_size)
        return init_state(key, init_learners(params), acting_params)

    def learn(learners: Any, batch: Batch, key: jax.Array, number: jax.Array):
        chex.assert_axis_dimension(batch.reward, 0, section.frames + 1)
        keys = named_keys(key, number, "transitions", "learners")
        transitions = to_transitions(batch, keys["transitions"], section.shift)
        return step(networks, learners, transitions, keys["learners"])

    update = make_update(learn, acting_params, config.acting_average)
    return Agent(
        init=init,
        updates={"offline": update, "online": update},
        policies=make_policies(
            networks,
            section.frames,
            image_size,
            config.training.collect_noise_std,
        ),
        acting_params=lambda state: state.acting,
        batch_shape=section.batch_shape,
        online_share=online_share,
    )


def _critics_encoder_and_actor(learners: Any) -> Params:
    encoder = learners.critic.params["encoder"]
    return {"encoder": encoder, "actor": learners.actor.params}


def make_networks(
    section: Section, action_size: int, image_size: int, dtype: Any
) -> Networks:
    """Returns the networks of `config.model_free`."""
    sizes: dict[str, Any] = {
        "layers": section.layers,
        "units": section.units,
        "layer_norm": section.layer_norm,
        "dtype": dtype,
    }

    def projected(head: Any) -> Projected:
        return Projected(section.projection, head, dtype)

    # As many layers as DreamerV2's encoder has.
    kernels = (_KERNEL,) * len(KERNELS[image_size].encoder)
    return Networks(
        encoder=Encoder(section.depth, kernels, dtype),
        actor=projected(Actor(action_size, min_std=section.min_std, **sizes)),
        critic=projected(CriticEnsemble(section.critics, **sizes)),
        value=projected(MLP(out=1, **sizes)),
    )


def init_params(
    key: jax.Array, networks: Networks, section: Section, action_size: int, size: int
) -> dict[str, Params]:
    """Returns fresh parameters of "encoder", "actor", "critic" and "value".

    Args:
      key: one key.
      networks: from `make_networks`.
      section: of the configuration.
      action_size: A.
      size: of the square images, pixels.
    """
    keys = jax.random.split(key, 4)
    stack = jnp.zeros((1, size, size, 3 * section.frames), jnp.uint8)
    embedding, encoder = networks.encoder.init_with_output(keys[0], stack)
    action = jnp.zeros((1, action_size))
    return {
        "encoder": encoder["params"],
        "actor": networks.actor.init(keys[1], embedding)["params"],
        "critic": networks.critic.init(keys[2], embedding, action)["params"],
        "value": networks.value.init(keys[3], embedding)["params"],
    }


def make_optimizers(config: Any) -> dict[str, optax.GradientTransformation]:
    """Returns Adam for each of `config.model_free.learning_rates`.

    The actor's rate falls to zero by a cosine over `actor_decay_steps`, unless these
    are 0.
    """
    section = read_section(config, "model_free", Section)
    rates = dict(section.learning_rates)
    steps = section.actor_decay_steps
    if steps:
        rates["actor"] = optax.cosine_decay_schedule(rates["actor"], steps)
    return {name: optax.adam(rate) for name, rate in rates.items()}


def make_policies(
    networks: Networks, frames: int, image_size: int, noise_std: float
) -> dict[str, Policy]:
    """Returns the policies that act on the newest frames.

    They remember the stack, uint8 [n, height, width, 3 * frames], newest last; an
    episode's first frame fills it. Parameters: "encoder" and "actor". For their names
    and `noise_std` see `learners.make_choices`.
    """

    def make_policy(choose: Choice) -> Policy:
        def initial(count: int) -> jax.Array:
            shape = (count, image_size, image_size, 3 * frames)
            return jnp.zeros(shape, jnp.uint8)

        def act(params, carry, image, is_first, key):
            check_seen(image, is_first)
            chex.assert_shape(carry, (*image.shape[:-1], 3 * frames))
            moved = jnp.concatenate([carry[..., 3:], image], axis=-1)
            filled = jnp.tile(image, frames)
            stack = jnp.where(is_first[:, None, None, None], filled, moved)
            embedding = networks.encode(params, stack)
            action = choose(networks.policy(params["actor"], embedding), key)
            chex.assert_shape(action, (*is_first.shape, None))
            return action, stack

        return Policy(initial, act)

    return {
        name: make_policy(choose) for name, choose in make_choices(noise_std).items()
    }


def to_transitions(batch: Batch, key: jax.Array, shift: int) -> Transitions:
    """Returns a transition between stacks of frames from each sequence.

    A sequence holds the frames of one stack and the next one's newest. Where it begins
    an episode, the state is any of its rows but the last, frames before the first being
    the first again, as a policy sees them.

    A replay draws the first sequence of an episode `frames` times as often as others,
    so that each of its states comes up as often as the rest; but for the share of
    sequences that is drawn around cloned rows.

    Args:
      batch: sequences [frames + 1, B, ...], each of one episode.
      key: one key.
      shift: largest shift of a stack, pixels.

    Returns:
      B transitions of uint8 stacks [B, height, width, 3 * frames].
    """
    frames, size = batch.reward.shape[0] - 1, batch.reward.shape[1]
    row_key, now_key, next_key = jax.random.split(key, 3)
    anywhere = jax.random.randint(row_key, (size,), 0, frames)
    row = jnp.where(jnp.asarray(batch.is_first[0]), anywhere, frames - 1)

    def at(field: Any, row: jax.Array) -> jax.Array:
        index = row.reshape((1, -1, *(1,) * (field.ndim - 2)))
        return jnp.take_along_axis(jnp.asarray(field), index, axis=0)[0]

    def stack(row: jax.Array) -> jax.Array:
        rows = [jnp.maximum(row - age, 0) for age in reversed(range(frames))]
        return jnp.concatenate([at(batch.image, row) for row in rows], axis=-1)

    return Transitions(
        observation=random_shift(stack(row), now_key, shift),
        action=at(batch.prev_action, row + 1),
        reward=at(batch.reward, row + 1),
        continues=1.0 - at(batch.is_terminal, row + 1).astype(jnp.float32),
        following=random_shift(stack(row + 1), next_key, shift),
        recorded=jnp.ones((size,), jnp.bool_),
        is_behaviour=at(batch.is_behaviour, row),
        behaviour_action=at(batch.behaviour_action, row),
        return_to_go=at(batch.return_to_go, row),
    )


def random_shift(image: jax.Array, key: jax.Array, shift: int) -> jax.Array:
    """Returns images [N, height, width, channels], each moved by up to `shift` pixels.

    Edge pixels fill what comes in (DrQ). Dtype and shape stay.
    """
    count, height, width, channels = image.shape
    edges = ((0, 0), (shift, shift), (shift, shift), (0, 0))
    padded = jnp.pad(image, edges, mode="edge")
    offset = jax.random.randint(key, (count, 2), 0, 2 * shift + 1)

    def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
        start = (offset[0], offset[1], 0)
        return jax.lax.dynamic_slice(image, start, (height, width, channels))

    return jax.vmap(crop)(padded, offset)
