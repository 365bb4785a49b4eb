r"""How far policies' actions are from what the demonstrator meant, on unseen episodes.

    python -m experiments.action_errors runs/a/checkpoints/1000 runs/b --episodes=24

Plays nothing: the mean policy of each checkpoint sees demonstrations of the whole task
that no dataset has, with the demonstrator's noise, and says at each row what it would
do. Prints the root of the mean squared error over the 20 actions before each object is
done, and over all objects. It tells two checkpoints apart long before their success
does, of which twenty episodes know no more than to 20 %.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import flags, logging

from experiments.command_line import fail, prepare_jax, run_program

if TYPE_CHECKING:
    from moto_jax.data.episodes import Episode
    from moto_jax.restoring import Restored

_EPISODES = flags.DEFINE_integer(
    "episodes", 24, "Demonstrations, two seconds each to make.", lower_bound=1
)
_ROWS = flags.DEFINE_integer(
    "rows", 20, "Actions before an object is done that are compared.", lower_bound=1
)
_SEED = flags.DEFINE_integer(
    "seed", None, "Which of the runs' seeds; may be left out where there is one."
)
_CSV = flags.DEFINE_string("csv", None, "Where to write the figures, if anywhere.")


def main(argv: Sequence[str]) -> None:
    """Prints a line a checkpoint; what is wrong is said in one sentence."""
    logging.set_verbosity(logging.WARNING)
    prepare_jax()
    from moto_jax.envs.graphics import GraphicsError

    try:
        if len(argv) < 2:
            raise ValueError("no checkpoint to look at: give directories of runs")
        rows = _compare(argv[1:])
        if _CSV.value:
            _write_csv(Path(_CSV.value), rows)
    except (ValueError, OSError, GraphicsError) as error:
        fail(error)


def _compare(paths: Sequence[str]) -> list[dict[str, object]]:
    from moto_jax.assembly import demonstration, prepare
    from moto_jax.envs import tasks
    from moto_jax.envs.seeds import Purpose, environment_seed
    from moto_jax.restoring import restore_agent

    episodes: list[Episode] = []
    made_for, rows = None, []
    for path in paths:
        restored = restore_agent(path, _SEED.value)
        config = restored.config
        drawn = {**config.env, "workers": None}
        section = drawn, config.task, config.data.action_noise
        if made_for is None:
            made_for = section
            prepare(config)
            for number in range(_EPISODES.value):
                seed = environment_seed(Purpose.HELD_OUT_DEMONSTRATIONS, number=number)
                task = tasks.resolve_task(config.task)
                episodes.append(demonstration(config, task, seed))
        elif section != made_for:
            raise ValueError(
                f"{path} is of another environment, task or noise than {paths[0]}: "
                "compare checkpoints of one"
            )
        errors = _errors(restored, episodes)
        rows.append({"checkpoint": path, **errors})
        figures = ", ".join(f"{name} {error:.4f}" for name, error in errors.items())
        print(f"{path}: {figures}", flush=True)
    return rows


def _errors(restored: "Restored", episodes: Sequence["Episode"]) -> dict[str, float]:
    """Returns the root of the mean squared error by object, and over all."""
    import jax

    from moto_jax.diagnostics import actions_along, squared_errors_before
    from moto_jax.envs import tasks

    task = tasks.resolve_task(restored.config.task)
    columns = tasks.object_columns(task)
    params = restored.agent.acting_params(restored.state)
    policy = restored.agent.policies["mean"]
    along = jax.jit(lambda *recorded: actions_along(policy, params, *recorded))
    longest = max(len(episode.action) for episode in episodes)
    found = []
    for number, episode in enumerate(episodes):
        rows = len(episode.action)
        still = [(0, longest - rows), (0, 0)]
        image = np.pad(episode.image[:rows], [*still, (0, 0), (0, 0)])
        executed = np.pad(episode.action, still)
        chosen = np.asarray(along(image, executed, jax.random.key(number)))[:rows]
        meant = episode.intended_action
        meant = episode.action if meant is None else meant
        in_goal = episode.objects_in_goal[:, columns]
        found.append(squared_errors_before(chosen, meant, in_goal, _ROWS.value))
    by_object = np.array(found, float)
    if np.isnan(by_object).all(axis=0).any():
        raise ValueError("no demonstration does every object: raise --episodes")
    named = zip(task, np.sqrt(np.nanmean(by_object, axis=0)), strict=True)
    return {name: float(error) for name, error in named} | {
        "all": float(np.sqrt(np.nanmean(by_object)))
    }


def _write_csv(path: Path, rows: Sequence[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    run_program(main, positional=True)
