"""What LOMPO and COMBO share: a model first, then an actor-critic on stored latents.

Three phases. "model": the world model alone. "offline": the model is fixed; every
recorded row that is drawn is encoded once and kept, every so many updates the policy is
rolled out in the model from the batch's states, and the actor-critic learns on
transitions drawn from both, half and half. "online": the same, while the model goes on
learning. Latents that were written with an older model stay as they are: this is the
non-stationarity for which the MOTO paper says that such methods fail online, and it is
kept on purpose. The one difference from the original's single pass over the data
between the phases: rows are encoded when they are first drawn with enough before them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import struct

from moto_jax.learning import actor_critic, model_based
from moto_jax.learning.imagination import imagine
from moto_jax.learning.latent_rows import (
    LatentRows,
    empty_rows,
    have_context,
    sample_transitions,
    write_rows,
)
from moto_jax.learning.learners import (
    Learnable,
    init_learnable,
    init_state,
    make_update,
    named_keys,
    read_section,
)
from moto_jax.learning.networks.heads import CriticEnsemble
from moto_jax.learning.networks.rssm import LatentState
from moto_jax.learning.world_model import WorldModel, observe_sequence
from moto_jax.types import Agent, Batch, Metrics, Params

Uncertainty = Callable[[jax.Array, jax.Array], jax.Array]


class Section(NamedTuple):
    """Numbers of `config.latent`, which comments each."""

    model_share: float
    horizon: int
    rollout_every: int
    batch_size: int
    critics: int
    recorded_rows: int
    imagined_rows: int
    learning_rates: Any
    kl_scale: float
    kl_balance: float
    free_nats: float


@struct.dataclass
class Learners:
    """What learns, and what it learns from.

    Attributes:
      model: world model.
      agent: actor, critics, temperature, on features.
      recorded: encoded rows of the replay.
      imagined: rows of rollouts, rewards penalised when they were made.
      written: int, rows of rollouts so far.
      agent_steps: int, updates of the actor-critic.
    """

    model: Learnable
    agent: actor_critic.ActorCritic
    recorded: LatentRows
    imagined: LatentRows
    written: jax.Array
    agent_steps: jax.Array


class Pessimism(NamedTuple):
    """How an agent keeps its actor-critic from what the model does not know.

    Attributes:
      uncertainty: (logits [E, N, S, K], the state drawn [N, S, K]) -> [N].
      penalty_scale: what it weighs in the reward of rollouts.
      regulariser: added to the critics' loss.
    """

    uncertainty: Uncertainty
    penalty_scale: float
    regulariser: actor_critic.CriticRegulariser


class Parts(NamedTuple):
    """What the phases' steps are made of.

    `fit` is one gradient step of the model: (learnable, batch=, key=) -> (learnable,
    posterior [T, B], metrics).
    """

    model: WorldModel
    fit: Callable[..., tuple[Learnable, LatentState, Metrics]]
    functions: actor_critic.Functions
    optimizers: actor_critic.Optimizers
    constants: actor_critic.Constants
    section: Section
    pessimism: Pessimism


def make_latent_actor_critic(
    config: Any,
    *,
    action_size: int,
    image_size: int,
    members: int | None,
    pessimism: Pessimism,
    constants: actor_critic.Constants,
) -> Agent:
    """Builds an agent of the three phases.

    Args:
      config: the run's ConfigDict; sections `world_model`, `actor`, `critic` (sizes),
        `optimizer`, `latent`.
      action_size: A.
      image_size: pixels.
      members: E, where it is not the configuration's.
      pessimism: what sets the agent apart.
      constants: the actor-critic's.

    Raises:
      ValueError: for an image size that the networks cannot take, or what the stored
        rows have no room for.
    """
    section = read_section(config, "latent", Section)
    _check_room(config, section)
    sizes = {"action_size": action_size, "image_size": image_size}
    model = model_based.make_model(config, members=members, **sizes)
    actor, policy = model_based.make_actor(config, action_size)
    critic_sizes = dict(config.critic, critics=section.critics)
    critic = CriticEnsemble(dtype=jnp.dtype(config.compute_dtype), **critic_sizes)
    model_optimizer, *agent_optimizers = model_based.make_optimizers(
        config,
        *("model", "actor", "critic", "temperature"),
        **section.learning_rates,
    )
    parts = Parts(
        model=model,
        fit=partial(
            model_based.fit_model,
            model=model,
            optimizer=model_optimizer,
            scales=section,
        ),
        functions=_on_features(policy, critic),
        optimizers=actor_critic.Optimizers(*agent_optimizers),
        constants=constants,
        section=section,
        pessimism=pessimism,
    )

    def init(key: jax.Array) -> Any:
        key, model_key, actor_key, critic_key = jax.random.split(key, 4)
        feature, action = model.initial((1,)).feature, jnp.zeros((1, action_size))
        learners = init_learners(
            parts,
            init_learnable(model.init(model_key), model_optimizer),
            actor.init(actor_key, feature)["params"],
            critic.init(critic_key, feature, action)["params"],
            action_size,
        )
        return init_state(key, learners, _acting_params)

    steps = {"model": model_step, "offline": policy_step, "online": joint_step}
    return Agent(
        init=init,
        updates={
            phase: make_update(
                partial(step, parts), _acting_params, config.acting_average
            )
            for phase, step in steps.items()
        },
        policies=model_based.make_policies(
            model, policy, action_size, config.training.collect_noise_std
        ),
        acting_params=lambda state: state.acting,
        batch_shape=(config.replay.sequence_length, config.replay.batch_size),
        model=model,
        model_share=section.model_share,
    )


def _on_features(
    policy: model_based.FeaturePolicy, critic: CriticEnsemble
) -> actor_critic.Functions:
    """Returns the actor-critic's functions, for observations that are features."""

    def q_values(params: Params, feature: Any, action: Any) -> jax.Array:
        return critic.apply({"params": params}, feature, action)  # pyright: ignore

    return actor_critic.Functions(
        encode=lambda params, feature: jnp.asarray(feature),
        policy=lambda params, feature: policy(params)(feature),
        q_values=q_values,
    )


def init_learners(
    parts: Parts,
    model: Learnable,
    actor_params: Params,
    critic_params: Params,
    action_size: int,
) -> Learners:
    """Returns what learns, with nothing stored yet."""
    section, latent = parts.section, parts.model.initial((1,))
    return Learners(
        model=model,
        agent=actor_critic.init_actor_critic(
            actor_params,
            critic_params,
            parts.optimizers,
            parts.constants.initial_temperature,
        ),
        recorded=empty_rows(section.recorded_rows, latent, action_size),
        imagined=empty_rows(section.imagined_rows, latent, action_size),
        written=jnp.zeros((), jnp.int32),
        agent_steps=jnp.zeros((), jnp.int32),
    )


def _acting_params(learners: Learners) -> Params:
    return {"model": learners.model.params, "actor": learners.agent.actor.params}


def _check_room(config: Any, section: Section) -> None:
    classes = config.world_model.classes
    if classes > 256:
        raise ValueError(
            f"config.world_model.classes is {classes}: LOMPO and COMBO keep a class in "
            "a byte, use at most 256"
        )
    needed = (
        config.replay.sequence_length * config.replay.batch_size * (section.horizon + 1)
    )
    if section.imagined_rows < needed:
        raise ValueError(
            f"config.latent.imagined_rows is {section.imagined_rows}: the rollouts "
            f"from one batch have {needed}, use at least as many"
        )


def model_step(
    parts: Parts, learners: Learners, batch: Batch, key: Any, number: Any
) -> tuple[Learners, Metrics]:
    """The world model alone."""
    keys = named_keys(key, number, "model")
    model, _, metrics = parts.fit(learners.model, batch=batch, key=keys["model"])
    return learners.replace(model=model), metrics  # pyright: ignore


def policy_step(
    parts: Parts, learners: Learners, batch: Batch, key: Any, number: Any
) -> tuple[Learners, Metrics]:
    """The actor-critic on stored latents, the model fixed."""
    keys = named_keys(key, number, "observe", "agent")
    length, size = batch.reward.shape
    posterior, _ = observe_sequence(
        parts.model,
        learners.model.params,
        batch,
        parts.model.initial((size,)),
        jax.random.split(keys["observe"], length),
    )
    return _agent_step(parts, learners, batch, posterior, keys["agent"])


def joint_step(
    parts: Parts, learners: Learners, batch: Batch, key: Any, number: Any
) -> tuple[Learners, Metrics]:
    """Model and actor-critic; latents from before are not encoded again."""
    keys = named_keys(key, number, "model", "agent")
    model, posterior, model_metrics = parts.fit(
        learners.model, batch=batch, key=keys["model"]
    )
    learners = learners.replace(model=model)  # pyright: ignore
    learners, metrics = _agent_step(parts, learners, batch, posterior, keys["agent"])
    return learners, {**model_metrics, **metrics}


def _agent_step(
    parts: Parts,
    learners: Learners,
    batch: Batch,
    posterior: LatentState,
    key: jax.Array,
) -> tuple[Learners, Metrics]:
    """Stores the batch's latents, now and then rollouts, and learns from both."""
    chex.assert_tree_shape_prefix(posterior, batch.reward.shape)
    rollout_key, recorded_key, imagined_key, agent_key = jax.random.split(key, 4)
    recorded = write_rows(
        learners.recorded,
        *_flat((batch.row, posterior, batch.prev_action)),
        *_flat((batch.reward, batch.is_first, batch.is_terminal)),
        *_flat((have_context(batch.is_first),)),
    )
    imagined, written = jax.lax.cond(
        learners.agent_steps % parts.section.rollout_every == 0,
        lambda: _roll_out(parts, learners, posterior, rollout_key),
        lambda: (learners.imagined, learners.written),
    )
    half, classes = parts.section.batch_size, posterior.stoch.shape[-1]
    transitions = jax.tree.map(
        lambda *halves: jnp.concatenate(halves),
        sample_transitions(recorded, recorded_key, half, classes, True),
        sample_transitions(imagined, imagined_key, half, classes, False),
    )
    agent, metrics = actor_critic.actor_critic_step(
        learners.agent,
        functions=parts.functions,
        optimizers=parts.optimizers,
        constants=parts.constants,
        regulariser=parts.pessimism.regulariser,
        transitions=transitions,
        key=agent_key,
    )
    new = Learners(
        model=learners.model,
        agent=agent,
        recorded=recorded,
        imagined=imagined,
        written=written,
        agent_steps=learners.agent_steps + 1,
    )
    metrics |= {
        "dream/penalised_reward": jnp.mean(transitions.reward[half:]),
        "recorded_rows": jnp.sum(recorded.number >= 0),
    }
    return new, metrics


def _roll_out(
    parts: Parts, learners: Learners, posterior: LatentState, key: jax.Array
) -> tuple[LatentRows, jax.Array]:
    """Writes H steps of the policy from each state of a batch; [T, B] states.

    Rewards are r_theta(s') - penalty_scale * uncertainty, of today's model.
    """
    actor, model = learners.agent.actor.params, learners.model.params
    dream = imagine(
        parts.model,
        model,
        lambda feature, key: parts.functions.policy(actor, feature).sample(key),
        uncertainty=parts.pessimism.uncertainty,
        starts=posterior,
        horizon=parts.section.horizon,
        key=key,
    )
    reward = parts.model.reward(model, dream.feature[1:])
    chex.assert_equal_shape([reward, dream.uncertainty])
    reward = reward - parts.pessimism.penalty_scale * dream.uncertainty
    deter = posterior.deter.shape[-1]
    stoch = dream.feature[..., deter:]
    latent = LatentState(
        dream.feature[..., :deter],
        stoch.reshape(*stoch.shape[:-1], *posterior.stoch.shape[-2:]),
    )
    # Row 0 begins the rollout: no action led to it.
    arrive = jax.tree.map(
        lambda leaf: jnp.concatenate([jnp.zeros_like(leaf[:1]), leaf]),
        (dream.action[:-1], reward),
    )
    is_first = jnp.zeros(arrive[1].shape, jnp.bool_).at[0].set(True)
    # A rollout's rows lie behind one another, as an episode's do.
    fields = jax.tree.map(
        lambda leaf: jnp.moveaxis(
            leaf.reshape(leaf.shape[0], -1, *leaf.shape[3:]), 0, 1
        ),
        (latent, *arrive, is_first, jnp.zeros_like(is_first)),
    )
    count = is_first.size
    rows = write_rows(
        learners.imagined, learners.written + jnp.arange(count), *_flat(fields)
    )
    return rows, learners.written + count


def _flat(tree: Any) -> Any:
    """Returns the leaves [T, B, ...] as [T * B, ...]."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf).reshape(-1, *leaf.shape[2:]), tree
    )
