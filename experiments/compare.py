r"""Says whether a run is within the band of committed ones, and since when it is not.

    python -m experiments.compare runs/mixed-desktop-moto-seed0
    python -m experiments.compare runs/mine --to=results/kitchen_half

References are the runs beneath --to of the same configuration but for the seed;
compared are the evaluations that all have. The picture and its numbers are written into
the run's directory, or --out. The exit status is 1 where the run ends outside.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from absl import flags

from experiments.command_line import fail, run_program
from moto_jax.data.files import write_atomically
from moto_jax.study.reference_band import band_figure, reference_band, verdict
from moto_jax.study.runs import read_run, seed_directories
from moto_jax.study.style import STYLE, save
from moto_jax.study.systems import find_runs
from moto_jax.tables import comma_separated

_TO = flags.DEFINE_string("to", "results/kitchen", "Directory of the references.")
_MEASURE = flags.DEFINE_string(
    "measure", "mean/objects", "Policy and number, as in metrics.jsonl."
)
_OUT = flags.DEFINE_string(
    "out", None, "Directory of the picture and its numbers; the run's own unless given."
)


def main(argv: Sequence[str]) -> None:
    """Compares; what is wrong is said in one sentence."""
    if len(argv) != 2:
        fail("give the directory of one run: python -m experiments.compare RUN")
    try:
        inside = [_compare(path) for path in seed_directories(argv[1])]
    except (ValueError, OSError) as error:
        fail(error)
    if not all(inside):
        sys.exit(1)


def _compare(path: Path) -> bool:
    """Returns whether a seed's run ends inside; says so, and draws it."""
    run = read_run(path)
    # Where the run lies among them it is passed over, as a copy of it is.
    candidates, _ = find_runs(_TO.value)
    band = reference_band(run, candidates, _MEASURE.value)
    print(f"{run.name}: {verdict(band)}")
    columns = {"updates": band.steps, "run": band.run}
    columns |= {"low": band.low, "high": band.high}
    rows = [
        dict(zip(columns, row, strict=True))
        for row in zip(*columns.values(), strict=True)
    ]
    name = f"compare-{_MEASURE.value.replace('/', '-')}"
    out = path
    if _OUT.value:
        out, name = Path(_OUT.value), f"{run.name.replace('/', '-')}-{name}"
        out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / f"{name}.csv", comma_separated(rows).encode())
    with matplotlib.rc_context(STYLE):
        save(band_figure(band, run.name, _MEASURE.value), out / f"{name}.png")
    print(f"written to {out / name}.png and .csv")
    return bool(band.inside[-1])


if __name__ == "__main__":
    run_program(main, positional=True)
