"""What a run's policies do over many evaluation episodes, as a row of a table."""

from collections.abc import Mapping
from typing import Any

from experiments.run_commands import run_command
from moto_jax.run_layout import POLICIES
from moto_jax.statistics import wilson_interval
from moto_jax.study.runs import RunFiles, results

PHASES = ("offline", "online")

Row = dict[str, Any]


def last_evaluations(
    run: RunFiles, phase: str, policy: str, episodes: int
) -> dict[str, float]:
    """Returns a policy's figures over the last evaluations of a phase.

    Args:
      run: of one seed.
      phase: one of `PHASES`.
      policy: one of `POLICIES`.
      episodes: evaluations are taken from the last one back until they have so many.

    Returns:
      `episodes`, and the means over them of `success`, with Wilson's 95 % interval as
      `success_low` and `success_high`, `success_at_end`, `objects`, and `reached/NAME`
      of each object; nothing where the phase has no evaluation.
    """
    taken: list[Mapping[str, Any]] = []
    count = 0.0
    for row in reversed(run.rows):
        if row["phase"] == f"evaluation {phase}" and count < episodes:
            taken.append(row)
            count += row[f"{policy}/episodes"]
    if not taken:
        return {}
    prefix = f"{policy}/"
    names = [name.removeprefix(prefix) for name in taken[0] if name.startswith(prefix)]
    wanted = ["success", "success_at_end", "objects"]
    wanted += [name for name in names if name.startswith("reached/")]
    figures = {"episodes": count} | {
        name: sum(row[prefix + name] * row[f"{policy}/episodes"] for row in taken)
        / count
        for name in wanted
    }
    low, high = wilson_interval(round(figures["success"] * count), int(count))
    return figures | {"success_low": low, "success_high": high}


def table_row(run: RunFiles, episodes: Mapping[str, int]) -> Row:
    """Returns what there is to say of one seed's run.

    Args:
      run: of one seed.
      episodes: phase -> `last_evaluations`' number.
    """
    (seed,) = run.config["seeds"]
    # What is kept of a run lies elsewhere than a run should.
    command = run_command(run).replace(
        f"--workdir={run.path}", f"--workdir=runs/{run.path.name}"
    )
    figures = {
        f"{phase}_{policy}_{name}": value
        for phase in PHASES
        for policy in POLICIES
        for name, value in last_evaluations(run, phase, policy, episodes[phase]).items()
    }
    return {
        "run": run.name,
        "task": run.config["task"],
        "seed": seed,
        **figures,
        "updates": run.updates,
        "minutes": results(run)["minutes"],
        "commit": run.summary.get("commit"),
        "command": command,
    }
