r"""The paper's figures as sweeps: lists their runs, does them here or on a cluster.

    python -m launch.sweeps --figure=2 --size=cpu --run=local
    python -m launch.sweeps --figure=3 --size=cpu --seeds=5 --run=local --jobs=2
    python -m launch.sweeps --figure=3 --seeds=5 --run=slurm --partition=gpu --hours=24

Without --seeds and --tasks they are those of `launch.tables.PLANS`, whose budget holds
too unless an --override says otherwise. The same command goes on with what is not done
yet; without --run it tells how the runs stand. A run that fails stops no other. Once
all are done here, their table is written. Figures whose --out is the same share the
runs that they have in common.
"""

import importlib.util
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments.command_line import fail, run_program
from experiments.configs.base import SIZES
from launch.local import run_all
from launch.runs import SweepRun
from launch.status import print_standing, read_status
from launch.tables import (
    FIGURES,
    PLANS,
    TASKS,
    check_configuration,
    choose,
    parse_overrides,
    sweep_runs,
)

_FIGURE = flags.DEFINE_enum(
    "figure", None, [*FIGURES], "Figure of the paper, all, or trials.", required=True
)
_SIZE = flags.DEFINE_enum("size", "full", [*SIZES], "Preset of every run.")
_TASKS = flags.DEFINE_multi_enum(
    "tasks", None, [*TASKS], "Task of the paper; may be repeated. By the size's plan."
)
_SEEDS = flags.DEFINE_integer(
    "seeds",
    None,
    "Seeds a setting: 0 to one less than this. By the size's plan.",
    lower_bound=1,
)
_ONLY = flags.DEFINE_multi_string(
    "only", [], "Setting of the figure, such as moto; may be repeated."
)
_SEEDS_PER_RUN = flags.DEFINE_integer(
    "seeds_per_run",
    None,
    "Seeds that one program trains together; all where not given.",
    lower_bound=1,
)
_OUT = flags.DEFINE_string(
    "out", None, "Directory of the runs; runs/figureFIGURE-SIZE where not given."
)
_OVERRIDE = flags.DEFINE_multi_string(
    "override", [], "key=value of the configuration, for every run; may be repeated."
)
_TABLE = flags.DEFINE_string(
    "table",
    None,
    "local: where to tabulate the runs once all are done, without .md and .csv; "
    "OUT/table where not given.",
)
_RUN = flags.DEFINE_enum(
    "run", "list", ["list", "local", "slurm"], "Where to do what is not done yet."
)
_COMMANDS = flags.DEFINE_bool("commands", False, "Print the command of each run too.")
_JOBS = flags.DEFINE_integer("jobs", 1, "local: runs at once.", lower_bound=1)
_PARTITION = flags.DEFINE_string("partition", "", "slurm: partition of the jobs.")
_GPUS = flags.DEFINE_integer("gpus", 1, "slurm: GPUs a job.", lower_bound=0)
_CPUS = flags.DEFINE_integer("cpus", 16, "slurm: CPU cores a job.", lower_bound=1)
_MEMORY_GB = flags.DEFINE_integer("memory_gb", 64, "slurm: GB a job.", lower_bound=1)
_HOURS = flags.DEFINE_float(
    "hours", 24.0, "slurm: wall time of a job, which then is queued again.", 0.1
)
_ARRAY_PARALLELISM = flags.DEFINE_integer(
    "array_parallelism", 64, "slurm: jobs at once.", lower_bound=1
)


def main(argv: Sequence[str]) -> None:
    """Does what is asked and prints how the runs stand; errors in one sentence."""
    del argv
    named = {"all": "all figures", "trials": "trials of the other systems' numbers"}
    figure = named.get(_FIGURE.value, f"figure {_FIGURE.value}")
    title = f"{figure}, {_SIZE.value}"
    out = Path(_OUT.value or f"runs/figure{_FIGURE.value}-{_SIZE.value}")
    plan = PLANS[_SIZE.value]
    asked = _SEEDS.value
    seeds_of = plan.seeds_of if asked is None else lambda label: range(asked)
    stopped_by = None
    try:
        rows = (
            FIGURES[_FIGURE.value](_TASKS.value)
            if _TASKS.value
            else plan.rows(_FIGURE.value)
        )
        overrides = parse_overrides(_OVERRIDE.value)
        runs = sweep_runs(
            choose(rows, _ONLY.value),
            size=_SIZE.value,
            seeds_of=seeds_of,
            seeds_per_run=_SEEDS_PER_RUN.value,
            overrides_of=lambda label: {**plan.overrides_of(label), **overrides},
            out=out,
        )
        for run in runs:
            check_configuration(run)
        if _RUN.value == "local":
            stopped_by = run_all(_unfinished(runs), _JOBS.value, _say)
        elif _RUN.value == "slurm":
            _submit(_unfinished(runs), out)
    except (ValueError, OSError, RuntimeError) as error:
        fail(error)
    all_done = print_standing(title, runs, out)
    if _COMMANDS.value:
        for run in runs:
            # Not through rich, which would break a long command in two.
            print(shlex.join(run.command))
    if stopped_by is not None:
        sys.exit(128 + stopped_by)
    if _RUN.value == "local":
        if not all_done:
            sys.exit(1)
        table = Path(_TABLE.value or out / "table")
        words = tabulate_command(runs, table, title.capitalize(), plan.note)
        sys.exit(subprocess.run(words).returncode)


def tabulate_command(
    runs: Sequence[SweepRun], table: Path, title: str, note: str
) -> list[str]:
    """Returns the words that make the table of finished runs."""
    return [
        *(sys.executable, "-m", "experiments.tabulate"),
        *(str(run.workdir) for run in runs),
        *(f"--out={table}", f"--title={title}", f"--note={note}"),
    ]


def _submit(runs: Sequence[SweepRun], out: Path) -> None:
    """Submits the runs that are not queued yet, and says under which numbers all are.

    Raises:
      ValueError: if this machine cannot.
    """
    if importlib.util.find_spec("submitit") is None:
        raise ValueError("--run=slurm needs submitit: pip install 'moto-jax[slurm]'")
    if shutil.which("sbatch") is None:
        raise ValueError(
            "--run=slurm finds no `sbatch` on the path: give it on a node of the "
            "cluster, or use --run=local"
        )
    from launch.slurm import Resources, queued, slurm_executor, submit

    resources = Resources(
        partition=_PARTITION.value,
        gpus=_GPUS.value,
        cpus=_CPUS.value,
        memory_gb=_MEMORY_GB.value,
        hours=_HOURS.value,
        array_parallelism=_ARRAY_PARALLELISM.value,
    )
    before = queued(runs)
    for name, job in before.items():
        _say(f"job {job:<12} {name}, submitted before")
    new = [run for run in runs if run.name not in before]
    if new:
        executor = slurm_executor(out / ".submitit", out.name, resources)
        for run, job in zip(new, submit(executor, new), strict=True):
            _say(f"job {job.job_id:<12} {run.name}")


def _unfinished(runs: Sequence[SweepRun]) -> list[SweepRun]:
    """Returns the runs that are neither done nor under way."""
    return [run for run in runs if read_status(run).state not in ("done", "running")]


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    run_program(main)
