"""What the programs that play episodes share: the episodes, and the table of them."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from rich.table import Table

from experiments.command_line import output_console
from moto_jax.acting.collection import Play, PlayEpisodes
from moto_jax.acting.evaluation import EvaluationResult, evaluate
from moto_jax.acting.progress import remaining_time
from moto_jax.acting.worker_pool import WorkerError
from moto_jax.data.episodes import Episode
from moto_jax.running.exports import TrainedPolicy
from moto_jax.types import Params
from moto_jax.worlds.graphics import GraphicsError
from moto_jax.worlds.world import World

# What may be wrong with a policy, a machine or a directory to write to.
FAULTS = (ValueError, OSError, FloatingPointError, GraphicsError, WorkerError)


def play_episodes(
    trained: TrainedPolicy,
    world: World,
    names: Sequence[str],
    keys: jax.Array,
    seeds: Sequence[int],
) -> dict[str, EvaluationResult]:
    """Plays one episode an environment seed with each policy; tells each as it ends.

    Args:
      trained: what acts.
      world: where, on which task.
      names: of the policies, "mean" and "sampled".
      keys: the one typed PRNG key of their noise, [1].
      seeds: of the environments' resets.
    """
    params = jax.tree.map(lambda leaf: np.asarray(leaf)[None], trained.params)
    results = {}
    with world.open_stage() as stage:
        for name in names:
            print(f"{name} policy: {len(seeds)} episodes", file=sys.stderr, flush=True)
            play = _told(stage.player(trained.agent.policies[name]), world)
            results[name] = evaluate(
                play, params, keys, seeds, world.events, world.label
            )
    return results


def _told(play: PlayEpisodes, world: World) -> PlayEpisodes:
    """Returns what plays the same episodes and prints for each what was done."""

    def play_and_tell(
        params: Params, keys: jax.Array, plays: Sequence[Play]
    ) -> Iterator[Episode]:
        began = time.monotonic()
        for number, episode in enumerate(play(params, keys, plays), start=1):
            events = world.label(episode).events.T
            done = [
                name
                for name, own in zip(world.events, events, strict=True)
                if own.any()
            ]
            left = remaining_time(time.monotonic() - began, number, len(plays))
            print(
                f"episode {number} of {len(plays)}, {left} left: "
                f"{', '.join(done) or 'nothing'}",
                file=sys.stderr,
                flush=True,
            )
            yield episode

    return play_and_tell


def show(trained: TrainedPolicy, results: Mapping[str, EvaluationResult]) -> None:
    """Prints a table with a column a policy."""
    summaries = {name: result.summary() for name, result in results.items()}
    result = next(iter(results.values()))
    title = (
        f"seed {trained.seed}, {trained.updates} updates, "
        f"{len(result.reached)} episodes, 95 % intervals"
    )
    # A title is broken where the table is narrower.
    table = Table(title=title, min_width=len(title))
    table.add_column("")
    for name in summaries:
        table.add_column(f"{name} policy")

    def add(label: str, figure: str, interval: bool = False) -> None:
        cells = []
        for one in summaries.values():
            cell = f"{one[figure]:.2f}"
            if interval:
                cell += f"  ({one[f'{figure}_low']:.2f} to {one[f'{figure}_high']:.2f})"
            cells.append(cell)
        table.add_row(label, *cells)

    for name in result.events:
        add(name, f"reached/{name}")
    table.add_section()
    add(f"objects of {len(result.events)}", "objects", interval=True)
    add("success", "success", interval=True)
    add("success at the end", "success_at_end")
    add("return", "return")
    output_console(88).print(table)
