r"""How far policies' actions are from what the demonstrator meant, on unseen episodes.

    python -m experiments.action_errors runs/a/checkpoints/1000 runs/b --episodes=24

Plays nothing: the mean policy of each checkpoint sees demonstrations of the whole task
that no dataset has, with the demonstrator's noise, and says at each row what it would
do. Prints the root of the mean squared error over the 20 actions before each object is
done, and over all objects, with bootstrap intervals of 95 % over the demonstrations,
which are the same for every checkpoint.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import flags, logging

from experiments.command_line import fail, prepare_jax, run_program
from moto_jax.data.files import write_atomically
from moto_jax.tables import comma_separated

if TYPE_CHECKING:
    from moto_jax.data.episodes import Episode
    from moto_jax.running.restoring import Restored

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
    from moto_jax.worlds.graphics import GraphicsError

    try:
        if len(argv) < 2:
            raise ValueError("no checkpoint to look at: give directories of runs")
        _compare(argv[1:])
    except (ValueError, OSError, GraphicsError) as error:
        fail(error)


def _compare(paths: Sequence[str]) -> None:
    from moto_jax.acting.environment_seeds import Purpose, environment_seed
    from moto_jax.running.restoring import restore_agent
    from moto_jax.worlds.registry import make_world

    episodes: list[Episode] = []
    made_for, rows = None, []
    for path in paths:
        restored = restore_agent(path, _SEED.value)
        config = restored.config
        drawn = {**config.env, "workers": None}
        section = drawn, config.task, config.data.action_noise
        if made_for is None:
            made_for = section
            world = make_world(config)
            world.prepare()
            for number in range(_EPISODES.value):
                seed = environment_seed(Purpose.HELD_OUT_DEMONSTRATIONS, number=number)
                episodes.append(world.demonstrate(seed))
        elif section != made_for:
            raise ValueError(
                f"{path} is of another environment, task or noise than {paths[0]}: "
                "compare checkpoints of one"
            )
        errors = _errors(restored, episodes)
        for name, (error, low, high) in errors.items():
            named = {"checkpoint": path, "object": name}
            rows.append({**named, "error": error, "low": low, "high": high})
        figures = ", ".join(
            f"{name} {error:.4f} ({low:.4f} to {high:.4f})"
            for name, (error, low, high) in errors.items()
        )
        print(f"{path}: {figures}", flush=True)
        # After each, so that one which cannot be read costs none of the others.
        if _CSV.value:
            table = Path(_CSV.value)
            table.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(table, comma_separated(rows).encode())


def _errors(
    restored: "Restored", episodes: Sequence["Episode"]
) -> dict[str, tuple[float, float, float]]:
    """Returns root mean squared error, low and high, by object and over all."""
    import jax

    from moto_jax.statistics import bootstrap_interval
    from moto_jax.study.model_probes import actions_along, squared_action_errors
    from moto_jax.worlds.registry import make_world

    world = make_world(restored.config)
    params = restored.agent.acting_params(restored.state)
    policy = restored.agent.policies["mean"]
    along = jax.jit(lambda *recorded: actions_along(policy, params, *recorded))
    found = squared_action_errors(along, episodes, world.label, _ROWS.value)
    squared = {
        name: [error for error in column if error is not None]
        for name, column in zip(world.events, zip(*found, strict=True), strict=True)
    }
    for name, values in squared.items():
        if not values:
            raise ValueError(f"no demonstration does the {name}: raise --episodes")
    squared["all"] = [
        float(np.mean([error for error in errors if error is not None]))
        for errors in found
        if any(error is not None for error in errors)
    ]
    return {
        name: _roots(float(np.mean(values)), *bootstrap_interval(np.array(values)))
        for name, values in squared.items()
    }


def _roots(mean: float, low: float, high: float) -> tuple[float, float, float]:
    return mean**0.5, low**0.5, high**0.5


if __name__ == "__main__":
    run_program(main, positional=True)
