r"""Plays episodes with a policy of the repository, counts objects, writes videos.

    python -m experiments.watch
    python -m experiments.watch --policy=FILE.npz --episodes=20 --which=sampled

Needs no training: `experiments.export` wrote the policy, and the card beside it says
what it was trained on. Videos are of the episodes with most and with fewest objects.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging

from experiments.command_line import fail, prepare_jax, run_program

_POLICY = flags.DEFINE_string(
    "policy",
    str(Path(__file__).parent / "policies" / "kitchen-mixed.npz"),
    "File of a policy, written by experiments.export.",
)
_EPISODES = flags.DEFINE_integer("episodes", 10, "Episodes to play.", lower_bound=1)
_WHICH = flags.DEFINE_enum(
    "which",
    "mean",
    ["mean", "sampled"],
    "Whether the policy's mean or a sample of it acts.",
)
_WORKERS = flags.DEFINE_integer("workers", 2, "Environment processes.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "runs/watch", "Directory of the videos.")
_GIF = flags.DEFINE_bool(
    "gif", False, "Write the best episode as a GIF too, as the README shows it."
)


def main(argv: Sequence[str]) -> None:
    """Plays and counts; what is wrong is said in one sentence."""
    del argv
    logging.set_verbosity(logging.WARNING)
    path = Path(_POLICY.value)
    if not path.exists():
        fail(
            f"there is no policy {path}: train one with `make kitchen`, then write it "
            "with `python -m experiments.export --checkpoint=RUN "
            f"--out={path.with_suffix('')}`"
        )
    prepare_jax()
    from experiments.playing import FAULTS

    try:
        _watch(path)
    except FAULTS as error:
        fail(error)


def _watch(path: Path) -> None:
    import jax

    from experiments.playing import play_episodes, show
    from moto_jax.acting.environment_seeds import Purpose, environment_seed
    from moto_jax.acting.videos import write_videos
    from moto_jax.running.exports import read_export
    from moto_jax.worlds.registry import make_world

    trained = read_export(path)
    trained.config.env.workers = _WORKERS.value
    world = make_world(trained.config)
    world.prepare()
    out = Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    # Of the held-out tests: no run has met them, neither in its data nor evaluated.
    seeds = [
        environment_seed(Purpose.TEST, number=number)
        for number in range(_EPISODES.value)
    ]
    name = _WHICH.value
    keys = jax.random.key(0)[None]
    results = play_episodes(trained, world, [name], keys, seeds)
    write_videos(out, name, results[name], world.label, _GIF.value)
    show(trained, results)
    for what, ending in (
        ("best episode", "best.mp4"),
        ("in one picture", "best.png"),
        *([("as a GIF", "best.gif")] if _GIF.value else []),
        ("worst episode", "worst.mp4"),
    ):
        print(f"{what:<15} {out / f'{name}-{ending}'}")


if __name__ == "__main__":
    run_program(main)
