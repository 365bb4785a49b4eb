"""Every agent learns: from pixels and rewards to near the best return of a tiny task.

What no test of parts sees: a wrong sign, rows that are off by one.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from experiments.configs.base import get_config
from moto_jax.agents import AGENTS, make_agent
from moto_jax.types import Agent, Batch
from tests import probe_task as task

# Of the way from the untrained policy's return to the best one. Measured on a CPU: 0.81
# (LOMPO, DreamerV2) to 0.98 at seed 0, 0.90 or more at seeds 1 and 2 of those without a
# model. Broken on purpose: -0.72 with MOTO's value term negated, -0.57 with SAC's, 0.28
# with actions a row off, 0.13 with equal weights in IQL; but 0.92 with the encoder
# frozen: random convolutions see this bar.
SHARE = 0.6
STARTS = np.linspace(-1.0, 1.0, 32)
ONLINE_EPISODES, ONLINE_UPDATES = 4, 20


class Case(NamedTuple):
    """Offline updates, and the episodes that they learn from.

    Random actions leave nothing to imitate: who learns from them does so by reward. BC
    gets mostly demonstrations; MOTO clones a few, at a weight that does not make up for
    a broken value term.
    """

    updates: int = 200
    random: int = 64
    demonstrations: int = 0


CASES = {name: Case() for name in AGENTS} | {
    "moto": Case(demonstrations=16),
    "lompo": Case(updates=300),
    "combo": Case(updates=300),
    "bc": Case(random=16, demonstrations=64),
}
# Beside the sizes of `tiny`: the least that learns. The discount is short as the task
# is, weights are to the scale of its values.
SETTINGS: dict[str, Any] = {
    "acting_average": 0.9,
    "replay.batch_size": 12,
    "replay.sequence_length": 8,
    "world_model.deter": 64,
    "world_model.hidden": 64,
    "world_model.groups": 8,
    "world_model.classes": 8,
    "world_model.depth": 4,
    "world_model.reward_units": 64,
    "actor.units": 64,
    "critic.units": 64,
    "optimizer.learning_rates.model": 3e-3,
    "optimizer.learning_rates.actor": 1e-3,
    "optimizer.learning_rates.critic": 1e-3,
    "optimizer.decay_steps": 0,
    "moto.horizon": 5,
    "moto.discount": 0.9,
    "moto.alpha": 0.1,
    "moto.beta": 0.1,
    "moto.behaviour_model_scale": 0.1,
    "moto.target_period": 20,
    "dreamer_v2.horizon": 5,
    "dreamer_v2.discount": 0.9,
    "dreamer_v2.target_period": 20,
    "latent.model_share": 0.4,
    "latent.horizon": 3,
    "latent.rollout_every": 10,
    "latent.batch_size": 64,
    "latent.recorded_rows": 2_000,
    "latent.imagined_rows": 3_840,
    "lompo.penalty_scale": 0.05,
    "combo.weight": 0.1,
    "model_free.frames": 2,
    "model_free.batch_size": 64,
    "model_free.shift": 1,
    "model_free.depth": 8,
    "model_free.projection": 32,
    "model_free.units": 64,
    "model_free.actor_decay_steps": 0,
    "actor_critic.discount": task.DISCOUNT,
    "actor_critic.tau": 0.05,
    "actor_critic.initial_temperature": 0.05,
    "cql.weight": 0.1,
    "rlpd.critics": 4,
    "iql.advantage_scale": 10.0,
}
# Slower updates, compiled in half the time.
QUICK_COMPILATION = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


class Outcome(NamedTuple):
    """Mean returns of the mean policy from STARTS, and the best ones' mean."""

    untrained: float
    after_offline: float
    after_online: float
    best: float

    @property
    def share(self) -> float:
        return (self.after_online - self.untrained) / (self.best - self.untrained)


class Compiled(NamedTuple):
    """An agent's functions, jitted; a policy maps (state, starts, key) to episodes."""

    agent: Agent
    init: Callable[..., Any]
    updates: dict[str, Callable[..., Any]]
    policies: dict[str, Callable[..., Batch]]


@functools.cache
def build(name: str) -> Compiled:
    config = get_config("tiny")
    config.agent = name
    config.update_from_flattened_dict(SETTINGS)
    sizes = {"action_size": task.ACTION_SIZE, "image_size": task.IMAGE_SIZE}
    agent = make_agent(config, **sizes)
    # Three phases mean three updates to compile, and fewer runs of each.
    options = QUICK_COMPILATION if agent.model_share else None
    # One jitted function where phases share an update, so that it is compiled once.
    jitted = {
        update: jax.jit(update, donate_argnums=0, compiler_options=options)
        for update in set(agent.updates.values())
    }
    return Compiled(
        agent,
        jax.jit(agent.init, compiler_options=QUICK_COMPILATION),
        {phase: jitted[update] for phase, update in agent.updates.items()},
        {choose: make_player(agent, choose) for choose in agent.policies},
    )


def make_player(agent: Agent, choose: str) -> Callable[..., Batch]:
    policy = agent.policies[choose]
    step = jax.jit(policy.act, compiler_options=QUICK_COMPILATION)

    def player(state: Any, starts: np.ndarray, key: jax.Array) -> Batch:
        params, carry = agent.acting_params(state), policy.initial(len(starts))
        keys = iter(jax.random.split(key, task.STEPS))

        def act(image, is_first, position):
            nonlocal carry
            action, carry = step(params, carry, image, is_first, next(keys))
            return np.asarray(action)

        return task.play(act, starts)

    return player


def learn(name: str, seed: int) -> Outcome:
    """The three phases as a run has them, the last with episodes of its own."""
    case, (agent, init, updates, policies) = CASES[name], build(name)
    generator, key = np.random.default_rng(seed), jax.random.key(seed)
    episodes = task.join(
        task.random_episodes(case.random, generator),
        task.demonstrations(case.demonstrations, generator),
    )

    def mean_return() -> float:
        return float(policies["mean"](state, STARTS, key).reward.sum(axis=0).mean())

    def run(state: Any, phase: str, count: int) -> Any:
        for _ in range(count):
            batch = task.sample(episodes, agent.batch_shape, generator)
            state, _ = updates[phase](state, batch)
        return state

    state = init(key)
    untrained = mean_return()
    model_updates = round(agent.model_share * case.updates)
    state = run(state, "model", model_updates)
    state = run(state, "offline", case.updates - model_updates)
    after_offline = mean_return()
    starts = generator.uniform(-1.0, 1.0, ONLINE_EPISODES)
    episodes = task.join(episodes, policies["sampled"](state, starts, key))
    state = run(state, "online", ONLINE_UPDATES)
    best = task.best_returns(STARTS).mean()
    return Outcome(untrained, after_offline, mean_return(), best)


@pytest.mark.slow
@pytest.mark.parametrize("name", AGENTS)
def test_the_agent_comes_near_the_best_return(name):
    outcome = learn(name, seed=0)
    assert outcome.share >= SHARE, f"{name} came {outcome.share:.2f} of it: {outcome}"
