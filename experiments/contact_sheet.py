"""Episodes at a glance: one row each of evenly spaced frames, as one picture."""

import os
from collections.abc import Sequence
from pathlib import Path

import imageio.v3
import numpy as np

from moto_jax.data.files import write_atomically

_PAPER = (255, 255, 255)
_EMPTY = (226, 226, 226)
_FILLED = (0, 114, 178)

# Of a sheet's pixels: a frame is enlarged to at least so many a side.
_FRAME = 160
_GAP = 6
_BAR = 5


def write_contact_sheet(
    path: str | os.PathLike[str],
    images: Sequence[np.ndarray],
    shares: Sequence[np.ndarray],
    columns: int = 8,
) -> None:
    """Writes a PNG; the first and the last frame of each episode are among the shown.

    Args:
      path: of the file; its directory exists.
      images: of each episode, uint8 [rows, height, width, 3], of one size.
      shares: of each episode, [rows] in [0, 1]: how far the bar below a frame is
        filled.
      columns: frames side by side.
    """
    scale = max(1, -(-_FRAME // images[0].shape[2]))
    strips = [
        _strip(frames, share, columns, scale)
        for frames, share in zip(images, shares, strict=True)
    ]
    between = np.full((2 * _GAP, strips[0].shape[1], 3), _PAPER, np.uint8)
    rows = [part for strip in strips for part in (strip, between)][:-1]
    margin = ((2 * _GAP, 2 * _GAP), (2 * _GAP, 2 * _GAP), (0, 0))
    sheet = np.pad(np.concatenate(rows), margin, constant_values=_PAPER[0])
    write_atomically(Path(path), imageio.v3.imwrite("<bytes>", sheet, extension=".png"))


def _strip(
    frames: np.ndarray, share: np.ndarray, columns: int, scale: int
) -> np.ndarray:
    """Returns an episode's frames side by side, each with its bar, uint8 [h, w, 3]."""
    chosen = np.linspace(0, len(frames) - 1, columns).round().astype(int)
    cells = []
    for row in chosen:
        large = frames[row].repeat(scale, axis=0).repeat(scale, axis=1)
        width = large.shape[1]
        bar = np.full((_BAR, width, 3), _EMPTY, np.uint8)
        bar[:, : round(float(share[row]) * width)] = _FILLED
        gap = np.full((2, width, 3), _PAPER, np.uint8)
        cells.append(np.concatenate([large, gap, bar]))
        cells.append(np.full((len(cells[-1]), _GAP, 3), _PAPER, np.uint8))
    return np.concatenate(cells[:-1], axis=1)
