r"""Compiles updates for a GPU that need not be there, and counts their kernels.

    make gpu-check
    make gpu-check ARGS="--card=h100 --all"
    make gpu-check PYTHON=python3.12 JAX=0.12.0.1

The target makes an environment of its own with the CUDA wheels of that jax (about
3 GB). Says for each program how long it took to compile here, what it needs of the
card's memory, and how many kernels one update launches: inside its loops, as trips x
kernels a trip, and outside. `--out` adds what it counted to a CSV and a Markdown table.
"""

import csv
import io
import itertools
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags, logging

from experiments.benchmarks.cards import CARDS, target_config
from experiments.benchmarks.kernels import Kernels, count_kernels
from experiments.command_line import fail, run_program
from moto_jax.data.files import write_atomically

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

# What the check compiles with beside a run's own options. Kernels made by Triton are
# chosen by timing them on the card; without one, XLA gives some products tiles that do
# not fit, and fails. Those of cuBLAS it can always call.
_WITHOUT_A_CARD: dict[str, str | bool] = {"xla_gpu_enable_triton_gemm": False}

# As a client with the newest wheels names its platform.
_PLATFORM = "cuda 13000"


class Row(NamedTuple):
    """One compiled program.

    Attributes:
      preset: of the configuration.
      agent: its name.
      seeds: how many the program trains.
      jax: the version that compiled it.
      card: for which.
      seconds: it took here.
      temp_gb: temporaries on the card, 10^9 bytes.
      kernels: launched by an update.
      outside: of these outside of every loop.
      loops: "TRIPS x KERNELS" of each loop of more than 1 % of them.
      state: what the code is called.
    """

    preset: str
    agent: str
    seeds: int
    jax: str
    card: str
    seconds: int
    temp_gb: float
    kernels: int
    outside: int
    loops: str
    state: str


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
        yield compile_row(preset, agent, count, _CARD.value)


def compile_row(preset: str, agent_name: str, seeds: int, card: str) -> Row:
    """Compiles the update of an agent's last phase, at a preset's sizes, for a card.

    Raises:
      ValueError: for a preset, an agent or a card that does not exist, or an agent
        without a world model.
      RuntimeError: if XLA cannot compile it.
    """
    import jax
    from jax.experimental import topologies

    from experiments.benchmarks.update import preset_config, random_batch, size_of
    from moto_jax import devices
    from moto_jax.agents import make_agent
    from moto_jax.compilation import gpu_options
    from moto_jax.envs import tasks

    config = preset_config(preset)
    config.agent = agent_name
    config.seeds = tuple(range(seeds))
    agent = make_agent(
        config, action_size=tasks.NUM_ACTIONS, image_size=config.env.image_size
    )
    if agent.model is None:
        raise ValueError(f"agent {agent_name} has no world model: use one that has")
    topology = topologies.get_topology_desc(
        platform="cuda",
        topology_name="",
        topology="1x1x1",
        target_config=target_config(card),
    )
    size = size_of(config)
    mesh = devices.make_mesh(config, size.batch_size, topology.devices)
    batch = jax.tree.map(lambda leaf: leaf[None], random_batch(size))
    agent = devices.over_seeds(agent, mesh)
    state = devices.abstract_state(
        agent, jax.random.split(jax.random.key(0), seeds), mesh
    )
    batch = devices.abstract_batch(batch, seeds, size.batch_size, mesh)
    # The last of the phases is the one that every agent has.
    update = list(agent.updates.values())[-1]
    start = time.perf_counter()
    lowered = jax.jit(update, donate_argnums=0).lower(state, batch)
    program: Any = lowered.compile({**gpu_options(_PLATFORM), **_WITHOUT_A_CARD})
    seconds = time.perf_counter() - start
    kernels = count_kernels(program.as_text())
    return Row(
        preset=preset,
        agent=agent_name,
        seeds=seeds,
        jax=jax.__version__,
        card=card,
        seconds=round(seconds),
        temp_gb=round(program.memory_analysis().temp_size_in_bytes / 1e9, 2),
        kernels=kernels.total,
        outside=kernels.outside,
        loops=_loops(kernels),
        state=_STATE.value,
    )


def _loops(kernels: Kernels) -> str:
    return ", ".join(
        f"{loop.trips} x {loop.kernels}"
        for loop in kernels.loops
        if 100 * loop.trips * loop.kernels > kernels.total
    )


def add_row(path: Path, row: Row) -> None:
    """Adds a row to PATH.csv, in place of the one it repeats, and writes PATH.md."""
    table = path.with_suffix(".csv")
    rows: list[dict[str, str]] = []
    if table.exists():
        rows = list(csv.DictReader(io.StringIO(table.read_text())))
    new = {name: str(value) for name, value in row._asdict().items()}
    said = ("preset", "agent", "seeds", "jax", "card", "state")
    rows = [old for old in rows if any(old[name] != new[name] for name in said)]
    rows.append(new)
    text = io.StringIO()
    writer = csv.DictWriter(text, Row._fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(table, text.getvalue().encode())
    write_atomically(path.with_suffix(".md"), _markdown(rows).encode())


def _markdown(rows: Sequence[dict[str, str]]) -> str:
    lines = [
        "# Updates compiled for a GPU that was not there",
        "",
        "By `make gpu-check` (`experiments/gpu_check.py`): seconds to compile on the",
        "machine at hand, whatever else it did; temporaries on the card; kernels that",
        "one update launches, of loops as trips x kernels a trip. It gives no times of",
        "an update.",
        "",
        "| " + " | ".join(Row._fields) + " |",
        "|" + "---|" * len(Row._fields),
    ]
    lines += ["| " + " | ".join(row.values()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_program(main)
