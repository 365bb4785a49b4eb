"""Figures 1, 4 and 5: what is drawn from values by hand."""

import numpy as np
import pytest

from moto_jax.study import gap_figure, model_figures
from moto_jax.study.gap_figure import Gaps
from moto_jax.study.model_figures import Prediction, Rewards


def prediction(length, context, name, seed=0):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (2, length, 8, 8, 3)).astype(np.uint8)
    return Prediction(*images, context, name)


def test_figure_1_shows_what_was_and_what_was_predicted():
    several = [prediction(20, 9, "a"), prediction(30, 3, "b", 1), prediction(9, 4, "c")]
    drawing = model_figures.prediction_drawing(several, 2, "Two episodes.")
    frames = [axes.get_images()[0].get_array() for axes in drawing.figure.axes]
    assert len(frames) == 2 * 2 * 11
    # Three seen and eight predicted, from the first to the episode's last.
    shown = [[6, 7, 8, 9, 10, 12, 13, 15, 16, 18, 19]]
    shown.append([0, 0, 2, 3, 7, 10, 14, 18, 22, 25, 29])
    # Before the first row there is nothing to show.
    shown[1][:3] = [max(0, 2 - 4 * back) for back in (2, 1, 0)]
    wanted = [
        frame[row]
        for one, rows in zip(several[:2], shown, strict=True)
        for frame in (one.truth, one.prediction)
        for row in rows
    ]
    for found, frame in zip(frames, wanted, strict=True):
        np.testing.assert_array_equal(found, frame)
    labels = [axes.get_ylabel() for axes in drawing.figure.axes[::11]]
    assert labels == ["recorded", "predicted"] * 2
    titles = [axes.get_title() for axes in drawing.figure.axes[:11]]
    assert titles[:5] == [
        "seen \N{MINUS SIGN}2",
        "seen \N{MINUS SIGN}1",
        "last seen",
    ] + [
        "+1",
        "+2",
    ]
    assert titles[-1] == "+11"
    assert drawing.caption.startswith("Two episodes.")


@pytest.mark.parametrize(
    ("length", "context", "rows"),
    [
        (8, 4, [1, 2, 3, 4, 5, 6, 7]),
        (5, 4, [1, 2, 3, 4]),
        (20, 4, [0, 1, 3, 4, 6, 8, 10, 13, 15, 17, 19]),
    ],
)
def test_no_frame_of_figure_1_is_drawn_twice(length, context, rows):
    assert model_figures.shown_rows(length, context) == rows


def test_figure_1s_errors_are_those_of_all_predictions():
    truth = np.zeros((4, 2, 2, 3), np.uint8)
    truth[2:] = 10
    guess = np.full_like(truth, 7)
    guess[3] = 12
    drawing = model_figures.prediction_drawing(
        [Prediction(truth, guess, 2, "a")], 1, ""
    )
    assert drawing.tables[""] == [
        {"prediction": "a", "seen_rows": 2, "step": 1, "model_mse": 9, "copy_mse": 100},
        {"prediction": "a", "seen_rows": 2, "step": 2, "model_mse": 4, "copy_mse": 100},
    ]
    assert "over 1 predictions, in grey levels squared: 6;" in drawing.caption
    assert "copied: 100." in drawing.caption
    with pytest.raises(ValueError, match="nothing was predicted"):
        model_figures.prediction_drawing([], 1, "")


def rewards(task="partial", **changes):
    true = np.array([[0, 0], [1, 1], [2, np.nan], [3, np.nan]], float)
    predicted = np.tile(true, 3) + 0.5
    imagined = np.arange(20.0)[:, None] + np.array([-1.0, 0.0, 1.0])
    values = Rewards(task, true, predicted, imagined, 3, 3.0, 3.0, False)
    return values._replace(**changes)


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_figure_4_shows_medians_beside_the_truth():
    drawing = model_figures.reward_drawing([rewards()], last=4)
    left, right = drawing.figure.axes
    assert set(lines(left)) == {"true", "predicted"}
    np.testing.assert_allclose(lines(left)["true"].get_ydata(), [0, 1, 2, 3])
    np.testing.assert_allclose(
        lines(left)["predicted"].get_ydata(), [0.5, 1.5, 2.5, 3.5]
    )
    assert set(lines(right)) == {"in the model", "highest demonstrated"}
    np.testing.assert_allclose(lines(right)["in the model"].get_ydata(), np.arange(20))
    assert lines(right)["highest demonstrated"].get_ydata()[0] == 3
    # Of the last four steps, 16 to 19.
    assert "mean of last 4 steps: 17.50" in right.get_title(loc="left")
    assert "17.50 (partial)" in drawing.caption
    # The episodes' highest are 3 and 1.
    assert "the true one is highest: 2.50 (partial)." in drawing.caption
    assert "of demonstrations alone" in drawing.caption
    assert "2 episodes and 3 rollouts, n = 3 seeds" in drawing.caption
    assert [axes.get_ylabel() for axes in (left, right)] == ["reward"] * 2
    assert left.get_xlabel() == "environment steps"


def test_figure_4s_medians_end_with_half_of_the_episodes():
    one = rewards()
    one.true[3] = np.nan
    values = np.concatenate([one.true, np.full((4, 1), np.nan)], axis=1)
    values[0, 2] = 0
    drawing = model_figures.reward_drawing([rewards(true=values)])
    # Three episodes of one, two and three rows.
    assert lines(drawing.figure.axes[0])["true"].get_xdata().tolist() == [0, 1]


def test_figure_4_marks_what_online_episodes_had():
    drawing = model_figures.reward_drawing(
        [
            rewards(trained=4.0, online=True),
            rewards("mixed", demonstrated=np.nan, trained=np.nan),
        ]
    )
    first, second = drawing.figure.axes[1], drawing.figure.axes[3]
    assert lines(first)["highest online"].get_ydata()[0] == 4
    assert set(lines(second)) == {"in the model"}
    assert "MOTO's last checkpoints" in drawing.caption
    assert "task mixed" in drawing.figure.axes[2].get_title(loc="left")
    with pytest.raises(ValueError, match="no model"):
        model_figures.reward_drawing([])


def test_figure_4s_numbers():
    rows = model_figures.reward_drawing([rewards()]).tables[""]
    assert len(rows) == 4 + 4 + 20
    third = rows[2]
    assert (third["series"], third["step"], third["number"]) == ("true", 2, 1)
    assert third["median"] == third["mean"] == 2
    last = rows[-1]
    assert (last["series"], last["step"], last["median"]) == ("imagined", 19, 19)
    assert last["quantile_05"] == pytest.approx(18.1)
    assert last["highest_demonstrated"] == 3


def gaps(task="partial"):
    return Gaps(
        task,
        "the demonstrator",
        100.0,
        seed=np.array([0, 0, 4]),
        updates=np.array([10, 20, 10]),
        uncertainty=np.array([1.0, 2.0, 3.0]),
        raw_uncertainty=np.array([0.1, 0.3, 0.5]),
        gap=np.array([20.0, 80.0, 80.0]),
    )


def test_figure_5_shows_every_checkpoint_and_both_lines():
    drawing = gap_figure.gap_drawing([gaps()], horizon=7)
    (axes,) = drawing.figure.axes
    drawn = lines(axes)
    assert drawn["seed 0"].get_xydata().tolist() == [[1, 20], [2, 80]]
    assert drawn["seed 4"].get_xydata().tolist() == [[3, 80]]
    bound = drawn["c = 40"]
    np.testing.assert_allclose(bound.get_ydata(), 40 * bound.get_xdata())
    assert bound.get_linestyle() == "-"
    fit = drawn["least squares"]
    np.testing.assert_allclose(fit.get_xydata(), [[1, 30], [3, 90]], atol=1e-9)
    assert fit.get_linestyle() == ":"
    assert axes.get_ylabel() == "performance gap (return)"
    assert "uncertainty" in axes.get_xlabel()
    for fact in (
        "along 7 recorded",
        "n = 3",
        "the demonstrator",
        "c = 40",
        "all points 0.87 [",
    ):
        assert fact in drawing.caption


def test_figure_5s_numbers():
    rows = gap_figure.gap_drawing([gaps(), gaps("mixed")], horizon=7).tables[""]
    assert len(rows) == 6
    wanted = {"task": "partial", "seed": 0, "updates": 20, "uncertainty": 2, "gap": 80}
    assert wanted.items() <= rows[1].items()
    assert rows[1]["bound"] == 40 and rows[1]["expert_return"] == 100
    assert rows[1]["least_squares_slope"] == pytest.approx(30)
    # Seed 0 rises, and the one point of seed 4 says nothing.
    assert rows[1]["within_seeds"] == 1 and rows[1]["raw_uncertainty"] == 0.3
    assert rows[3]["task"] == "mixed"
    with pytest.raises(ValueError, match="no checkpoint"):
        gap_figure.gap_drawing([], horizon=7)


def test_a_policy_better_than_the_expert_is_still_in_the_picture():
    values = gaps()._replace(gap=np.array([-30.0, -10.0, 20.0]))
    (axes,) = gap_figure.gap_drawing([values], horizon=7).figure.axes
    low, high = axes.get_ylim()
    assert low < -30 and high > 20
