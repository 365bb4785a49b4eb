"""How many of a world's events a policy brings about, and how sure that is."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from moto_jax.acting.collection import Play, PlayEpisodes
from moto_jax.data.episodes import Episode
from moto_jax.data.rows import Label
from moto_jax.statistics import bootstrap_interval, wilson_interval
from moto_jax.types import Params


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """What a policy did in N episodes; K counts the world's events.

    Attributes:
      events: names of the K events; a kitchen's are the task's objects in their goals.
      reached: bool [N, K], the event was so at some step.
      at_end: bool [N, K], the event was so at the last step.
      returns: float32 [N], undiscounted sums of reward.
      best: the episode with most events reached; of equals the highest return.
      worst: the episode with fewest; of equals the lowest return.
    """

    events: tuple[str, ...]
    reached: np.ndarray
    at_end: np.ndarray
    returns: np.ndarray
    best: Episode
    worst: Episode

    def summary(self) -> dict[str, float]:
        """Returns the figures to log.

        `objects` is the mean number of events reached an episode, with a bootstrap
        interval; `success` the share of episodes that reached all of them, with
        Wilson's; both at 95 %, as `_low` and `_high`. `success_at_end` counts the
        episodes in which all were so at the last step.
        """
        objects = self.reached.sum(axis=1)
        success = self.reached.all(axis=1)
        objects_low, objects_high = bootstrap_interval(objects)
        success_low, success_high = wilson_interval(int(success.sum()), len(objects))
        return {
            "episodes": float(len(objects)),
            "objects": float(objects.mean()),
            "objects_low": objects_low,
            "objects_high": objects_high,
            "objects_at_end": float(self.at_end.sum(axis=1).mean()),
            "success": float(success.mean()),
            "success_low": success_low,
            "success_high": success_high,
            "success_at_end": float(self.at_end.all(axis=1).mean()),
            "return": float(self.returns.mean()),
        } | {
            f"reached/{name}": float(rate)
            for name, rate in zip(self.events, self.reached.mean(axis=0), strict=True)
        }


def evaluate(
    play: PlayEpisodes,
    params: Params,
    keys: jax.Array,
    seeds: Sequence[int],
    events: tuple[str, ...],
    label: Label,
) -> EvaluationResult:
    """Runs one episode for each environment seed and counts what was reached.

    Args:
      play: the policy's, from a stage's `player`.
      params: the one set that the policy acts with: every leaf is [1, ...].
      keys: the one typed PRNG key of the policy's noise, [1].
      seeds: of the environments' resets.
      events: names of the world's K events.
      label: the world's.

    Raises:
      ValueError: without seeds.
      WorkerError: if workers keep failing.
    """
    reached, at_end, returns = [], [], []
    best = worst = None
    best_score = worst_score = (0, 0.0)
    for episode in play(params, keys, [Play(0, seed) for seed in seeds]):
        labels = label(episode)
        reached.append(labels.events.any(axis=0))
        at_end.append(labels.events[-1])
        returns.append(labels.reward[1:].sum())
        score = (int(reached[-1].sum()), float(returns[-1]))
        if best is None or score > best_score:
            best, best_score = episode, score
        if worst is None or score < worst_score:
            worst, worst_score = episode, score
    if best is None or worst is None:
        raise ValueError("no environment seed to evaluate with: ask for 1 episode")
    return EvaluationResult(
        events=events,
        reached=np.stack(reached),
        at_end=np.stack(at_end),
        returns=np.stack(returns),
        best=best,
        worst=worst,
    )
