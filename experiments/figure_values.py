"""Checkpoints of MOTO, and what figures 1 and 4 of the paper ask of them."""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from moto_jax.acting.environment_seeds import Purpose, environment_seed
from moto_jax.data.episodes import Episode, read_episode, read_manifest
from moto_jax.data.rows import Label, first_rows
from moto_jax.learning.disagreement import DISAGREEMENTS
from moto_jax.learning.imagination import open_loop
from moto_jax.learning.model_based import make_actor
from moto_jax.run_layout import program_directory
from moto_jax.running.branching import dataset_directory
from moto_jax.running.restoring import KeptCheckpoints, open_checkpoints
from moto_jax.study import model_probes
from moto_jax.study.model_figures import Prediction, Rewards
from moto_jax.study.runs import RunFiles
from moto_jax.study.systems import System
from moto_jax.types import Batch, Config, Params
from moto_jax.worlds.sources import dataset_directories
from moto_jax.worlds.world import World

EPISODES = 10
# Rollouts from each first frame of those episodes.
_ROLLOUTS = 3
# Episodes whose end is predicted.
_PREDICTED = 4

# Sections of a configuration that decide what is compiled.
_COMPILED = ("agent", "world_model", "actor", "compute_dtype", "env", "moto")


# See `moto_jax.worlds.registry.make_world`.
MakeWorld = Callable[[Config], World]


class Probe(NamedTuple):
    """What is asked of a model, compiled once for all checkpoints and tasks.

    Attributes:
      predict: (params, batch, context rows, key) -> images, seen and then predicted.
      filter_rewards: (params, batch, key) -> [T, B].
      imagine_rewards: (params, image [N], key) -> [H + 1, N], with the mean policy.
      uncertainty: (params, batch, key) -> [T - H, B], along recorded actions.
      open_loop: (params, batch, key) -> `model_probes.OpenLoop`, along them too.
      horizon: H of the last two.
    """

    predict: Callable[..., jax.Array]
    filter_rewards: Callable[..., jax.Array]
    imagine_rewards: Callable[..., jax.Array]
    uncertainty: Callable[..., jax.Array]
    open_loop: Callable[..., model_probes.OpenLoop]
    horizon: int


class Models(NamedTuple):
    """A system's checkpoints on one task, of all its seeds.

    Attributes:
      system: whose they are.
      config: the runs'; they differ in their seeds alone.
      world: where they were trained.
      programs: checkpoints, and the runs they are of by seed, a program each.
      probe: asks them.
      demonstrations: held-out episodes that do all objects.
      rows: T of every batch: none of the episodes is longer.
    """

    system: System
    config: Config
    world: World
    programs: tuple[tuple[KeptCheckpoints, dict[int, RunFiles]], ...]
    probe: Probe
    demonstrations: list[Episode]
    rows: int


def make_probe(config: Config, model: Any, action_size: int) -> Probe:
    """Returns what asks models of a configuration.

    Args:
      config: the run's.
      model: the WorldModel.
      action_size: A.
    """
    _, policy = make_actor(config, action_size)

    def imagine_rewards(params: Params, image: jax.Array, key: jax.Array) -> jax.Array:
        act = policy(params["actor"])
        return model_probes.imagined_rewards(
            model,
            params["model"],
            lambda feature, key: act(feature).mode(),
            image,
            config.env.episode_steps,
            key,
        )

    horizon = config.moto.horizon
    disagreement = DISAGREEMENTS[config.moto.disagreement]

    def open_loop_of(params: Params, batch: Batch, key: jax.Array):
        return model_probes.open_loop_rollouts(
            model, params, batch, horizon, disagreement, key
        )

    return Probe(
        predict=jax.jit(functools.partial(open_loop, model), static_argnums=2),
        filter_rewards=jax.jit(
            functools.partial(model_probes.predicted_rewards, model)
        ),
        imagine_rewards=jax.jit(imagine_rewards),
        uncertainty=jax.jit(
            lambda params, batch, key: jnp.mean(
                open_loop_of(params, batch, key).uncertainty, axis=0
            )
        ),
        open_loop=jax.jit(open_loop_of),
        horizon=horizon,
    )


def open_models(
    system: System, make_world: MakeWorld, probes: dict[str, Probe]
) -> Models:
    """Returns a system's checkpoints with held-out demonstrations of its task.

    Args:
      system: whose agent has a model.
      make_world: where the demonstrations are made.
      probes: those made so far, by what they are compiled for; one may be added.

    Raises:
      ValueError: where there is no checkpoint, no model or no demonstration.
    """
    groups: dict[Path, dict[int, RunFiles]] = {}
    for run in system.runs:
        seed = run.config["seeds"][0]
        groups.setdefault(program_directory(run.path), {})[seed] = run
    programs = tuple((open_checkpoints(path), runs) for path, runs in groups.items())
    config, agent = programs[0][0].config, programs[0][0].agent
    if agent.model is None:
        raise ValueError(f"agent {config.agent} has no model to ask")
    world = make_world(config)
    world.prepare()
    episodes = demonstrations(world)
    sections = {name: config[name] for name in _COMPILED}
    key = json.dumps(sections, sort_keys=True, default=lambda value: value.to_dict())
    if key not in probes:
        probes[key] = make_probe(config, agent.model, episodes[0].action.shape[-1])
    longest = max(episode.num_rows for episode in episodes)
    rows = max(longest, config.env.episode_steps + 1)
    return Models(system, config, world, programs, probes[key], episodes, rows)


def demonstrations(world: World) -> list[Episode]:
    """Returns held-out demonstrations that succeed, at most `EPISODES`.

    Raises:
      ValueError: if none of three times as many does.
    """
    done = []
    for number in range(3 * EPISODES):
        seed = environment_seed(Purpose.HELD_OUT_DEMONSTRATIONS, number=number)
        episode = world.demonstrate(seed)
        if succeeds(world, episode):
            done.append(episode)
        if len(done) == EPISODES:
            break
    if not done:
        raise ValueError(
            f"no demonstration does all of {', '.join(world.events)}: draw runs of a "
            "task that the script can do"
        )
    return done


def succeeds(world: World, episode: Episode) -> bool:
    """Returns whether each of the world's events was so at some row."""
    return bool(world.label(episode).events.any(axis=0).all())


def every(steps: tuple[int, ...]) -> tuple[int, ...]:
    """Returns all of a program's checkpoints."""
    return steps


def newest(steps: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the last of a program's checkpoints."""
    return steps[-1:]


def checkpoints(
    models: Models, choose: Callable[[tuple[int, ...]], tuple[int, ...]] = every
) -> Iterator[tuple[RunFiles, int, Params]]:
    """Yields run, updates and acting parameters of each seed at each checkpoint.

    Args:
      models: whose checkpoints.
      choose: a program's checkpoints, by updates, oldest first -> those wanted.
    """
    for kept, runs in models.programs:
        for step in choose(kept.steps):
            params = kept.acting_params(step)
            for index, seed in enumerate(kept.config.seeds):
                if seed in runs:
                    own = jax.tree.map(
                        lambda leaf, i=index: np.asarray(leaf)[i], params
                    )
                    yield runs[seed], step, own


def predictions(models: Models) -> list[Prediction]:
    """Returns held-out demonstrations predicted after all objects but one are done."""
    episodes = models.demonstrations[:_PREDICTED]
    label = models.world.label
    contexts = [seen_rows(label(episode).events) for episode in episodes]
    context = max(contexts)
    starts = [context - own for own in contexts]
    lengths = [episode.num_rows for episode in episodes]
    rows = max(start + own for start, own in zip(starts, lengths, strict=True))
    batch = model_probes.padded_batch(episodes, label, rows, starts)
    predicted = []
    for run, _, params in checkpoints(models, newest):
        seed = run.config["seeds"][0]
        images = models.probe.predict(
            params["model"], batch, context, jax.random.key(seed)
        )
        images = np.asarray(images)
        for index, episode in enumerate(episodes):
            end = starts[index] + lengths[index]
            predicted.append(
                Prediction(
                    truth=episode.image,
                    prediction=images[starts[index] : end, index],
                    context=contexts[index],
                    name=f"episode {index} seed {seed}",
                )
            )
    return predicted


def seen_rows(events: np.ndarray) -> int:
    """Returns how many rows show all events but the last one.

    Args:
      events: bool [L + 1, K].
    """
    done = sorted(first_rows(events).tolist())
    # One row more, since it is the next that shows the hand leave; but at least one is
    # left to be predicted.
    seen = (done[-2] if len(done) > 1 else 0) + 2
    return min(seen, len(events) - 1)


def rewards(models: Models) -> Rewards:
    """Returns the rewards that the models of all seeds predict.

    Asked are the newest that saw demonstrations alone; of a program that kept none the
    newest of all.
    """
    offline_updates = models.config.training.offline_updates

    def choose(steps: tuple[int, ...]) -> tuple[int, ...]:
        return newest(tuple(step for step in steps if step <= offline_updates) or steps)

    episodes = models.demonstrations
    batch = model_probes.padded_batch(episodes, models.world.label, models.rows)
    lengths = np.array([episode.num_rows for episode in episodes])
    over = np.arange(models.rows)[:, None] >= lengths
    true = np.where(over, np.nan, batch.reward)
    image = np.repeat(batch.image[0], _ROLLOUTS, axis=0)
    predicted, imagined, online = [], [], False
    for run, updates, params in checkpoints(models, choose):
        online = online or updates > offline_updates
        keys = jax.random.split(jax.random.key(run.config["seeds"][0]))
        filtered = models.probe.filter_rewards(params["model"], batch, keys[0])
        predicted.append(np.where(over, np.nan, filtered))
        imagined.append(
            np.asarray(models.probe.imagine_rewards(params, image, keys[1]))
        )
    label = models.world.label
    demonstrated = _highest(demonstration_files(models), label)
    collected = _highest(_online_files(models), label) if online else float("nan")
    return Rewards(
        task=models.system.task,
        true=true,
        predicted=np.concatenate(predicted, axis=1),
        imagined=np.concatenate(imagined, axis=1),
        seeds=len(predicted),
        demonstrated=demonstrated,
        trained=float(np.fmax(demonstrated, collected)),
        online=online,
    )


def demonstration_files(models: Models) -> list[Path]:
    """Returns the files of the runs' demonstrations, none where they are gone."""
    run = program_directory(models.system.runs[0].path)
    path = dataset_directory(models.config, run)
    if not path.is_dir():
        return []
    datasets = dataset_directories(models.config.data.source, path)
    return [
        own / record.file
        for own in datasets.values()
        for record in read_manifest(own).episodes
    ]


def _online_files(models: Models) -> list[Path]:
    return [
        file
        for run in models.system.runs
        for file in (run.path / "online").glob("*.npz")
    ]


def _highest(files: Sequence[Path], label: Label) -> float:
    """Returns the highest reward in episodes' files, NaN without any."""
    best = float("nan")
    for file in files:
        best = float(np.fmax(best, label(read_episode(file)).reward[1:].max()))
    return best
