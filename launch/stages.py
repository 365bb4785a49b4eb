r"""The real kitchen's `partial`, in runs that follow one another, by one command.

    python -m launch.stages --seed=2 --out=runs/kitchen-partial
    python -m launch.stages --seed=2 --override=data.directory=runs/demos

No demonstration does the whole task. The way to the fourth object is found by the value
term and denied or confirmed online; once the replay has successes, the term makes the
policy swing, and cloning them does not (results/kitchen_tuning.md). So each run begins
with what the one before it left, and hears the term less. A run that fails ends the
command; the same command goes on with what is not done yet.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from experiments.command_line import fail, run_program
from experiments.configs.base import SIZES
from launch.local import run_all
from launch.runs import PROGRAM, SweepRun
from launch.status import print_standing, read_status
from launch.tables import check_configuration, parse_overrides

_SEED = flags.DEFINE_integer("seed", 0, "Seed of every run.", lower_bound=0)
_SIZE = flags.DEFINE_enum("size", "desktop", [*SIZES], "Preset of every run.")
_OUT = flags.DEFINE_string("out", "runs/kitchen-partial", "Directory of the runs.")
_OVERRIDE = flags.DEFINE_multi_string(
    "override", [], "key=value of the configuration, for every run; may be repeated."
)

# What follows the first run, which has the offline phase.
_ONLINE = {"training.offline_updates": "0"}
_PREFER = {**_ONLINE, "replay.prefer_successes": "true"}
_CLONE = {
    **_PREFER,
    "moto.value_scale": "0.01",
    "replay.behaviour_share": "0.75",
    "replay.online_share": "0.6",
    "training.online_episodes": "60",
}

# Name of a run -> what it has otherwise than the preset, in their order.
STAGES: Mapping[str, Mapping[str, str]] = {
    "explore": {"training.online_episodes": "50"},
    "prefer": {
        **_PREFER,
        "moto.value_scale": "0.25",
        "training.online_episodes": "84",
    },
    "clone": _CLONE,
    "clone_more": _CLONE,
}


def stage_runs(
    size: str,
    seed: int,
    out: Path,
    overrides: Mapping[str, str],
    program: tuple[str, ...] = PROGRAM,
) -> list[SweepRun]:
    """Returns the runs of `STAGES` in order; each begins with the one before it.

    Args:
      size: preset of every run.
      seed: of every run.
      out: directory of the runs.
      overrides: key -> value, for every run.
      program: words of every command before its flags.

    Raises:
      ValueError: if an override is a key that the stages themselves set.
    """
    varied = {"init_from", "seeds"}.union(*STAGES.values())
    for key in overrides:
        if key in varied:
            raise ValueError(f"--override={key}=...: the stages themselves set {key}")
    runs: list[SweepRun] = []
    for name, own in STAGES.items():
        before = {"init_from": str(runs[-1].workdir)} if runs else {}
        runs.append(
            SweepRun(
                workdir=out / f"partial-{name}-seed{seed}",
                config=f"experiments/configs/partial.py:{size}",
                overrides={**overrides, **own, **before, "seeds": str(seed)},
                program=program,
            )
        )
    return runs


def main(argv: Sequence[str]) -> None:
    """Does the runs in order and prints how they stand; errors in one sentence."""
    del argv
    out, stopped_by = Path(_OUT.value), None
    try:
        overrides = parse_overrides(_OVERRIDE.value)
        runs = stage_runs(_SIZE.value, _SEED.value, out, overrides)
        for run in runs:
            check_configuration(run)
        for run in runs:
            if read_status(run).state != "done":
                stopped_by = run_all([run], 1, lambda line: print(line, flush=True))
            if read_status(run).state != "done":
                break
    except (ValueError, OSError) as error:
        fail(error)
    all_done = print_standing("partial, in stages", runs, out)
    if stopped_by is not None:
        sys.exit(128 + stopped_by)
    sys.exit(0 if all_done else 1)


if __name__ == "__main__":
    run_program(main)
