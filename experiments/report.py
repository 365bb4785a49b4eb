r"""One page about runs: tables, curves, videos, what they took and what made them.

    python -m experiments.report runs/mine runs/other --out=report.html

The page is one HTML file with all pictures and some videos inside. Of a sweep it shows
the paper's figures too:

    python -m experiments.figures --runs=runs/mini --out=results/mini
    python -m experiments.report --runs=runs/mini --figures=results/mini \
        --out=results/mini/report.html

With --probe the newest checkpoints are asked how well their models predict, which takes
minutes a run.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging

from experiments.command_line import fail, prepare_jax, run_program
from experiments.report_page import Ask, make_report
from moto_jax.data.files import write_atomically

_RUNS = flags.DEFINE_multi_string(
    "runs", [], "Directory beneath which runs lie, as if it were given as a word."
)
_FIGURES = flags.DEFINE_string(
    "figures", None, "Directory that experiments.figures wrote, if there is one."
)
_PROBE = flags.DEFINE_bool(
    "probe",
    False,
    "Ask the newest checkpoints: predicted and real rewards, uncertainty and error.",
)
_OUT = flags.DEFINE_string("out", None, "The page, a .html file.", required=True)


def main(argv: Sequence[str]) -> None:
    """Writes the page; what is wrong is said in one sentence."""
    out = Path(_OUT.value)
    directories = [Path(name) for name in (*argv[1:], *_RUNS.value)]
    figures = Path(_FIGURES.value) if _FIGURES.value else None
    try:
        if not directories:
            raise ValueError("no run to report: give the directories of runs")
        text = make_report(directories, figures, _asker() if _PROBE.value else None)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, text.encode())
    except (ValueError, OSError) as error:
        fail(error)
    print(f"written to {out}, {len(text.encode()) / 1e6:.1f} MB")


def _asker() -> Ask:
    logging.set_verbosity(logging.WARNING)
    prepare_jax()
    # Takes seconds, which a page without it need not wait for.
    from experiments.calibration_values import calibration_sections
    from moto_jax.worlds.registry import make_world

    return lambda systems: calibration_sections(systems, make_world)


if __name__ == "__main__":
    run_program(main, positional=True)
