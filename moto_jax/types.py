"""The nouns of device code and the axis letters.

Axes: `T` sequence time, `B` batch, `E` ensemble member, `H` horizon, `N` imagined
starts (T * B as one axis, or the axes T, B), `C` critic, `A` action, `S` groups and `K`
classes of the stochastic state, `D` deterministic state, `F` feature. Device arrays are
time-major. A run of several seeds has their axis before all others.

Alignment, fixed once: an episode of L steps becomes L + 1 rows. Row j holds image x_j,
the action that led to it (`prev_action`, zero in row 0) and the reward received on
arriving at it (zero in row 0). The action taken *at* row j is `prev_action[j + 1]`.
"""

# What flax leaves open in its own types is flax's.
# pyright: reportUnknownMemberType=false

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import struct

Array = jax.Array | np.ndarray
Params = Any
# An ml_collections.ConfigDict, whose attributes have no static types.
Config = Any
Metrics = dict[str, Any]


@struct.dataclass
class Batch:
    """Sequences of rows as the world model reads them; every field is [T, B, ...].

    Attributes:
      image: uint8 [T, B, height, width, 3].
      prev_action: float32 [T, B, A], in [-1, 1]; zero where `is_first`.
      reward: float32 [T, B], received on arriving at the row.
      is_first: bool [T, B], the episode's first row.
      is_last: bool [T, B], the episode's last row, by time limit or by terminal.
      is_terminal: bool [T, B], the decision process ended (never in the kitchen).
      is_behaviour: bool [T, B], the action taken at this row belongs to the
        success-filtered set that is cloned.
      behaviour_action: float32 [T, B, A], what cloning imitates at this row: the action
        taken (`prev_action` of the next), or the one that the demonstrator meant.
      return_to_go: float32 [T, B], the discounted sum of the rewards that the episode
        got after the row, up to its end.
      row: int32 [T, B], the row's number in the replay, counted from the first episode
        that was added; consecutive within an episode.
    """

    image: Array
    prev_action: Array
    reward: Array
    is_first: Array
    is_last: Array
    is_terminal: Array
    is_behaviour: Array
    behaviour_action: Array
    return_to_go: Array
    row: Array


class Policy(NamedTuple):
    """How an agent acts in `n` environments at once; pure functions.

    Attributes:
      initial: n -> carry.
      act: (params, carry, image uint8 [n, height, width, 3], is_first bool [n], key) ->
        (action float32 [n, A], carry). Rows with `is_first` forget their carry.
    """

    initial: Callable[[int], Any]
    act: Callable[..., tuple[jax.Array, Any]]


class Agent(NamedTuple):
    """A learning algorithm as pure functions.

    Attributes:
      init: key -> state.
      updates: phase -> ((state, batch) -> (state, metrics)): "offline", "online" and,
        of an agent that begins with its model alone, "model".
      policies: "mean" and "sampled", which are evaluated, and "mean_with_noise", which
        only ever collects -> Policy.
      acting_params: state -> the parameters that the policies act with.
      batch_shape: (T, B) of the batches that the updates take.
      model: the WorldModel that its policies filter images with, whose parameters
        are `acting_params(state)["model"]`; None for an agent without one.
      model_share: share of the offline updates that are the "model" phase's, first.
      online_share: share of sequences from online episodes that belongs to the
        algorithm; None leaves it to the configuration.
    """

    init: Callable[[jax.Array], Any]
    updates: Mapping[str, Callable[[Any, Batch], tuple[Any, Metrics]]]
    policies: Mapping[str, Policy]
    acting_params: Callable[[Any], Params]
    batch_shape: tuple[int, int]
    model: Any | None = None
    model_share: float = 0.0
    online_share: float | None = None
