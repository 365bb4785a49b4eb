r"""Writes a checkpoint's policy as one small file, and a card that says what it is.

    python -m experiments.export --checkpoint=runs/mixed-cpu-moto-seed0 \
        --out=experiments/policies/kitchen-mixed
    python -m experiments.export --checkpoint=RUN --seed=2 --out=FOLDER/NAME \
        --evaluation=RUN/seed2/evaluation-1200/evaluation.json

NAME.npz holds what acting needs, in half precision; `experiments.watch` plays it.
NAME.md says what it was trained on, how long, and how many objects it completes: in the
run's last evaluations, and in an evaluation of `experiments.evaluate` where one is
given. It is made from the run's directory, in which the checkpoint must lie.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging

from experiments.command_line import fail, prepare_jax, run_program
from moto_jax.run_layout import seed_directory

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "Directory of a run, or of one step of its checkpoints.",
    required=True,
)
_SEED = flags.DEFINE_integer(
    "seed", None, "Which of the run's seeds; may be left out where there is one."
)
_OUT = flags.DEFINE_string(
    "out", None, "Folder and name of the two files, without ending.", required=True
)
_EVALUATION = flags.DEFINE_string(
    "evaluation", None, "evaluation.json of experiments.evaluate, of the same policy."
)


def main(argv: Sequence[str]) -> None:
    """Exports; what is wrong is said in one sentence."""
    del argv
    logging.set_verbosity(logging.WARNING)
    prepare_jax()
    try:
        _export()
    except (ValueError, OSError) as error:
        fail(error)


def _export() -> None:
    from experiments.policy_card import make_card
    from moto_jax.data.files import write_atomically
    from moto_jax.running.exports import SUFFIX, export_bytes, trained_policy
    from moto_jax.running.restoring import restore_agent

    restored = restore_agent(_CHECKPOINT.value, _SEED.value)
    trained = trained_policy(restored)
    run = restored.path.parents[1]
    out = Path(_OUT.value.removesuffix(SUFFIX))
    policy, card = (out.with_name(out.name + ending) for ending in (SUFFIX, ".md"))
    contents = export_bytes(trained)
    megabytes = len(contents) / 1e6
    text = make_card(
        policy,
        trained,
        megabytes,
        seed_directory(run, trained.config.seeds, trained.seed),
        Path(_EVALUATION.value) if _EVALUATION.value else None,
        shlex.join(["python", "-m", "experiments.export", *sys.argv[1:]]),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(policy, contents)
    write_atomically(card, text.encode())
    print(f"policy  {policy}, {megabytes:.2f} MB\ncard    {card}")


if __name__ == "__main__":
    run_program(main)
