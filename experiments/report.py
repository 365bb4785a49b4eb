r"""One page about a directory of runs: tables, the paper's figures, what made them.

    python -m experiments.figures --runs=runs/mini --out=results/mini
    python -m experiments.report --runs=runs/mini --figures=results/mini \
        --out=results/mini/report.html

The page is one HTML file with all pictures inside.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments.command_line import fail, run_program
from experiments.report_page import make_report
from moto_jax.data.files import write_atomically

_RUNS = flags.DEFINE_string(
    "runs", None, "Directory beneath which the runs' directories lie.", required=True
)
_FIGURES = flags.DEFINE_string(
    "figures", None, "Directory that experiments.figures wrote.", required=True
)
_OUT = flags.DEFINE_string("out", None, "The page, a .html file.", required=True)


def main(argv: Sequence[str]) -> None:
    """Writes the page; what is wrong is said in one sentence."""
    del argv
    out = Path(_OUT.value)
    try:
        text = make_report(Path(_RUNS.value), Path(_FIGURES.value))
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, text.encode())
    except (ValueError, OSError) as error:
        fail(error)
    print(f"written to {out}, {len(text.encode()) / 1e6:.1f} MB")


if __name__ == "__main__":
    run_program(main)
