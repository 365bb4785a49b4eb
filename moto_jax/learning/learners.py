"""What every agent's update is made of: learnables, gradient steps, named keys."""

# What jax, flax, chex and optax leave open in their own types is theirs.
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from moto_jax.learning.distributions import TruncatedNormal
from moto_jax.learning.muon import muon
from moto_jax.types import Batch, Metrics, Params

Fields = TypeVar("Fields", bound=NamedTuple)

Update = Callable[[Any, Batch], tuple[Any, Metrics]]

# (distribution of actions [n, A], key) -> actions [n, A].
Choice = Callable[[TruncatedNormal, jax.Array], jax.Array]


@struct.dataclass
class Learnable:
    """Parameters with the state of their optimiser."""

    params: Params
    opt_state: Any


@struct.dataclass
class AgentState:
    """What an update of `make_update` changes.

    Attributes:
      key: the run's one key; each update folds its step into it.
      step: int, updates done.
      learners: the agent's own struct: learnables, their targets, buffers.
      acting: what the policies act with, a running average of the learnt parameters.
      skipped: int, updates in a row that were thrown away for not being finite.
    """

    key: jax.Array
    step: jax.Array
    learners: Any
    acting: Params
    skipped: jax.Array


def make_optimizer(
    learning_rate: float,
    *,
    epsilon: float,
    clip_norm: float,
    weight_decay: float,
    decay_steps: int = 0,
    final_share: float = 1.0,
    muon_scale: float = 0.0,
) -> optax.GradientTransformation:
    """Returns AdamW, or Muon for weight matrices, behind a clip of the global norm.

    Args:
      learning_rate: at the start.
      epsilon: Adam's.
      clip_norm: largest global norm of a gradient.
      weight_decay: decoupled, multiplied by the learning rate.
      decay_steps: updates of a cosine decay; 0 keeps the rate constant.
      final_share: share of the learning rate that is left after the decay.
      muon_scale: Muon's learning rate in multiples of AdamW's; 0 leaves everything to
        AdamW. Muon (Jordan, 2024) moves each weight matrix by its momentum made
        orthogonal, so that directions with small gradients are learnt as fast as the
        others; biases, scales and what has one output stay with AdamW, there with
        Nesterov's momentum.
    """

    def scheduled(rate: float) -> optax.ScalarOrSchedule:
        if not decay_steps:
            return rate
        return optax.cosine_decay_schedule(rate, decay_steps, final_share)

    if muon_scale:
        move = muon(
            scheduled(muon_scale * learning_rate),
            scheduled(learning_rate),
            epsilon=epsilon,
            weight_decay=weight_decay,
        )
    else:
        move = optax.adamw(
            scheduled(learning_rate), eps=epsilon, weight_decay=weight_decay
        )
    return optax.chain(clip_by_global_norm(clip_norm), move)


def global_norm(tree: Any) -> jax.Array:
    """Returns the Euclidean norm of all numbers in the tree, as of one long vector.

    One vector is two kernels on a GPU, where `optax.global_norm` is one or two a leaf.
    And the XLA of jax 0.11 fails to compile the square of a leaf with one element
    under it ("Expected instruction to have shape equal to f32[]").
    """
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(jnp.sum(jnp.square(jnp.concatenate(leaves))))


def clip_by_global_norm(largest: float) -> optax.GradientTransformation:
    """Scales gradients down to a `global_norm` of at most `largest`."""

    def clip(gradients: Any, params: Any = None) -> Any:
        del params
        norm = global_norm(gradients)
        scale = largest / jnp.maximum(norm, largest)

        def scaled(leaf: jax.Array) -> jax.Array:
            return leaf * scale

        return jax.tree.map(scaled, gradients)

    return optax.stateless(clip)


def init_learnable(
    params: Params, optimizer: optax.GradientTransformation
) -> Learnable:
    """Returns fresh parameters with a fresh optimiser."""
    return Learnable(params, optimizer.init(params))


def init_state(
    key: jax.Array, learners: Any, acting_params: Callable[[Any], Params]
) -> AgentState:
    """Returns the state before the first update."""
    return AgentState(
        key=key,
        step=jnp.zeros((), jnp.int32),
        learners=learners,
        acting=copy_params(acting_params(learners)),
        skipped=jnp.zeros((), jnp.int32),
    )


def copy_params(params: Params) -> Params:
    """Returns the parameters in buffers of their own.

    A donated state must not hold one buffer twice.
    """
    return jax.tree.map(jnp.copy, params)


def gradient_step(
    loss: Callable[..., tuple[jax.Array, Any]],
    optimizer: optax.GradientTransformation,
    learnable: Learnable,
    *args: Any,
    **named: Any,
) -> tuple[Learnable, Any, jax.Array]:
    """Moves the parameters that are the loss's first argument, and nothing else.

    Args:
      loss: (params, *args, **named) -> (scalar, aux).
      optimizer: of the learnable.
      learnable: what learns.
      *args: the rest of the loss's arguments, as plain values.
      **named: the same.

    Returns:
      The moved learnable, the loss's aux, and the global norm of the gradient before
      it was clipped: a metric, by which an update that is not finite is known.
    """
    differentiated = jax.value_and_grad(loss, has_aux=True)
    (_, aux), grads = differentiated(learnable.params, *args, **named)
    updates, opt_state = optimizer.update(grads, learnable.opt_state, learnable.params)
    params = optax.apply_updates(learnable.params, updates)
    return Learnable(params, opt_state), aux, global_norm(grads)


def make_update(
    step: Callable[..., tuple[Any, Metrics]],
    acting_params: Callable[[Any], Params],
    acting_average: float,
) -> Update:
    """Returns the update around an agent's own step of its learners.

    Args:
      step: (learners, batch, key, number of the update) -> (learners, metrics).
      acting_params: learners -> what the policies act with.
      acting_average: decay of its running average; 0 acts with the newest.
    """

    def update(state: AgentState, batch: Batch) -> tuple[AgentState, Metrics]:
        check_batch(batch)
        learners, metrics = step(state.learners, batch, state.key, state.step)
        chex.assert_rank(list(metrics.values()), 0)
        new = dataclasses.replace(
            state,
            step=state.step + 1,
            learners=learners,
            acting=average_acting(
                acting_params(learners), state.acting, acting_average, state.step + 1
            ),
            skipped=jnp.zeros_like(state.skipped),
        )
        return accept_if_finite(state, new, metrics)

    return update


def check_batch(batch: Batch) -> None:
    """Asserts that each field is [T, B, ...] and of the kind that `Batch` says.

    While an update is traced; it costs nothing when it runs.
    """
    flags = [batch.is_first, batch.is_last, batch.is_terminal, batch.is_behaviour]
    actions = [batch.prev_action, batch.behaviour_action]
    numbers = [batch.reward, batch.return_to_go]
    chex.assert_rank([*numbers, batch.row, *flags], 2)
    chex.assert_rank(actions, 3)
    chex.assert_rank(batch.image, 5)
    chex.assert_tree_shape_prefix(batch, batch.reward.shape)
    chex.assert_equal_shape(actions)
    chex.assert_type(batch.image, jnp.uint8)
    chex.assert_type([*numbers, *actions], float)
    chex.assert_type(flags, bool)
    chex.assert_type(batch.row, int)


def average_acting(
    params: Params, average: Params, decay: float, number: jax.Array
) -> Params:
    """Returns the running average of acting parameters after update `number`.

    It starts short, so that it forgets the untrained parameters.
    """
    keep = jnp.minimum(decay, number / (number + 10.0))
    return optax.incremental_update(params, average, 1.0 - keep)


def accept_if_finite(old: Any, new: Any, metrics: Metrics) -> tuple[Any, Metrics]:
    """Throws an update away, and counts it, unless losses and gradients are finite.

    A finite state and finite gradients give a finite state: parameters and averages
    need no look of their own, at a kernel a leaf.

    Args:
      old: the state before; has `key`, `step` and `skipped`.
      new: the state after, with the same key.
      metrics: of the update, the global norm of each gradient among them.
    """
    # The key takes no part: it never changes, and `where` refuses typed keys.
    new = new.replace(key=None)
    refused = old.replace(key=None, step=new.step, skipped=old.skipped + 1)
    chosen = keep_if(all_finite(metrics), new, refused)
    return chosen.replace(key=old.key), {**metrics, "skipped_in_a_row": chosen.skipped}


def check_seen(image: jax.Array, is_first: jax.Array) -> None:
    """Asserts what a policy sees: uint8 [n, height, width, 3] and bool [n]."""
    chex.assert_shape(image, (*is_first.shape, None, None, None))
    chex.assert_rank(is_first, 1)
    # One in [0, 1] would be taken for a black one.
    chex.assert_type(image, jnp.uint8)
    chex.assert_type(is_first, bool)


def make_choices(noise_std: float) -> dict[str, Choice]:
    """Returns how policies choose from the actor's distribution of actions.

    Args:
      noise_std: of the normal noise, cut to [-1, 1], around the mode that
        "mean_with_noise" acts with: enough to see what the mode alone never meets,
        where the actor's own std is that of the data it clones.
    """

    def mean_with_noise(distribution: TruncatedNormal, key: jax.Array) -> jax.Array:
        mode = distribution.mode()
        return TruncatedNormal(mode, jnp.full_like(mode, noise_std)).sample(key)

    return {
        "mean": lambda distribution, key: distribution.mode(),
        "sampled": lambda distribution, key: distribution.sample(key),
        "mean_with_noise": mean_with_noise,
    }


def named_keys(key: jax.Array, step: jax.Array, *names: str) -> dict[str, jax.Array]:
    """Returns one key a name for this step; no key is used twice."""
    keys = jax.random.split(jax.random.fold_in(key, step), len(names))
    return dict(zip(names, keys, strict=True))


def keep_if(accepted: jax.Array, new: Any, old: Any) -> Any:
    """Returns `new` where the scalar `accepted` is true, else `old`, leaf by leaf."""

    def choose(new_leaf: jax.Array, old_leaf: jax.Array) -> jax.Array:
        return jnp.where(accepted, new_leaf, old_leaf)

    return jax.tree.map(choose, new, old)


def all_finite(tree: Any) -> jax.Array:
    """Returns whether every number in the tree is finite (a bool scalar)."""
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves))


def read_section(
    config: Any,
    name: str,
    kind: type[Fields],
    choices: Mapping[str, Mapping[str, Any]] | None = None,
) -> Fields:
    """Returns a section of the configuration as a NamedTuple.

    Args:
      config: the run's.
      name: of the section.
      kind: a NamedTuple class with a field a key.
      choices: field -> what its value, a name, stands for.

    Raises:
      ValueError: for a name that stands for nothing, or another set of keys.
    """
    values = {**kind._field_defaults, **config[name]}
    wrong = sorted(values.keys() ^ set(kind._fields))
    if wrong:
        raise ValueError(
            f"config.{name}.{wrong[0]} is "
            f"{'unknown' if wrong[0] in values else 'missing'}: the configuration is "
            "of another version of this code, so use the commit that made it"
        )
    for field, table in (choices or {}).items():
        if values[field] not in table:
            raise ValueError(
                f"unknown choice {values[field]!r} in config.{name}.{field}: use one "
                f"of {', '.join(table)}"
            )
        values[field] = table[values[field]]
    return kind._make(values[field] for field in kind._fields)
