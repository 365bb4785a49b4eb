"""Two worlds whose answers are known, and the package's own updates in them.

The signal: an image shows the action that led to it, and a lamp that counts the
episode's rows. A real world model learns it, behind dense layers instead of
convolutions.

The line: a point x in [-1, 1] whose dynamics and rewards are parameters of a fixed
model. MOTO's whole update runs in it, with a learning rate for each part.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from moto_jax.agents import moto
from moto_jax.agents.moto_losses import Networks
from moto_jax.learning.learners import (
    AgentState,
    init_learnable,
    make_optimizer,
    make_update,
)
from moto_jax.learning.model_based import fit_model
from moto_jax.learning.networks.heads import Actor, CriticEnsemble
from moto_jax.learning.networks.rssm import LatentState
from moto_jax.learning.networks.world_networks import Sizes
from moto_jax.learning.world_model import WorldModel, make_world_model
from moto_jax.types import Batch, Params
from tests.fake_moto import hyperparameters

SIDE, LAMP_PERIOD = 6, 3
# Slower updates, compiled in half the time.
_QUICK_COMPILATION = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


def quick_jit(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return jax.jit(function, compiler_options=_QUICK_COMPILATION, **options)


def to_batch(image, prev_action, reward, **flags) -> Batch:
    """A batch of rows [T, B] whose flags are false but for those given."""
    rows = image.shape[:2]
    names = ("is_first", "is_last", "is_terminal", "is_behaviour")
    return Batch(
        image=image,
        prev_action=np.float32(prev_action),
        behaviour_action=np.roll(np.float32(prev_action), -1, axis=0),
        reward=np.float32(reward),
        return_to_go=np.zeros(rows, np.float32),
        row=np.arange(np.prod(rows), dtype=np.int32).reshape(rows, order="F"),
        **{name: np.zeros(rows, np.bool_) for name in names} | flags,
    )


def rolled(field: str, rows: int) -> Callable[[Batch], Batch]:
    """Batches whose field stands so many rows late."""
    return lambda batch: batch.replace(
        **{field: np.roll(getattr(batch, field), rows, axis=0)}
    )


def filled(field: str, value: bool) -> Callable[[Batch], Batch]:
    return lambda batch: batch.replace(
        **{field: np.full_like(getattr(batch, field), value)}
    )


def unchanged(batch: Batch) -> Batch:
    return batch


def signal_batch(
    generator: np.random.Generator,
    length: int,
    first_row: np.ndarray,
    least_phase: int = 0,
) -> Batch:
    """Sequences [T, B] in each of which an episode begins, at `first_row` [B].

    Images [6, 6, 3]: above, the left, middle or right third is white as the action was
    -1, 0 or 1; below, all is white on every third row of the episode. The reward is 4
    with the lamp on, plus twice the action. Rows before the first are another
    episode's, at a phase from `least_phase` to 2 that only their lamp tells.
    """
    rows = (length, len(first_row))
    row = np.arange(length)[:, None]
    is_first, begun = row == first_row, row >= first_row
    action = np.where(is_first, 0, generator.integers(-1, 2, rows))
    phase = generator.integers(least_phase, LAMP_PERIOD, len(first_row))
    age = np.where(begun, row - first_row, row + phase)
    lamp = age % LAMP_PERIOD == LAMP_PERIOD - 1
    third = np.arange(SIDE) // (SIDE // 3) == action[..., None] + 1
    image = np.zeros((*rows, SIDE, SIDE, 3), np.uint8)
    image[:, :, : SIDE // 2] = 255 * third[:, :, None, :, None]
    image[:, :, SIDE // 2 :] = 255 * lamp[..., None, None, None]
    return to_batch(image, action[..., None], 4 * lamp + 2 * action, is_first=is_first)


class DenseEncoder(nn.Module):
    """Sees a corner of an image: `init` shows it one of 64x64."""

    units: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        seen = image[..., :SIDE, :SIDE, :].astype(self.dtype) / 255.0 - 0.5
        return nn.elu(nn.Dense(self.units)(seen.reshape((*seen.shape[:-3], -1))))


class DenseDecoder(nn.Module):
    units: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, feature: jax.Array) -> jax.Array:
        hidden = nn.elu(nn.Dense(self.units)(feature))
        image = nn.Dense(SIDE * SIDE * 3)(hidden)
        return image.reshape((*feature.shape[:-1], SIDE, SIDE, 3))


SIGNAL_MODEL = make_world_model(
    Sizes(
        deter=32,
        hidden=32,
        groups=2,
        classes=8,
        members=2,
        depth=32,
        reward_layers=1,
        reward_units=32,
    ),
    action_size=1,
    encoder=DenseEncoder,
    decoder=DenseDecoder,
)


class ModelScales(NamedTuple):
    """Weights of the world model's loss; a row here holds less than a free nat."""

    kl_scale: float = 1.0
    kl_balance: float = 0.8
    free_nats: float = 0.0


@functools.cache
def _signal_program(model: WorldModel) -> Callable[..., Any]:
    def update(learnable, batch, scales, key):
        return fit_model(learnable, model, _SIGNAL_OPTIMIZER, scales, batch, key)[0]

    return quick_jit(update, donate_argnums=0)


_SIGNAL_OPTIMIZER = make_optimizer(
    1e-2, epsilon=1e-5, clip_norm=100.0, weight_decay=0.0
)


def fit_signal(
    seed: int,
    *,
    model: WorldModel = SIGNAL_MODEL,
    distort: Callable[[Batch], Batch] = lambda batch: batch,
    scales: ModelScales = ModelScales(),  # noqa: B008
    updates: int = 250,
) -> Params:
    """Returns parameters after the model's own updates on distorted batches."""
    length, size = 12, 24
    generator, key = np.random.default_rng(seed), jax.random.key(seed)
    learnable = init_learnable(quick_jit(model.init)(key), _SIGNAL_OPTIMIZER)
    for update_key in jax.random.split(key, updates):
        first_row = generator.integers(length // 2, size=size)
        batch = distort(signal_batch(generator, length, first_row))
        learnable = _signal_program(model)(learnable, batch, scales, update_key)
    return learnable.params


class LineParams(NamedTuple):
    """x' = keep x + push a; reward on arriving: constant + slope x - bend x^2.

    The members' disagreement about a step grows with `doubt` times the action, for
    positive actions; with `doubt` 4 it is about the action itself.
    """

    keep: float
    push: float = 0.0
    constant: float = 0.0
    slope: float = 0.0
    bend: float = 0.0
    doubt: float = 0.0


def line_world() -> WorldModel:
    """A fixed model whose deterministic state is x, seen as an image's brightness."""
    stoch = (1, 2)

    def observe(params, part, prev_action, is_first, latent, key):
        logits = jnp.zeros((*part.shape[:-1], *stoch))
        return LatentState(part, jnp.zeros_like(logits)), logits

    def imagine_step(params, latent, action, member, key):
        deter = params.keep * latent.deter + params.push * action
        doubt = params.doubt * jnp.maximum(action, 0.0)[..., None]
        doubtful = jnp.concatenate([doubt, jnp.zeros_like(doubt)], axis=-1)
        logits = jnp.stack([jnp.zeros_like(doubtful), doubtful])
        return LatentState(deter, latent.stoch), logits

    def reward(params, feature):
        x = feature[..., 0]
        return params.constant + params.slope * x - params.bend * jnp.square(x)

    return WorldModel(
        init=lambda key: LineParams(*jnp.zeros(len(LineParams._fields))),
        initial=lambda leading: LatentState.zeros(leading, 1, *stoch),
        embed=lambda params, image: line_position(image)[..., None],
        observe=observe,
        imagine_step=imagine_step,
        prior_logits=lambda params, deter: jnp.zeros((2, *deter.shape[:-1], *stoch)),
        reward=reward,
        decode=lambda params, feature: jnp.zeros((*feature.shape[:-1], 1, 1, 3)),
        members=2,
    )


def line_image(x: np.ndarray) -> np.ndarray:
    """Images uint8 [..., 1, 1, 3]."""
    brightness = np.round(255 * (x + 1) / 2).astype(np.uint8)
    return np.broadcast_to(brightness[..., None, None, None], (*x.shape, 1, 1, 3))


def line_position(image: jax.Array) -> jax.Array:
    return image[..., 0, 0, 0].astype(jnp.float32) / 255.0 * 2.0 - 1.0


def line_feature(x: np.ndarray) -> np.ndarray:
    """The line world's features [N, F] of positions [N]."""
    return np.stack([x, np.zeros_like(x), np.zeros_like(x)], axis=-1)


ROWS = (4, 16)


def chain_batch(generator: np.random.Generator) -> Batch:
    """An episode's last row, a whole episode of one step, another's first row.

    Time limits end them.
    """
    start = np.where(np.arange(ROWS[1]) % 2, 1.0, -1.0)
    x = np.stack([-start, start, -start, start])
    is_first, is_last = np.zeros(ROWS, np.bool_), np.zeros(ROWS, np.bool_)
    is_first[[1, 3]] = is_last[[0, 2]] = True
    action = generator.uniform(-1.0, 1.0, ROWS) * ~is_first
    reward = np.where(is_first, 0.0, x > 0)
    return to_batch(
        line_image(x),
        action[..., None],
        reward,
        is_first=is_first,
        is_last=is_last,
    )


def positions_batch(generator: np.random.Generator) -> Batch:
    x = generator.uniform(-0.7, 0.7, ROWS)
    return to_batch(line_image(x), np.zeros((*ROWS, 1)), np.zeros(ROWS))


def cloning_rows(generator: np.random.Generator, shape: tuple[int, int], draw) -> Batch:
    """Positions that do not hang together; -x done at marked rows, x at others."""
    x = generator.uniform(-1.0, 1.0, shape)
    is_behaviour = generator.random(shape) < 0.5
    action = np.where(is_behaviour, -x, x)
    prev_action = np.zeros((*shape, 1))
    prev_action[1:, :, 0] = action[:-1]
    return to_batch(draw(x), prev_action, np.zeros(shape), is_behaviour=is_behaviour)


LINE_NETWORKS = Networks(
    line_world(),
    Actor(action_size=1, layers=1, units=32),
    CriticEnsemble(critics=2, layers=1, units=32),
)
LINE_NUMBERS = {
    "discount": 0.8,
    "lambda_": 0.5,
    "alpha": 0.0,
    "beta": 0.0,
    "value_scale": 1.0,
    "target_period": 20,
}


def _line_optimizers(rates: dict[str, Any]) -> moto.Optimizers:
    return moto.Optimizers(
        *[
            make_optimizer(
                rates.get(part, 0.0), epsilon=1e-5, clip_norm=100.0, weight_decay=0.0
            )
            for part in moto.Optimizers._fields
        ]
    )


@functools.cache
def _line_program(broken: str) -> Callable[..., Any]:
    """MOTO's update; what is broken while it is traced sets programs apart."""
    del broken
    fixed = hyperparameters(horizon=2, behaviour_model_scale=0.0)

    def update(state, batch, rates, numbers):
        hyper = fixed._replace(**numbers)
        optimizers = _line_optimizers(rates)
        step = moto.make_step(LINE_NETWORKS, optimizers, hyper)
        return make_update(step, moto.acting_params, 0.0)(state, batch)[0]

    return quick_jit(update)


@functools.cache
def _line_state(seed: int) -> AgentState:
    optimizers = _line_optimizers({})
    init = quick_jit(lambda key: moto.init_agent(key, LINE_NETWORKS, optimizers, 1))
    return init(jax.random.key(seed))


def peaked_critics(height: float, peak: float) -> Params:
    """The critics' parameters for Q = - height (elu(z) + elu(-z)), z = a - peak.

    The best action is the peak in every state; at height 0 they are all 0.
    """
    params = jax.tree.map(
        np.zeros_like, jax.device_get(_line_state(0).learners.critic.params)
    )
    hidden, output = params["VmapMLP_0"]["Dense_0"], params["VmapMLP_0"]["Dense_1"]
    for unit, sign in enumerate((1.0, -1.0)):
        hidden["kernel"][:, -1, unit] = sign
        hidden["bias"][:, unit] = -sign * peak
        output["kernel"][:, unit] = -height
    return params


def learn_on_the_line(
    seed: int,
    world: LineParams,
    batches: Callable[[np.random.Generator], Batch],
    *,
    rates: dict[str, float],
    updates: int,
    numbers: dict[str, float],
    critic: Params = None,
    zero_targets: bool = False,
    broken: str = "",
) -> AgentState:
    """Returns the state after MOTO's updates of the parts that have a rate.

    Args:
      seed: of parameters and batches.
      world: the model's parameters, which stay.
      batches: draws a batch.
      rates: part -> learning rate; other parts stay as they are.
      updates: how many.
      numbers: hyper-parameters other than LINE_NUMBERS.
      critic: the critics' parameters to begin with, where they are not drawn.
      zero_targets: whether the target critics begin as 0 everywhere.
      broken: names what has been broken in the package.
    """
    state, generator = _line_state(seed), np.random.default_rng(seed)
    learners = state.learners
    model = learners.model.replace(params=jax.tree.map(jnp.float32, world))
    learners = learners.replace(model=model)
    if critic is not None:
        learners = learners.replace(critic=learners.critic.replace(params=critic))
    if zero_targets:
        zeros = jax.tree.map(jnp.zeros_like, learners.target_critic)
        learners = learners.replace(target_critic=zeros)
    state = state.replace(learners=learners)
    rates = dict.fromkeys(moto.Optimizers._fields, 0.0) | rates
    numbers = LINE_NUMBERS | numbers
    program = _line_program(broken)
    for _ in range(updates):
        state = program(state, batches(generator), rates, numbers)
    return state
