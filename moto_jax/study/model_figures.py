"""The paper's figures 1 and 4: images and rewards that the world model predicts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moto_jax.statistics import quantile_band
from moto_jax.study.drawings import Drawing
from moto_jax.study.predictions import prediction_errors
from moto_jax.study.style import BLACK, BLUE, DOUBLE_COLUMN, GREEN, GREY, VERMILLION

# Frames of a strip: those seen, and those predicted.
_SEEN, _AHEAD = 3, 8


class Prediction(NamedTuple):
    """An episode whose end was predicted from its recorded actions.

    Attributes:
      truth: uint8 [T, height, width, 3].
      prediction: uint8 of the same shape; its first `context` rows are reconstructions.
      context: rows that were seen.
      name: of the episode and of who predicts, for the table.
    """

    truth: np.ndarray
    prediction: np.ndarray
    context: int
    name: str


class Rewards(NamedTuple):
    """What a system's models of one task say of rewards; NaN where episodes are over.

    Attributes:
      task: name.
      true: float [T, episodes].
      predicted: float [T, episodes * seeds], along the same episodes.
      imagined: float [H + 1, rollouts * seeds], of the policy inside the model.
      seeds: number of models.
      demonstrated: highest reward among the demonstrations, NaN where unknown.
      trained: highest reward among all training data, NaN where unknown.
      online: whether any of the models had online episodes too.
    """

    task: str
    true: np.ndarray
    predicted: np.ndarray
    imagined: np.ndarray
    seeds: int
    demonstrated: float
    trained: float
    online: bool


def prediction_drawing(
    predictions: Sequence[Prediction], drawn: int, what: str
) -> Drawing:
    """Returns figure 1: what was recorded and what was predicted, one above the other.

    Args:
      predictions: episodes, by any models.
      drawn: so many of them are drawn, the first.
      what: sentences on episodes and models, for the caption.

    Raises:
      ValueError: if there is none.
    """
    if not predictions:
        raise ValueError("nothing was predicted")
    rows, labels = [], []
    for one in predictions[:drawn]:
        rows += [one.truth, one.prediction]
        labels += ["recorded", "predicted"]
    columns = _SEEN + _AHEAD
    side = (DOUBLE_COLUMN - 0.75) / (columns + 0.3)
    height = side * len(rows) + 0.1 * (len(rows) // 2) + 0.2
    figure = Figure(figsize=(DOUBLE_COLUMN, height))
    for line, (frames, label) in enumerate(zip(rows, labels, strict=True)):
        one = predictions[line // 2]
        top = 0.18 + line * side + 0.1 * (line // 2)
        for place, row in enumerate(shown_rows(len(frames), one.context)):
            seen = place < _SEEN
            left = 0.7 + place * side + (0 if seen else 0.3 * side)
            inch = (left, height - top - side, 0.96 * side, 0.96 * side)
            box = np.divide(inch, (DOUBLE_COLUMN, height, DOUBLE_COLUMN, height))
            axes = figure.add_axes(tuple(box))
            _draw_frame(axes, frames[row], GREEN if seen else GREY)
            if line % 2 == 0:
                axes.set_title(_frame_title(row - one.context + 1), fontsize=6, pad=1.5)
            if place == 0:
                axes.set_ylabel(label, rotation=0, ha="right", va="center")
    errors = error_rows(predictions)
    model, copy = (np.mean([row[name] for row in errors]) for name in _ERRORS)
    return Drawing(
        "figure1",
        "Figure 1: the last object, predicted after the others were seen done",
        f"{what} Green frames were seen; the others are predicted from the recorded "
        "actions alone, +k being k steps after the last one seen. Mean squared error "
        f"over {len(predictions)} predictions, in grey levels squared: {model:.0f}; of "
        f"the last frame seen, copied: {copy:.0f}.",
        figure,
        {"": errors},
    )


_ERRORS = ("model_mse", "copy_mse")


def _frame_title(ahead: int) -> str:
    """Returns a frame's place, by steps after the last one seen."""
    if ahead == 0:
        return "last seen"
    return f"+{ahead}" if ahead > 0 else f"seen \N{MINUS SIGN}{-ahead}"


def shown_rows(length: int, context: int) -> list[int]:
    """Returns the rows of a strip: three seen, then evenly spaced to the last.

    Where fewer are left than have room, each of them once.
    """
    ahead = np.linspace(context, length - 1, min(_AHEAD, length - context))
    ahead = ahead.round().astype(int)
    every = int(ahead[1] - ahead[0]) if len(ahead) > 1 else 1
    seen = [context - 1 - every * back for back in reversed(range(_SEEN))]
    return [max(0, row) for row in seen] + ahead.tolist()


def _draw_frame(axes: Axes, frame: np.ndarray, colour: str) -> None:
    axes.imshow(frame, interpolation="nearest", aspect="equal")
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(colour)
        spine.set_linewidth(1.2 if colour == GREEN else 0.4)


def error_rows(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Returns each predicted frame's error, and that of the last frame seen."""
    rows = []
    for one in predictions:
        both = one.truth[:, None], one.prediction[:, None]
        model, copy = prediction_errors(*both, one.context)
        for step in range(len(model)):
            errors = (float(model[step, 0]), float(copy[step, 0]))
            rows.append(
                {
                    "prediction": one.name,
                    "seen_rows": one.context,
                    "step": step + 1,
                    **dict(zip(_ERRORS, errors, strict=True)),
                }
            )
    return rows


def reward_drawing(several: Sequence[Rewards], last: int = 10) -> Drawing:
    """Returns figure 4: rewards along held-out episodes, and inside the model.

    Args:
      several: one a task.
      last: so many last steps of the rollouts are averaged.

    Raises:
      ValueError: if there is none.
    """
    if not several:
        raise ValueError("no model predicts a reward")
    figure = Figure(
        figsize=(DOUBLE_COLUMN, 0.3 + 1.7 * len(several)), layout="constrained"
    )
    panels = figure.subplots(len(several), 2, squeeze=False)
    finals, highest = [], []
    for (left, right), one in zip(panels, several, strict=True):
        _draw_band(left, np.arange(len(one.true)), one.true, BLACK, "--", "true")
        _draw_band(
            left, np.arange(len(one.predicted)), one.predicted, BLUE, "-", "predicted"
        )
        left.set_title(f"task {one.task}: held-out episodes of all objects", loc="left")
        final = float(np.nanmean(one.imagined[-last:]))
        finals.append(f"{final:.2f} ({one.task})")
        highest.append(f"{_at_the_highest(one):.2f} ({one.task})")
        steps = np.arange(len(one.imagined))
        _draw_band(right, steps, one.imagined, BLUE, "-", "in the model")
        _draw_highest(right, one)
        right.set_title(
            f"its policy in the model; mean of last {last} steps: {final:.2f}",
            loc="left",
        )
        top = max(
            np.nanmax(values)
            for values in (one.true, *quantile_band(one.imagined), [one.trained, 1.0])
        )
        for axes in (left, right):
            # Room for the legend above all lines.
            axes.set_ylim(-0.1 * top, 1.45 * top)
            axes.set_yticks(range(int(top) + 1))
            axes.set_ylabel("reward")
            axes.legend(loc="upper left", handlelength=1.8, columnspacing=1.0, ncols=2)
    for axes in panels[-1]:
        axes.set_xlabel("environment steps")
    counts = ", ".join(
        f"{one.true.shape[1]} episodes and {one.imagined.shape[1]} rollouts, n = "
        f"{one.seeds} seeds ({one.task})"
        for one in several
    )
    return Drawing(
        "figure4",
        "Figure 4: rewards predicted by the model",
        "Left: the reward head on the posterior, filtering held-out scripted episodes "
        "of all the task's objects, beside the true reward. Right: the reward head "
        "along rollouts of the mean policy inside the model, from the first frames of "
        "such episodes; lines mark the highest reward in the training data. "
        f"{_which_models(several)}; medians and 5 to 95 % quantiles over {counts}. "
        f"Mean of the last {last} steps of the rollouts: {', '.join(finals)}; of the "
        f"reward predicted where the true one is highest: {', '.join(highest)}.",
        figure,
        {"": reward_rows(several)},
    )


def _which_models(several: Sequence[Rewards]) -> str:
    if any(one.online for one in several):
        return "MOTO's last checkpoints"
    return "MOTO's checkpoints after the offline phase, of demonstrations alone"


def _at_the_highest(one: Rewards) -> float:
    """Returns the mean reward predicted where the true one is an episode's highest."""
    copies = one.predicted.shape[1] // one.true.shape[1]
    true = np.tile(one.true, copies)
    return float(one.predicted[true == np.nanmax(true, axis=0)].mean())


def _draw_band(
    axes: Axes, steps: np.ndarray, values: np.ndarray, colour: str, line: str, name: str
) -> None:
    """Draws median and quantiles as long as half of the series go on."""
    going = np.isfinite(values).mean(axis=1) >= 0.5
    median, low, high = quantile_band(values[going])
    axes.plot(steps[going], median, color=colour, linestyle=line, label=name, zorder=3)
    axes.fill_between(steps[going], low, high, color=colour, alpha=0.15, linewidth=0)


def _draw_highest(axes: Axes, one: Rewards) -> None:
    for value, line, name in (
        (one.demonstrated, "--", "highest demonstrated"),
        (one.trained, ":", "highest online"),
    ):
        same = name == "highest online" and value == one.demonstrated
        if np.isfinite(value) and not same:
            axes.axhline(value, color=VERMILLION, linestyle=line, label=name)


def reward_rows(several: Sequence[Rewards]) -> list[dict[str, Any]]:
    """Returns median and quantiles of every step, and the marks, a row each."""
    rows = []
    for one in several:
        for name in ("true", "predicted", "imagined"):
            values = getattr(one, name)
            band = quantile_band(values).T
            counts = np.isfinite(values).sum(axis=1)
            for step, (median, low, high) in enumerate(band):
                rows.append(
                    {
                        "task": one.task,
                        "series": name,
                        "step": step,
                        "number": int(counts[step]),
                        "median": float(median),
                        "quantile_05": float(low),
                        "quantile_95": float(high),
                        "mean": float(np.nanmean(values[step]))
                        if counts[step]
                        else float("nan"),
                        "highest_demonstrated": float(one.demonstrated),
                        "highest_in_training": float(one.trained),
                    }
                )
    return rows
