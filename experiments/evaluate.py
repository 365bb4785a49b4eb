r"""Plays episodes with a checkpoint's policy; needs nothing but the checkpoint.

    python -m experiments.evaluate --checkpoint=runs/mixed-cpu-moto-seed0 --video
    python -m experiments.evaluate --checkpoint=RUN/checkpoints/1500 --policy=mean \
        --task="kettle, microwave" --episodes=50
    python -m experiments.evaluate --checkpoint=runs/mixed-cpu-moto-seeds0-1-2 --seed=2

Prints each policy's rates and writes them to `evaluation.json`, beside the videos.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags, logging

from experiments.command_line import fail, prepare_jax, run_program
from moto_jax.analysis.runs import seed_directory

if TYPE_CHECKING:
    from moto_jax.evaluation import EvaluationResult
    from moto_jax.restoring import Restored

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "Directory of a run, or of one step of its checkpoints.",
    required=True,
)
_EPISODES = flags.DEFINE_integer(
    "episodes", 20, "Episodes with each policy.", lower_bound=1
)
_POLICY = flags.DEFINE_enum(
    "policy", "both", ["mean", "sampled", "both"], "Which policy plays."
)
_TASK = flags.DEFINE_string(
    "task", None, "Task, or objects separated by commas; the run's where not given."
)
_SEED = flags.DEFINE_integer(
    "seed", None, "Which of the run's seeds; may be left out where there is one."
)
_FIRST_EPISODE = flags.DEFINE_integer(
    "first_episode",
    0,
    "Number of the first episode, the others follow. Episodes of equal numbers start "
    "alike for all runs, and no run has trained or been evaluated on one.",
    lower_bound=0,
)
_WORKERS = flags.DEFINE_integer(
    "workers", None, "Environment processes; the run's where not given.", lower_bound=1
)
_VIDEO = flags.DEFINE_bool(
    "video", False, "Write each policy's best and last episode as mp4."
)
_OUT = flags.DEFINE_string(
    "out", None, "Directory to write to; RUN/evaluation-STEP where not given."
)


def main(argv: Sequence[str]) -> None:
    """Evaluates; what is wrong is said in one sentence."""
    del argv
    logging.set_verbosity(logging.WARNING)
    prepare_jax()
    from moto_jax.collection import WorkerError
    from moto_jax.envs.graphics import GraphicsError

    faults = (ValueError, OSError, FloatingPointError, GraphicsError, WorkerError)
    try:
        _evaluate()
    except faults as error:
        fail(error)


def _evaluate() -> None:
    from moto_jax.assembly import prepare
    from moto_jax.envs import tasks
    from moto_jax.envs.seeds import Purpose, environment_seed
    from moto_jax.restoring import restore_agent

    restored = restore_agent(_CHECKPOINT.value, _SEED.value)
    config = restored.config
    prepare(config)
    if _TASK.value is not None:
        config.task = _TASK.value
    if _WORKERS.value is not None:
        config.env.workers = _WORKERS.value
    tasks.resolve_task(config.task)
    first = _FIRST_EPISODE.value
    seeds = [
        environment_seed(Purpose.TEST, number=number)
        for number in range(first, first + _EPISODES.value)
    ]
    out = Path(_OUT.value) if _OUT.value else _default_out(restored)
    out.mkdir(parents=True, exist_ok=True)
    results = _play(restored, seeds)
    _write(out, restored, results)
    _show(restored, results)
    print(f"written to {out}")


def _default_out(restored: "Restored") -> Path:
    """Returns a directory in the seed's, or beside a step that lies on its own."""
    parent = restored.path.parent
    if parent.name == "checkpoints":
        parent = seed_directory(parent.parent, restored.config.seeds, restored.seed)
    return parent / f"evaluation-{restored.metadata['updates']}"


def _play(restored: "Restored", seeds: Sequence[int]) -> dict[str, "EvaluationResult"]:
    import jax
    import numpy as np

    from moto_jax.assembly import make_stage
    from moto_jax.evaluation import evaluate

    names = ["mean", "sampled"] if _POLICY.value == "both" else [_POLICY.value]
    params = restored.agent.acting_params(restored.state)
    params = jax.tree.map(lambda leaf: np.asarray(leaf)[None], params)
    # Each episode folds its environment seed in, so that it is the same in any command.
    keys = jax.random.key(0)[None]
    results = {}
    with make_stage(restored.config) as stage:
        for name in names:
            print(f"{name} policy: {len(seeds)} episodes", file=sys.stderr, flush=True)
            results[name] = evaluate(
                stage.player(restored.agent.policies[name]),
                params,
                keys,
                seeds,
                restored.config.task,
            )
    return results


def _write(
    out: Path, restored: "Restored", results: Mapping[str, "EvaluationResult"]
) -> None:
    """Writes the videos, then the figures."""
    from moto_jax import provenance
    from moto_jax.evaluation import write_video
    from moto_jax.run_directory import write_json

    if _VIDEO.value:
        for name, result in results.items():
            write_video(out / f"{name}-best.mp4", result.best.image)
            write_video(out / f"{name}-last.mp4", result.last.image)
    report = {
        "command": shlex.join(["python", "-m", "experiments.evaluate", *sys.argv[1:]]),
        "updates": restored.metadata["updates"],
        "task": next(iter(results.values())).task,
        "seed": restored.seed,
        "first_episode": _FIRST_EPISODE.value,
        "policies": {
            name: {
                **result.summary(),
                "objects_by_episode": result.reached.sum(axis=1).tolist(),
                "return_by_episode": result.returns.tolist(),
            }
            for name, result in results.items()
        },
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
    }
    write_json(out / "evaluation.json", report)


def _show(restored: "Restored", results: Mapping[str, "EvaluationResult"]) -> None:
    """Prints a table with a column a policy."""
    from rich.console import Console
    from rich.table import Table

    summaries = {name: result.summary() for name, result in results.items()}
    objects = next(iter(results.values())).task
    table = Table(
        title=f"seed {restored.seed}, {restored.metadata['updates']} updates, "
        f"{_EPISODES.value} episodes, 95 % intervals"
    )
    table.add_column("")
    for name in summaries:
        table.add_column(f"{name} policy")

    def add(label: str, figure: str, interval: bool = False) -> None:
        cells = []
        for one in summaries.values():
            cell = f"{one[figure]:.2f}"
            if interval:
                cell += f"  ({one[f'{figure}_low']:.2f} to {one[f'{figure}_high']:.2f})"
            cells.append(cell)
        table.add_row(label, *cells)

    for name in objects:
        add(name, f"reached/{name}")
    table.add_section()
    add(f"objects of {len(objects)}", "objects", interval=True)
    add("success", "success", interval=True)
    add("success at the end", "success_at_end")
    add("return", "return")
    Console().print(table)


if __name__ == "__main__":
    run_program(main)
