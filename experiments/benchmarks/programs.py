"""Updates compiled for a GPU that need not be there, and the table of them."""

import csv
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from experiments.benchmarks.cards import target_config
from experiments.benchmarks.kernels import Kernels, count_kernels
from experiments.benchmarks.update import preset_config, random_batch, size_of
from moto_jax.agents import make_agent
from moto_jax.data.files import write_atomically
from moto_jax.running import devices
from moto_jax.running.compilation import gpu_options
from moto_jax.tables import comma_separated, markdown_lines
from moto_jax.worlds.kitchen import tasks

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


def compile_row(
    preset: str, agent_name: str, seeds: int, card: str, state: str = "after"
) -> Row:
    """Compiles the update of an agent's last phase, at a preset's sizes, for a card.

    Raises:
      ValueError: for a preset, an agent or a card that does not exist, or an agent
        without a world model.
      RuntimeError: if XLA cannot compile it.
    """
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
    learnt = devices.abstract_state(
        agent, jax.random.split(jax.random.key(0), seeds), mesh
    )
    batch = devices.abstract_batch(batch, seeds, size.batch_size, mesh)
    # The last of the phases is the one that every agent has.
    update = list(agent.updates.values())[-1]
    start = time.perf_counter()
    lowered = jax.jit(update, donate_argnums=0).lower(learnt, batch)
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
        state=state,
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
    write_atomically(table, comma_separated(rows).encode())
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
        *markdown_lines(Row._fields, [list(row.values()) for row in rows]),
    ]
    return "\n".join(lines) + "\n"
