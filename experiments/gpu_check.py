r"""Compiles updates for a GPU that need not be there, and counts their kernels.

    make gpu-check
    make gpu-check ARGS="--card=h100 --all"
    make gpu-check PYTHON=python3.12 JAX=0.12.0.1

The target makes an environment of its own with the CUDA wheels of that jax (about
3 GB). Says for each program how long it took to compile here, what it needs of the
card's memory, and how many kernels one update launches: inside its loops, as trips x
kernels a trip, and outside. `--out` adds what it counted to a CSV and a Markdown table.
"""

import itertools
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from absl import flags, logging

from experiments.benchmarks.cards import CARDS, target_config
from experiments.benchmarks.programs import Row, add_row, compile_row
from experiments.command_line import fail, run_program

_PRESETS = flags.DEFINE_list(
    "presets", ["full", "gpu"], "Presets of the configuration."
)
_AGENTS = flags.DEFINE_list("agents", ["moto"], "Agents with a world model.")
_SEEDS = flags.DEFINE_multi_integer(
    "seeds", [1], "How many seeds one program trains.", lower_bound=1
)
_ALL = flags.DEFINE_bool(
    "all",
    False,
    "Every preset of --presets and cpu, MOTO and DreamerV2, one seed and two.",
)
_CARD = flags.DEFINE_string("card", "h200", f"The GPU: {' or '.join(CARDS)}.")
_STATE = flags.DEFINE_string("state", "after", "What the table calls this code.")
_OUT = flags.DEFINE_string("out", None, "Path of the table, without its ending.")


def main(argv: Sequence[str]) -> None:
    """Compiles one program after another, saying each."""
    del argv
    logging.set_verbosity(logging.ERROR)
    try:
        target_config(_CARD.value)
        _check_wheels()
        for row in _rows():
            print(
                f"{row.preset:8} {row.agent:10} seeds {row.seeds}  jax {row.jax}  "
                f"{row.card}  {row.seconds:4} s  {row.temp_gb:6.2f} GB  "
                f"{row.kernels:5} kernels, {row.outside} outside loops, {row.loops}",
                flush=True,
            )
            if _OUT.value:
                add_row(Path(_OUT.value), row)
    except (ValueError, RuntimeError, OSError) as error:
        fail(error)


def _check_wheels() -> None:
    version = metadata.version("jax")
    names = {found.name.lower() for found in metadata.distributions()}
    if not any(name.startswith("jax-cuda") for name in names):
        raise ValueError(
            "this environment has no CUDA wheels: run `make gpu-check`, which makes "
            f'one that has, or pip install "jax[cuda13]=={version}"'
        )


def _rows() -> Iterator[Row]:
    presets, agents, seeds = _PRESETS.value, _AGENTS.value, _SEEDS.value
    if _ALL.value:
        presets = list(dict.fromkeys([*presets, "cpu"]))
        agents, seeds = ["moto", "dreamer_v2"], [1, 2]
    for preset, agent, count in itertools.product(presets, agents, seeds):
        yield compile_row(preset, agent, count, _CARD.value, _STATE.value)


if __name__ == "__main__":
    run_program(main)
