"""The paper's figures 2 and 3: how systems learn, and what becomes of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from moto_jax.statistics import estimate
from moto_jax.study.comparison_rows import curve_rows, result_rows
from moto_jax.study.drawings import Drawing
from moto_jax.study.style import BLACK, DOUBLE_COLUMN, GREY, LOOKS, Look
from moto_jax.study.systems import (
    ABLATED,
    ABLATIONS,
    COMPARED,
    MEASURES,
    REACHED,
    RESULT_EPISODES,
    Evaluations,
    System,
    episodes_played,
    evaluations,
    last_evaluations,
    num_objects,
    results,
    tasks_of,
)

# The offline phase, left of zero, is as wide as this share of the online steps.
_OFFLINE_WIDTH = 0.3
_MARKERS = 8

# Short enough for a third of the page's width.
_ONLINE_LABEL = "environment steps (left: offline)"
_OFFLINE_LABEL = "share of the offline updates"

# What a measure is called on an axis.
_NAMES = {"return": "return", "success": "success", "objects": "objects completed"}


def comparison_drawing(systems: Sequence[System], policy: str = "mean") -> Drawing:
    """Returns figure 2: every system's return, success and objects, by task.

    Args:
      systems: from `systems.collect`; ablations are passed over. An agent that the
        paper does not know is drawn after those that it does.
      policy: "mean" or "sampled".

    Raises:
      ValueError: if none of them is compared.
    """
    others = {one.label: None for one in systems}.keys() - {*COMPARED, *ABLATIONS}
    chosen = _chosen(systems, (*COMPARED, *sorted(others)))
    figure, panels = _grid(tasks_of(chosen), (1.35,) * len(MEASURES), alone=(1, 3))
    for column, task in enumerate(tasks_of(chosen)):
        own = [system for system in chosen if system.task == task]
        for row, measure in enumerate(MEASURES):
            draw_curves(panels[row][column], own, policy, measure)
        panels[0][column].set_title(f"task {task}")
    alone = len(tasks_of(chosen)) == 1
    lowest = [row[0] for row in panels] if alone else panels[-1]
    _finish(figure, panels, lowest, chosen)
    return Drawing(
        "figure2",
        "Figure 2: offline pre-training and online fine-tuning, every system",
        _curve_caption(chosen, policy),
        figure,
        {"": curve_rows(chosen), "final": result_rows(chosen)},
    )


def ablation_drawing(systems: Sequence[System], policy: str = "mean") -> Drawing:
    """Returns figure 3: MOTO, what is left out of it, and DreamerV2, by task.

    Args:
      systems: from `systems.collect`; others are passed over, and so are tasks on
        which nothing is left out.
      policy: "mean" or "sampled".

    Raises:
      ValueError: if no ablation is there.
    """
    ablated = {system.task for system in systems if system.label in ABLATIONS}
    if not ablated:
        raise ValueError(
            "there is no run of MOTO without penalty or prior: launch.sweeps "
            "--figure=3 makes them"
        )
    chosen = _chosen([one for one in systems if one.task in ablated], ABLATED)
    measures = ("success", "objects")
    figure, panels = _grid(tasks_of(chosen), (1.4, 1.4, 1.0, 1.0), alone=(2, 2))
    for column, task in enumerate(tasks_of(chosen)):
        own = [system for system in chosen if system.task == task]
        for row, measure in enumerate(measures):
            draw_curves(panels[row][column], own, policy, measure)
            draw_bars(panels[row + 2][column], own, policy, measure)
        panels[0][column].set_title(f"task {task}")
    _finish(figure, panels[:2], panels[1], chosen)
    settings = "MOTO has alpha and beta of its configuration; no penalty is alpha = 0, "
    settings += "no prior beta = 0, neither both. "
    return Drawing(
        "figure3",
        "Figure 3: what penalty and behaviour prior add",
        settings + _curve_caption(chosen, policy) + " " + _result_caption(chosen),
        figure,
        {"": curve_rows(chosen), "final": result_rows(chosen)},
    )


def _chosen(systems: Sequence[System], labels: Sequence[str]) -> list[System]:
    chosen = [system for system in systems if system.label in labels]
    if not chosen:
        raise ValueError(
            f"there is no run of {', '.join(labels)}: give a directory that holds one"
        )
    return sorted(chosen, key=lambda one: (one.task, labels.index(one.label)))


def _grid(
    tasks: Sequence[str], heights: Sequence[float], alone: tuple[int, int]
) -> tuple[Figure, list[list[Axes]]]:
    """Returns a figure, and its panels by row with one a task in each.

    Args:
      tasks: a column each.
      heights: of the rows, in inches.
      alone: rows and columns of the panels of a single task, filled column by column.
    """
    if len(tasks) == 1:
        height = 0.6 + alone[0] * max(heights)
        figure = Figure(figsize=(DOUBLE_COLUMN, height), layout="constrained")
        places = figure.subplots(*alone, squeeze=False)
        return figure, [[axes] for axes in places.ravel(order="F")]
    figure = Figure(figsize=(DOUBLE_COLUMN, 0.8 + sum(heights)), layout="constrained")
    places = figure.subplots(
        len(heights), len(tasks), squeeze=False, height_ratios=heights
    )
    return figure, [list(row) for row in places]


def positions(found: Evaluations, width: float) -> np.ndarray:
    """Returns where evaluations lie on the axis [n]: environment steps, or left of 0.

    Evaluations of the offline phase, in which no step is taken, lie where their share
    of the offline updates puts them between -width and 0.
    """
    offline = (found.offline - 1.0) * width
    return np.where(found.episodes > 0, found.steps, offline)


def draw_curves(
    axes: Axes,
    systems: Sequence[System],
    policy: str,
    measure: str,
    looks: Mapping[str, Look] = LOOKS,
) -> None:
    """Draws a measure of systems on one task: means over seeds and their bands.

    Args:
      axes: to draw in.
      systems: on the task.
      policy: "mean" or "sampled".
      measure: of `MEASURES`, or an object's success, `REACHED` before its name.
      looks: label -> how a system is drawn.
    """
    several = [evaluations(system.runs, (measure,)) for system in systems]
    last = max(int(found.steps[-1]) for found in several)
    width = _OFFLINE_WIDTH * last if last else 1.0
    for system, found in zip(systems, several, strict=True):
        look = look_of(system.label, looks)
        over = estimate([found.values[policy][measure]])
        place = positions(found, width)
        axes.plot(
            place,
            over.mean,
            color=look.colour,
            linestyle=look.line,
            marker=look.marker,
            markevery=max(1, -(-len(place) // _MARKERS)),
            label=system.label,
            zorder=3,
        )
        if over.number > 1:
            axes.fill_between(
                place,
                over.mean_low,
                over.mean_high,
                color=look.colour,
                alpha=0.13,
                linewidth=0,
            )
    _mark_phases(axes, last, width)
    axes.set_ylabel(_NAMES.get(measure, "success"))
    _limit(axes, measure, systems)


def _mark_phases(axes: Axes, last: int, width: float) -> None:
    """Shades the offline phase, and numbers environment steps alone."""
    room = 0.02 * (width + last)
    axes.set_xlim(-width - room, last + room)
    if last:
        axes.axvspan(-width - room, 0, color="#f2f2f2", zorder=0, linewidth=0)
        ticks = MaxNLocator(4, integer=True).tick_values(0, last)
        axes.set_xticks([tick for tick in ticks if 0 <= tick <= last])
        axes.xaxis.set_major_formatter(FuncFormatter(_short))
    else:
        axes.set_xticks([-width, 0], ["0", "all"])


def _short(value: float, position: Any = None) -> str:
    """Returns 25,000 as 25k."""
    del position
    if value >= 1000:
        return f"{value / 1000:g}k"
    return f"{value:g}"


def _limit(axes: Axes, measure: str, systems: Sequence[System]) -> None:
    if measure == "success" or measure.startswith(REACHED):
        axes.set_ylim(-0.04, 1.04)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_yticks([0, 0.5, 1])
    elif measure == "objects":
        most = max(num_objects(system) for system in systems)
        axes.set_ylim(-0.04 * most, 1.04 * most)
        axes.set_yticks(range(most + 1))
    else:
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, -0.02 * high), high)


def draw_bars(axes: Axes, systems: Sequence[System], policy: str, measure: str) -> None:
    """Draws a measure's results: a bar a system, its interval, and a dot a seed."""
    for place, system in enumerate(systems):
        values = results(system, policy, measure)
        over = estimate([values])
        mean = float(over.mean)
        look = look_of(system.label)
        axes.barh(place, mean, height=0.7, color=look.colour, alpha=0.45, zorder=2)
        if over.number > 1:
            axes.plot(
                [float(over.mean_low), float(over.mean_high)],
                [place, place],
                color=BLACK,
                linewidth=0.9,
                zorder=3,
            )
        axes.plot(
            values,
            [place] * len(values),
            linestyle="",
            marker=look.marker,
            markersize=2.8,
            color=look.colour,
            markeredgecolor=BLACK,
            markeredgewidth=0.3,
            # Whole at 0 too.
            clip_on=False,
            zorder=4,
        )
        text = f"{mean:.0%}" if measure == "success" else f"{mean:.1f}"
        axes.annotate(
            text,
            (1.0, place),
            xycoords=("axes fraction", "data"),
            xytext=(2, 0),
            textcoords="offset points",
            va="center",
            fontsize=6.5,
        )
    axes.set_yticks(range(len(systems)), [system.label for system in systems])
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlabel(f"{_NAMES[measure]}, last evaluations")
    most = 1 if measure == "success" else max(map(num_objects, systems))
    axes.set_xlim(0, 1.02 * most)
    if measure == "success":
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    else:
        axes.set_xticks(range(most + 1))


def look_of(label: str, looks: Mapping[str, Look] = LOOKS) -> Look:
    """Returns how a system is drawn; one of none's name in grey."""
    return looks.get(label, Look(GREY, "-", "."))


def axis_label(systems: Sequence[System]) -> str:
    """Returns what is counted below the curves of systems."""
    return _ONLINE_LABEL if _have_episodes(systems) else _OFFLINE_LABEL


def _have_episodes(systems: Sequence[System]) -> bool:
    return any(evaluations(system.runs).episodes[-1] for system in systems)


def _finish(
    figure: Figure,
    panels: Sequence[Sequence[Axes]],
    lowest: Sequence[Axes],
    systems: Sequence[System],
) -> None:
    """Adds the legend above, and below the lowest curves what is counted."""
    online = _have_episodes(systems)
    curves = [axes for row in panels for axes in row]
    for axes in curves:
        if axes in lowest:
            axes.set_xlabel(axis_label(systems))
        else:
            axes.tick_params(labelbottom=False)
    for row in panels:
        for axes in row[1:]:
            axes.set_ylabel("")
    for axes in panels[0] if online else ():
        axes.annotate(
            "offline",
            (0.0, 1.0),
            xycoords="axes fraction",
            xytext=(1, 2),
            textcoords="offset points",
            fontsize=6.5,
            color=GREY,
        )
    figure.align_ylabels(curves)
    known: dict[str, Any] = {}
    for axes in curves:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            known.setdefault(name, handle)
    figure.legend(
        list(known.values()),
        list(known),
        loc="outside upper center",
        ncols=len(known),
        handlelength=2.4,
        columnspacing=1.0,
    )


def _curve_caption(systems: Sequence[System], policy: str) -> str:
    counts = _span(len(system.runs) for system in systems)
    episodes = _span(
        played for one in systems for run in one.runs for played in episodes_played(run)
    )
    return (
        f"Curves are means over seeds (n = {counts}) of evaluations of the {policy} "
        f"policy, {episodes} episodes each; bands are 95 % bootstrap intervals over "
        "seeds, which with so few span little but the seeds themselves; one seed has "
        "none. "
        "Environment steps are those of the stored online episodes; the grey part left "
        "of 0 is the offline phase, by its share of updates done. Success is all of "
        "the task's objects reached at some step of an episode. "
        f"{_budget_caption(systems)}"
    )


def _budget_caption(systems: Sequence[System]) -> str:
    offline, episodes, each = (
        _span(run.config[f"training.{name}"] for one in systems for run in one.runs)
        for name in ("offline_updates", "online_episodes", "updates_per_episode")
    )
    return (
        f"Budget of a run: {offline} offline updates, then {episodes} online episodes "
        f"with {each} updates after each; the paper's is 10,000, 1,326 and 50."
    )


def _result_caption(systems: Sequence[System]) -> str:
    counts = _span(
        int(last_evaluations(evaluations(system.runs)).sum()) for system in systems
    )
    return (
        f"Bars are means over the last {RESULT_EPISODES} evaluation episodes of the "
        f"online phase, or what there are ({counts} evaluations a seed), dots the "
        "seeds, lines 95 % bootstrap intervals."
    )


def _span(counts: Any) -> str:
    """Returns "3", or "2 to 3"."""
    known = [f"{count:,}" for count in sorted(set(counts))]
    return known[0] if len(known) == 1 else f"{known[0]} to {known[-1]}"
