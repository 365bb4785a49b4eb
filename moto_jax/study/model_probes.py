"""What an agent believes: rewards, how far its members disagree, what it would do.

Pure functions of a model or policy, its parameters and recorded rows, for the paper's
figures 1, 4 and 5 and for comparing checkpoints; nothing here learns.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from moto_jax.data.episodes import Episode
from moto_jax.data.rows import Label, to_rows
from moto_jax.learning.imagination import FeaturePolicy, imagine, no_uncertainty
from moto_jax.learning.model_based import PolicyCarry
from moto_jax.learning.networks.rssm import LatentState
from moto_jax.learning.world_model import WorldModel, observe_sequence
from moto_jax.types import Array, Batch, Params, Policy


def padded_batch(
    episodes: Sequence[Episode],
    label: Label,
    rows: int,
    starts: Sequence[int] | None = None,
) -> Batch:
    """Returns whole episodes side by side, [T, B, ...].

    What comes before an episode is forgotten at its first row, and what comes after its
    last, which is repeated without an action, changes nothing before.

    Args:
      episodes: B of them.
      label: the world's, whose reward is asked for.
      rows: T.
      starts: the row at which each begins; 0 where not given.

    Raises:
      ValueError: for no episode, or one that does not fit.
    """
    if not episodes:
        raise ValueError("no episode to put in a batch")
    starts = [0] * len(episodes) if starts is None else starts
    several = [to_rows(episode, label(episode)) for episode in episodes]

    def field(name: str) -> np.ndarray:
        columns = []
        for one, start in zip(several, starts, strict=True):
            values = getattr(one, name)
            after = rows - start - len(values)
            if after < 0:
                raise ValueError(
                    f"an episode of {len(values)} rows that begins at {start} does "
                    f"not fit {rows}"
                )
            still = np.repeat(values[-1:], after, axis=0)
            if name in ("prev_action", "behaviour_action"):
                still = np.zeros_like(still)
            before = np.repeat(values[:1], start, axis=0)
            columns.append(np.concatenate([before, values, still]))
        return np.stack(columns, axis=1)

    names = (one.name for one in dataclasses.fields(Batch))
    return Batch(**{name: field(name) for name in names})


def posterior_states(
    model: WorldModel, params: Params, batch: Batch, key: jax.Array
) -> LatentState:
    """Returns the posterior of every row, given all rows before it: [T, B]."""
    length, size = batch.reward.shape
    keys = jax.random.split(key, length)
    latent = model.initial((size,))
    return observe_sequence(model, params, batch, latent, keys)[0]


def predicted_rewards(
    model: WorldModel, params: Params, batch: Batch, key: jax.Array
) -> jax.Array:
    """Returns the reward head on the posterior of every row, [T, B].

    Args:
      model: the world model.
      params: its parameters.
      batch: sequences [T, B, ...].
      key: one key.
    """
    return model.reward(params, posterior_states(model, params, batch, key).feature)


def imagined_rewards(
    model: WorldModel,
    params: Params,
    policy: FeaturePolicy,
    image: jax.Array,
    horizon: int,
    key: jax.Array,
) -> jax.Array:
    """Returns the reward head along rollouts of a policy inside the model, [H + 1, N].

    Row 0 is that of the starting states, the posterior of an episode's first image.

    Args:
      model: the world model.
      params: its parameters.
      policy: (feature [N, F], key) -> action [N, A].
      image: uint8 [N, height, width, 3], first rows of episodes.
      horizon: H.
      key: one key.
    """
    start_key, dream_key = jax.random.split(key)
    size = len(image)
    latent = model.initial((size,))
    no_action = jax.eval_shape(policy, latent.feature, start_key)
    starts, _ = model.observe(
        params,
        model.embed(params, image),
        jnp.zeros(no_action.shape),
        jnp.ones(size, bool),
        latent,
        start_key,
    )
    dream = imagine(
        model,
        params,
        policy,
        no_uncertainty,
        starts,
        horizon,
        dream_key,
    )
    return model.reward(params, dream.feature)


class OpenLoop(NamedTuple):
    """What a model says along H recorded actions from each posterior.

    Attributes:
      uncertainty: [H, T - H, B], u (Eq. 2) of the transition after each action.
      reward: [H, T - H, B], predicted for the row that the action leads to: of start j
        and action t it is row j + t + 1.
    """

    uncertainty: jax.Array
    reward: jax.Array


def open_loop_rollouts(
    model: WorldModel,
    params: Params,
    batch: Batch,
    horizon: int,
    disagreement: Callable[[jax.Array], jax.Array],
    key: jax.Array,
) -> OpenLoop:
    """Returns uncertainty and rewards along H recorded actions from each posterior.

    From the posterior of row j the model is rolled open loop by the actions taken at
    rows j .. j + H - 1, with a member drawn for every step. The mean of u over those H
    transitions is the expectation in Eq. 12 with recorded actions.

    Args:
      model: the world model.
      params: its parameters.
      batch: sequences [T, B, ...], each of one episode.
      horizon: H, less than T.
      disagreement: logits of all members [E, ..., S, K] -> u [...].
      key: one key.

    Raises:
      ValueError: for sequences that are not longer than the horizon.
    """
    length, size = batch.reward.shape
    starts = length - horizon
    if starts < 1:
        raise ValueError(f"{length} rows hold no {horizon} actions in a row")
    filter_key, member_key, step_key = jax.random.split(key, 3)
    posterior = posterior_states(model, params, batch, filter_key)
    latent = jax.tree.map(lambda field: field[:starts], posterior)
    # The action taken at row j + t is `prev_action` of the row after it.
    actions = jnp.stack(
        [batch.prev_action[1 + t : 1 + t + starts] for t in range(horizon)]
    )
    members = jax.random.randint(member_key, (horizon, starts, size), 0, model.members)

    def step(latent: LatentState, inputs):
        action, member, key = inputs
        latent, logits = model.imagine_step(params, latent, action, member, key)
        reward = model.reward(params, latent.feature)
        return latent, OpenLoop(disagreement(logits), reward)

    keys = jax.random.split(step_key, horizon)
    return jax.lax.scan(step, latent, (actions, members, keys))[1]


def whole_windows(lengths: Sequence[int], rows: int, horizon: int) -> np.ndarray:
    """Returns bool [T - H, B]: the windows of H actions that an episode really has.

    Args:
      lengths: rows of each of B episodes, which begin at row 0.
      rows: T.
      horizon: H.
    """
    return np.arange(rows - horizon)[:, None] + horizon < np.asarray(lengths)


def actions_along(
    policy: Policy, params: Params, image: Array, executed: Array, key: jax.Array
) -> jax.Array:
    """Returns what a policy would do at each row of a recorded episode, [T, A].

    It sees what was recorded, and knows of each action that was executed, not of its
    own.

    Args:
      policy: the agent's.
      params: what it acts with.
      image: uint8 [T, height, width, 3].
      executed: float32 [T, A], the action taken at each row.
      key: one key.
    """
    length = len(image)

    def step(carry, inputs):
        image, executed, is_first, key = inputs
        action, carry = policy.act(params, carry, image[None], is_first[None], key)
        # Policies without a model remember pictures, and no action.
        if isinstance(carry, PolicyCarry):
            carry = dataclasses.replace(carry, action=executed[None])
        return carry, action[0]

    inputs = (image, executed, jnp.arange(length) == 0, jax.random.split(key, length))
    return jax.lax.scan(step, policy.initial(1), inputs)[1]


def squared_action_errors(
    along: Callable[[np.ndarray, np.ndarray, jax.Array], Array],
    episodes: Sequence[Episode],
    label: Label,
    rows: int,
) -> list[list[float | None]]:
    """Returns mean squared errors of actions just before events come about.

    Args:
      along: (image [T, height, width, 3], executed [T, A], key) -> what a policy would
        do [T, A], such as `actions_along`; always called with the same T.
      episodes: recorded ones. Where they do not say what was intended, nothing was
        added to it, and it was executed.
      label: the world's.
      rows: how many actions before an object's first row in its goal are compared.

    Returns:
      For each episode and each of the K events the mean over rows and components; None
      for one that never is, or was from the start.
    """
    longest = max(len(episode.action) for episode in episodes)
    found = []
    for number, episode in enumerate(episodes):
        length = len(episode.action)
        after = (0, longest - length)
        chosen = along(
            # The last image has no action.
            np.pad(episode.image[:length], [after, (0, 0), (0, 0), (0, 0)]),
            np.pad(episode.action, [after, (0, 0)]),
            jax.random.key(number),
        )
        meant = episode.intended_action
        meant = episode.action if meant is None else meant
        error = np.square(np.asarray(chosen)[:length] - meant).mean(axis=-1)
        events = label(episode).events
        found.append([_mean_before(error, column, rows) for column in events.T])
    return found


def _mean_before(error: np.ndarray, event: np.ndarray, rows: int) -> float | None:
    done = int(event.argmax())
    if not done:
        return None
    return float(error[max(0, done - rows) : done].mean())
