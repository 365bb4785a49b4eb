"""The numbers of the paper's figures 2 and 3, as rows of plain values."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from moto_jax.run_layout import POLICIES
from moto_jax.statistics import Estimate, estimate
from moto_jax.study.systems import MEASURES, System, evaluations, results, tasks_of

ALL_TASKS = "all tasks"


def curve_rows(systems: Sequence[System]) -> list[dict[str, Any]]:
    """Returns the curves of both policies, a row a point."""
    rows = []
    for system in systems:
        found = evaluations(system.runs)
        for policy in POLICIES:
            for measure in MEASURES:
                over = estimate([found.values[policy][measure]])
                for index, update in enumerate(found.updates):
                    rows.append(
                        {
                            "task": system.task,
                            "system": system.label,
                            "policy": policy,
                            "measure": measure,
                            "updates": int(update),
                            "online_episodes": int(found.episodes[index]),
                            "environment_steps": int(found.steps[index]),
                            **_at(over, index),
                        }
                    )
    return rows


def result_rows(systems: Sequence[System]) -> list[dict[str, Any]]:
    """Returns the results of both policies, a row a system, task and measure.

    Where there are several tasks, a system that was trained on all has rows over them
    too, with seeds resampled within each task.
    """
    tasks = tasks_of(systems)
    groups: dict[tuple[str, str], list[System]] = {
        (system.task, system.label): [system] for system in systems
    }
    for label in dict.fromkeys(system.label for system in systems):
        own = [system for system in systems if system.label == label]
        if len(own) == len(tasks) > 1:
            groups[ALL_TASKS, label] = own
    rows = []
    for (task, label), group in groups.items():
        for policy in POLICIES:
            for measure in MEASURES:
                strata = [results(system, policy, measure) for system in group]
                rows.append(
                    {
                        "task": task,
                        "system": label,
                        "policy": policy,
                        "measure": measure,
                        **_at(estimate(strata), ()),
                        "by_seed": " ".join(
                            f"{value:.4g}" for values in strata for value in values
                        ),
                    }
                )
    return rows


def _at(over: Estimate, index: Any) -> dict[str, Any]:
    numbers = {
        "mean": over.mean,
        "mean_low": over.mean_low,
        "mean_high": over.mean_high,
        "interquartile_mean": over.middle,
        "interquartile_mean_low": over.middle_low,
        "interquartile_mean_high": over.middle_high,
    }
    values = {name: float(np.asarray(value)[index]) for name, value in numbers.items()}
    return {"seeds": over.number, **values}
