"""What figure 5 asks of MOTO's checkpoints: an expert, and eps_u (Eq. 12)."""

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from experiments.figure_values import (
    EPISODES,
    MakeWorld,
    Models,
    checkpoints,
    demonstration_files,
    succeeds,
)
from moto_jax.acting.collection import Play
from moto_jax.acting.environment_seeds import Purpose, environment_seed
from moto_jax.data.episodes import Episode, read_episode
from moto_jax.running.restoring import KeptCheckpoints
from moto_jax.study import model_probes
from moto_jax.study.gap_figure import Gaps
from moto_jax.study.runs import RunFiles
from moto_jax.types import Params


def gaps(models: Models, make_world: MakeWorld) -> Gaps:
    """Returns uncertainty and performance gap of the online checkpoints evaluated.

    The end of the offline phase is the first of them. eps_u along the expert's actions
    is set against the same along actions of the training data.

    Raises:
      ValueError: if no checkpoint has an evaluation, or the training data are gone.
    """
    evaluated = {
        (run.config["seeds"][0], step): row
        for _, runs in models.programs
        for run in runs.values()
        for step, row in _evaluations(run).items()
    }
    episodes, name, returned = _expert(models, make_world, evaluated)
    ask_expert = _uncertainty_along(models, episodes)
    ask_known = _uncertainty_along(models, _training_episodes(models))
    offline_updates = models.config.training.offline_updates
    points = []
    for run, step, params in checkpoints(
        models, lambda steps: tuple(step for step in steps if step >= offline_updates)
    ):
        seed = run.config["seeds"][0]
        if (seed, step) not in evaluated:
            continue
        keys = jax.random.split(jax.random.key(seed))
        raw = ask_expert(params["model"], keys[0])
        relative = raw / ask_known(params["model"], keys[1])
        gap = returned - evaluated[seed, step]["mean/return"]
        points.append((seed, step, relative, raw, gap))
    if not points:
        raise ValueError(
            f"no checkpoint of {models.system.label} on {models.system.task} from "
            f"update {offline_updates} on was evaluated at its step: train with a "
            "lower config.training.checkpoint_every, or a higher keep_checkpoints"
        )
    columns = map(np.array, zip(*points, strict=True))
    return Gaps(models.system.task, name, returned, *columns)


def _uncertainty_along(
    models: Models, episodes: Sequence[Episode]
) -> Callable[[Params, jax.Array], float]:
    """Returns (the model's parameters, key) -> mean u along the episodes' actions."""
    rows = max(models.rows, *(episode.num_rows for episode in episodes))
    batch = model_probes.padded_batch(episodes, models.world.label, rows)
    lengths = [episode.num_rows for episode in episodes]
    whole = model_probes.whole_windows(lengths, rows, models.probe.horizon)

    def ask(params: Params, key: jax.Array) -> float:
        uncertainty = models.probe.uncertainty(params, batch, key)
        return float(np.asarray(uncertainty)[whole].mean())

    return ask


def _training_episodes(models: Models) -> list[Episode]:
    """Returns some of the demonstrations that the models were trained on.

    Raises:
      ValueError: where none is long enough, or they are gone.
    """
    files = demonstration_files(models)
    order = np.random.default_rng(0).permutation(len(files))
    read = (read_episode(files[index]) for index in order)
    long = (one for one in read if one.num_rows > models.probe.horizon)
    episodes = list(itertools.islice(long, EPISODES))
    if not episodes:
        raise ValueError(
            "the demonstrations of the runs are gone, against which uncertainty is "
            "measured: put them back"
        )
    return episodes


def _evaluations(run: RunFiles) -> dict[int, Any]:
    """Returns step -> evaluation with a finite return."""
    return {
        row["step"]: row
        for row in run.rows
        if row["phase"].startswith("evaluation") and row.get("mean/return") is not None
    }


def _expert(
    models: Models, make_world: MakeWorld, evaluated: dict[tuple[int, int], Any]
) -> tuple[list[Episode], str, float]:
    """Returns an expert's successful episodes, who that is, and their mean return.

    It is the kept checkpoint with most successes in its evaluation; where it has none,
    then or here, the demonstrator. A demonstration ends once all is done: for its
    return it is taken to stay as it is up to the time limit.
    """
    best, score = None, (0.0, 0.0)
    for kept, runs in models.programs:
        for seed, step in evaluated:
            row = evaluated[seed, step]
            own = (row["mean/success"] or 0.0, row["mean/return"])
            if seed in runs and step in kept.steps and own[0] > 0 and own > score:
                best, score = (kept, seed, step), own
    if best is not None:
        kept, seed, step = best
        successful = _play(models, make_world, *best)
        if successful:
            name = f"{models.system.label}, seed {seed} after {step} updates"
            count = f"{len(successful)} successes of {EPISODES}"
            return successful, f"{name} ({count})", _mean_return(models, successful)
    episodes = models.demonstrations
    return (
        episodes,
        f"the scripted demonstrator ({len(episodes)} episodes)",
        _mean_return(models, episodes),
    )


def _play(
    models: Models,
    make_world: MakeWorld,
    kept: KeptCheckpoints,
    seed: int,
    step: int,
) -> list[Episode]:
    """Returns the successful ones of episodes with a checkpoint's mean policy."""
    index = list(kept.config.seeds).index(seed)
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf)[index : index + 1], kept.acting_params(step)
    )
    keys = jax.random.key(0)[None]
    plays = [
        Play(0, environment_seed(Purpose.EXPERTS, number=number))
        for number in range(EPISODES)
    ]
    config = models.config.copy_and_resolve_references()
    config.env.workers = min(config.env.workers, os.cpu_count() or 1)
    with make_world(config).open_stage() as stage:
        episodes = list(stage.player(kept.agent.policies["mean"])(params, keys, plays))
    return [episode for episode in episodes if succeeds(models.world, episode)]


def _mean_return(models: Models, episodes: Sequence[Episode]) -> float:
    steps = models.config.env.episode_steps
    returns = []
    for episode in episodes:
        reward = models.world.label(episode).reward[1:]
        stays = max(0, steps - len(reward)) * reward[-1]
        returns.append(float(reward[:steps].sum() + stays))
    return float(np.mean(returns))
