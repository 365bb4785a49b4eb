"""Pictures of runs and predictions: values in, a file out, no state in between."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from moto_jax.run_layout import RunError
from moto_jax.study.runs import RunFiles, Series, read_run
from moto_jax.study.style import BLUE, DPI, GREEN, GREY, STYLE, VERMILLION, save

FORMATS = (".png", ".pdf", ".svg")

# An absolute error of half the range of grey levels is drawn darkest.
_DARKEST_ERROR = 128

# Of a strip, in dots of the picture: about the height of a frame, room around them.
_FRAME_DOTS, _GAP_DOTS, _MARGIN_DOTS, _HEADING_DOTS = 128, 6, 190, 40


class _Panel(NamedTuple):
    metric: str
    title: str
    log: bool


# What is drawn under the objects completed, where a run has it.
_PANELS = (
    _Panel("model/image_loss", "image loss", True),
    _Panel("model/reward_loss", "reward loss", True),
    _Panel("model/kl", "KL (nats)", False),
    _Panel("actor/behaviour_loss", "behaviour NLL (nats)", False),
    _Panel("dream/value", "imagined value", False),
    _Panel("dream/uncertainty", "imagined uncertainty u", False),
    # Of the agents that the paper compares with.
    _Panel("critic/loss", "critic loss", True),
    _Panel("critic/value", "value of the batch", False),
    _Panel("critic/conservative_gap", "conservative gap", False),
    _Panel("critic/advantage", "advantage", False),
    _Panel("actor/temperature", "temperature", True),
)


def check_format(path: str | os.PathLike[str]) -> None:
    """Refuses what no figure can be written as.

    Raises:
      ValueError: unless the name ends in one of `FORMATS`.
    """
    if Path(path).suffix not in FORMATS:
        raise ValueError(
            f"{path} is no picture's name: let it end in {', '.join(FORMATS)}"
        )


def curves(
    run_dirs: Sequence[str | os.PathLike[str]], path: str | os.PathLike[str]
) -> None:
    """Draws how runs went: objects completed, losses, values, against updates.

    One run is drawn with the evaluations' 95 % intervals; several, such as seeds, each
    thin and their mean thick.

    Args:
      run_dirs: directories of runs, ended or not.
      path: of the picture; its ending decides the format.

    Raises:
      ValueError: for no run, a directory that is no run's, or another format.
      OSError: if the picture cannot be written.
    """
    check_format(path)
    runs = [read_run(directory) for directory in run_dirs]
    if not runs:
        raise ValueError("no run to draw: give the directory of one")
    with matplotlib.rc_context(STYLE):
        save(curves_figure(runs), path)


def curves_figure(runs: Sequence[RunFiles]) -> Figure:
    """Returns the figure of `curves`, unwritten.

    Raises:
      RunError: for a run that has written no numbers yet.
    """
    for run in runs:
        if not run.rows:
            raise RunError(f"{run.path} has no numbers yet: let the run go on")
    panels = [
        panel
        for panel in _PANELS
        if any(len(run.series(panel.metric)[0]) for run in runs)
    ]
    columns = 3
    lower = -(-len(panels) // columns)
    heights = [1.5] + [1.0] * lower
    figure = Figure(figsize=(8.0, 1.0 + 1.75 * sum(heights)), layout="constrained")
    grid = figure.add_gridspec(1 + lower, columns, height_ratios=heights)
    top = figure.add_subplot(grid[0, :])
    _draw_objects(top, runs)
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        axes = figure.add_subplot(grid[1 + row, column])
        _draw_several(axes, [run.series(panel.metric) for run in runs], BLUE, "-")
        axes.set_title(panel.title, loc="left")
        if panel.log:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        if index + columns >= len(panels):
            axes.set_xlabel("updates")
    last = max(run.updates for run in runs)
    for axes in figure.axes:
        axes.set_xlim(-0.02 * last, 1.02 * last)
        for border in _borders(runs):
            axes.axvline(border, color=GREY, linewidth=0.8, linestyle=":")
    return figure


def _draw_objects(axes: Axes, runs: Sequence[RunFiles]) -> None:
    """Draws the evaluations of both policies, and the episodes collected online."""
    for run in runs:
        collected = run.series("objects", "collection")
        axes.plot(
            *collected,
            linestyle="",
            marker=".",
            markersize=4,
            color=GREY,
            label="collected online" if run is runs[0] and len(collected[0]) else None,
        )
    for policy, colour, style in (
        ("mean", BLUE, "-"),
        ("sampled", VERMILLION, "--"),
    ):
        series = [run.series(f"{policy}/objects", "evaluation") for run in runs]
        _draw_several(axes, series, colour, style, marker="o", label=f"{policy} policy")
        if len(runs) == 1:
            low = runs[0].series(f"{policy}/objects_low", "evaluation").values
            high = runs[0].series(f"{policy}/objects_high", "evaluation").values
            axes.fill_between(
                series[0].steps, low, high, color=colour, alpha=0.15, linewidth=0
            )
    names = "/".join(sorted({str(run.config.get("task")) for run in runs}))
    count = f"mean of {len(runs)} runs" if len(runs) > 1 else "95 % interval"
    axes.set_title(f"objects completed, {names} ({count})", loc="left")
    wanted = max(_num_objects(run) for run in runs)
    axes.set_ylim(-0.1, wanted + 0.1)
    axes.set_yticks(range(wanted + 1))
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderpad=0)
    borders = _borders(runs)
    if len(borders) == 1:
        for text, side, gap in (("offline", "right", -4), ("online", "left", 4)):
            axes.annotate(
                text,
                # Between no object and one, where least is drawn.
                (borders[0], 0.0),
                xytext=(gap, 14),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                horizontalalignment=side,
                color=GREY,
            )


def _num_objects(run: RunFiles) -> int:
    """Returns how many objects the run's task has, by its evaluations' rates."""
    prefix = "mean/reached/"
    return max(sum(name.startswith(prefix) for name in row) for row in run.rows)


def _draw_several(
    axes: Axes,
    several: Sequence[Series],
    colour: str,
    style: str,
    marker: str = "",
    label: str | None = None,
) -> None:
    """Draws each series thin and their mean thick; a single one is its own mean."""
    if len(several) > 1:
        for series in several:
            axes.plot(*series, color=colour, linestyle=style, linewidth=0.7, alpha=0.4)
    axes.plot(
        *_mean(several),
        color=colour,
        linestyle=style,
        linewidth=1.6,
        marker=marker,
        markersize=4,
        label=label,
    )


def _mean(several: Sequence[Series]) -> Series:
    """Returns the mean over the steps that all the series have."""
    steps = several[0].steps
    for series in several[1:]:
        steps = np.intersect1d(steps, series.steps)
    values = [series.values[np.isin(series.steps, steps)] for series in several]
    return Series(steps, np.mean(values, axis=0))


def _borders(runs: Sequence[RunFiles]) -> list[int]:
    """Returns the updates at which runs went from offline to online."""
    return sorted(
        {
            run.config["training.offline_updates"]
            for run in runs
            if run.config["training.online_episodes"]
        }
    )


def open_loop_strip(
    truth: np.ndarray,
    prediction: np.ndarray,
    path: str | os.PathLike[str],
    context: int,
    every: int = 4,
    labels: Sequence[str] = (),
) -> None:
    """Draws sequences: what was, what was predicted, and how far the two are apart.

    Args:
      truth: uint8 [T, B, height, width, 3].
      prediction: uint8 of the same shape; its first `context` rows are
        reconstructions, the others were predicted without looking.
      path: of the picture; its ending decides the format.
      context: rows that were looked at, all of them drawn.
      every: of the predicted rows the first and then every so many are drawn.
      labels: one a sequence, or none.

    Raises:
      ValueError: for another format, or arrays that do not fit.
      OSError: if the picture cannot be written.
    """
    check_format(path)
    with matplotlib.rc_context(STYLE):
        save(strip_figure(truth, prediction, context, every, labels), path)


def strip_figure(
    truth: np.ndarray,
    prediction: np.ndarray,
    context: int,
    every: int,
    labels: Sequence[str] = (),
) -> Figure:
    """Returns the figure of `open_loop_strip`, unwritten.

    Raises:
      ValueError: for arrays that do not fit.
    """
    _check_strip(truth, prediction, context, every, labels)
    length, size = truth.shape[:2]
    error = np.abs(truth.astype(np.int16) - prediction).mean(axis=-1)
    images = {"truth": truth, "model": prediction, "error": error}
    shown = [*range(context), *range(context, length, every)]
    height, width = truth.shape[2:4]
    scale = max(1, round(_FRAME_DOTS / height))
    # In dots from the upper left corner, so that every pixel becomes an equal square.
    groups = [context, len(shown) - context]
    lefts = _places(groups, scale * width, _MARGIN_DOTS)
    tops = _places([len(images)] * size, scale * height, _HEADING_DOTS)
    across = lefts[-1] + scale * width + _GAP_DOTS
    down = tops[-1] + scale * height + _GAP_DOTS
    figure = Figure(figsize=(across / DPI, down / DPI))

    for line, top in enumerate(tops):
        sequence, kind = divmod(line, len(images))
        name, frames = list(images.items())[kind]
        for left, row in zip(lefts, shown, strict=True):
            box = (left, down - top - scale * height, scale * width, scale * height)
            axes = figure.add_axes(tuple(np.divide(box, (across, down, across, down))))
            _draw_frame(axes, frames[row, sequence], seen=row < context)
            if line == 0:
                axes.set_title(_frame_title(row, context))
            if row == 0:
                axes.set_ylabel(name, rotation=0, ha="right", va="center")
                if labels and kind == 0:
                    axes.text(
                        *(-0.07, 1.0, labels[sequence]),
                        transform=axes.transAxes,
                        fontweight="bold",
                        ha="right",
                        va="top",
                    )
    return figure


def _check_strip(
    truth: np.ndarray,
    prediction: np.ndarray,
    context: int,
    every: int,
    labels: Sequence[str],
) -> None:
    if truth.shape != prediction.shape or truth.ndim != 5 or truth.dtype != np.uint8:
        raise ValueError(
            f"truth {truth.dtype}{list(truth.shape)} and prediction "
            f"{prediction.dtype}{list(prediction.shape)} are not both "
            "uint8[T, B, height, width, 3]"
        )
    length, size = truth.shape[:2]
    if not 0 < context < length or every < 1 or len(labels) not in (0, size):
        raise ValueError(
            f"context {context}, every {every} and {len(labels)} labels do not fit "
            f"{size} sequences of {length} rows"
        )


def _places(groups: Sequence[int], size: int, start: int) -> list[int]:
    """Returns where frames begin, in dots; a wider gap follows each group of frames."""
    places = []
    for count in groups:
        for _ in range(count):
            places.append(start)
            start += size + _GAP_DOTS
        start += 3 * _GAP_DOTS
    return places


def _frame_title(row: int, context: int) -> str:
    if row < context:
        return f"seen {row + 1}"
    return f"+{row - context + 1}"


def _draw_frame(axes: Axes, frame: np.ndarray, seen: bool) -> None:
    """Draws an image or an error [height, width], framed if the model saw the row."""
    axes.imshow(
        frame,
        cmap="gray_r",
        vmin=0,
        vmax=_DARKEST_ERROR,
        interpolation="nearest",
        aspect="equal",
    )
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(GREEN if seen else "#cccccc")
        spine.set_linewidth(1.8 if seen else 0.5)
