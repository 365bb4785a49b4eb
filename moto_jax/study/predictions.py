"""Open-loop predictions against what happened: where to look, and how far off."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

# An object reaches its goal after this share of the predicted rows: what moves it lies
# in the prediction, and so does what it looks like afterwards.
_COMPLETION_AT = 0.6


class Cut(NamedTuple):
    """A sequence out of an episode.

    Attributes:
      name: of the object that reaches its goal in it.
      start: its first row.
    """

    name: str
    start: int


def choose_cuts(
    completion: Mapping[str, int], rows: int, context: int, predicted: int
) -> list[Cut]:
    """Returns a cut for each object that reaches its goal.

    Args:
      completion: object -> the first row in which it is in its goal, -1 if never.
      rows: of the episode.
      context: rows at a cut's beginning that are seen.
      predicted: rows after those that are predicted.

    Raises:
      ValueError: if the episode is shorter than a cut.
    """
    length = context + predicted
    if length > rows:
        raise ValueError(
            f"{context} seen and {predicted} predicted frames are more than the "
            f"{rows} of the episode: ask for fewer"
        )
    before = context + round(_COMPLETION_AT * predicted)
    return [
        Cut(name, int(np.clip(row - before, 0, rows - length)))
        for name, row in completion.items()
        if row >= 0
    ]


def prediction_errors(
    truth: np.ndarray, prediction: np.ndarray, context: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean squared errors in grey levels squared, float64 [T - context, B].

    Args:
      truth: uint8 [T, B, height, width, 3].
      prediction: of the same shape.
      context: rows that were seen.

    Returns:
      Those of the prediction, and those of a copy of the last row seen.
    """
    ahead = truth[context:].astype(np.float64)
    return (
        np.square(prediction[context:] - ahead).mean(axis=(2, 3, 4)),
        np.square(truth[context - 1] - ahead).mean(axis=(2, 3, 4)),
    )
