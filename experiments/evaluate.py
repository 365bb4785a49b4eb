r"""Plays episodes with a checkpoint's or an exported policy; needs nothing else.

    python -m experiments.evaluate --checkpoint=runs/mixed-cpu-moto-seed0 --video
    python -m experiments.evaluate --checkpoint=RUN/checkpoints/1500 --policy=mean \
        --task="kettle, microwave" --episodes=50
    python -m experiments.evaluate --checkpoint=runs/mixed-cpu-moto-seeds0-1-2 --seed=2
    python -m experiments.evaluate --checkpoint=experiments/policies/kitchen-mixed.npz

Prints each policy's rates and writes them to `evaluation.json`, beside the videos.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags, logging

from experiments.command_line import fail, prepare_jax, run_program
from moto_jax.run_layout import seed_directory

if TYPE_CHECKING:
    from moto_jax.acting.evaluation import EvaluationResult
    from moto_jax.running.exports import TrainedPolicy
    from moto_jax.worlds.world import World

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "Directory of a run, or of one step of its checkpoints; or an exported policy's "
    "file.",
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
    "video", False, "Write each policy's best and worst episode as mp4."
)
_OUT = flags.DEFINE_string(
    "out",
    None,
    "Directory to write to; RUN/evaluation-STEP where not given, of an exported policy "
    "runs/NAME/evaluation-STEP.",
)


def main(argv: Sequence[str]) -> None:
    """Evaluates; what is wrong is said in one sentence."""
    del argv
    logging.set_verbosity(logging.WARNING)
    prepare_jax()
    from experiments.playing import FAULTS

    try:
        _evaluate()
    except FAULTS as error:
        fail(error)


def _evaluate() -> None:
    from experiments.playing import show
    from moto_jax.acting.environment_seeds import Purpose, environment_seed
    from moto_jax.worlds.registry import make_world

    trained, default_out = _open()
    config = trained.config
    if _TASK.value is not None:
        config.task = _TASK.value
    if _WORKERS.value is not None:
        config.env.workers = _WORKERS.value
    world = make_world(config)
    world.prepare()
    first = _FIRST_EPISODE.value
    seeds = [
        environment_seed(Purpose.TEST, number=number)
        for number in range(first, first + _EPISODES.value)
    ]
    out = Path(_OUT.value) if _OUT.value else default_out
    out.mkdir(parents=True, exist_ok=True)
    results = _play(trained, world, seeds)
    _write(out, trained, world, results)
    show(trained, results)
    print(f"written to {out}")


def _open() -> tuple["TrainedPolicy", Path]:
    """Returns the policy, and the directory to write to unless --out says."""
    from moto_jax.running.loading import read_policy

    trained, checkpoint = read_policy(_CHECKPOINT.value, _SEED.value)
    if checkpoint is None:
        parent = Path("runs", Path(_CHECKPOINT.value).stem)
    else:
        # In the seed's directory, or beside a step that lies on its own.
        parent = checkpoint.parent
        if parent.name == "checkpoints":
            parent = seed_directory(parent.parent, trained.config.seeds, trained.seed)
    return trained, parent / f"evaluation-{trained.updates}"


def _play(
    trained: "TrainedPolicy", world: "World", seeds: Sequence[int]
) -> dict[str, "EvaluationResult"]:
    import jax

    from experiments.playing import play_episodes

    names = ["mean", "sampled"] if _POLICY.value == "both" else [_POLICY.value]
    # Each episode folds its environment seed in, so that it is the same in any command.
    keys = jax.random.key(0)[None]
    return play_episodes(trained, world, names, keys, seeds)


def _write(
    out: Path,
    trained: "TrainedPolicy",
    world: "World",
    results: Mapping[str, "EvaluationResult"],
) -> None:
    """Writes the figures, then the videos."""
    from moto_jax.acting.videos import write_videos
    from moto_jax.running import provenance
    from moto_jax.running.run_directory import write_json

    report = {
        "command": shlex.join(["python", "-m", "experiments.evaluate", *sys.argv[1:]]),
        "updates": trained.updates,
        "task": world.events,
        "seed": trained.seed,
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
    if _VIDEO.value:
        for name, result in results.items():
            write_videos(out, name, result, world.label)


if __name__ == "__main__":
    run_program(main)
