"""The linear fakes as MOTO's networks, small numbers for it, and rows to learn from."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.configs.base import get_config
from moto_jax.agents import moto
from moto_jax.agents.moto_losses import Hyperparameters, Networks
from moto_jax.learning.learners import make_update, read_section
from moto_jax.learning.networks.rssm import LatentState
from tests import fakes

LENGTH, SIZE, HORIZON = 4, 3, 3
NETWORKS = Networks(
    fakes.linear_world_model(),
    fakes.LinearActor(),
    fakes.LinearCritics(),
)


def hyperparameters(**changes) -> Hyperparameters:
    section = dict(get_config("full").moto)
    section.update(horizon=HORIZON, discount=0.9, lambda_=0.7, alpha=0.8, beta=0.5)
    config = {"moto": {**section, **changes}}
    return read_section(config, "moto", Hyperparameters, moto._CHOICES)


def make_moto(networks, optimizers, hyper, acting_average=0.5):
    """Returns (key -> state) and the update of these networks."""
    step = moto.make_step(networks, optimizers, hyper)
    return (
        lambda key: moto.init_agent(key, networks, optimizers, fakes.ACTION_SIZE),
        make_update(step, moto.acting_params, acting_average),
    )


def with_learners(state, **changes):
    """Returns a state with other learners."""
    return state.replace(learners=state.learners.replace(**changes))


def recorded_batch():
    """Two sequences with a boundary or a terminal inside, and one without."""
    batch = fakes.random_batch(
        LENGTH, SIZE, action_size=fakes.ACTION_SIZE, image_size=2
    )
    batch.is_first[2, 0] = True
    batch.is_terminal[1, 1] = True
    batch.is_behaviour[:, 2] = False
    batch.is_behaviour[0, 2] = True
    return batch


def posterior() -> LatentState:
    """States of the batch's rows."""
    generator = np.random.default_rng(6)
    index = generator.integers(0, fakes.MEMBERS, (LENGTH, SIZE, fakes.GROUPS))
    return LatentState(
        jnp.float32(generator.normal(size=(LENGTH, SIZE, fakes.DETER))),
        jax.nn.one_hot(index, fakes.MEMBERS),
    )
