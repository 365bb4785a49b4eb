"""How pictures look: colours that colour-blind readers tell apart, lines, files.

Colours are Okabe and Ito's; whatever shares a panel also differs in line style and
marker.
"""

import io
import os
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

BLUE, VERMILLION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
SKY, ORANGE, PURPLE, BLACK = "#56B4E9", "#E69F00", "#CC79A7", "#000000"
WINE, OLIVE = "#882255", "#999933"

DPI = 160

STYLE: dict[Any, Any] = {
    # Whatever the user's own settings ask for, LaTeX among it.
    **{
        name: value
        for name, value in matplotlib.rcParamsDefault.items()
        if not name.startswith("backend")
    },
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.dpi": DPI,
}

# In print: widths in inches of one column of a page and of two, and smaller letters.
COLUMN, DOUBLE_COLUMN = 3.3, 6.9
PRINT_STYLE: dict[Any, Any] = {
    **STYLE,
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.2,
    "savefig.dpi": 200,
    # Letters stay letters in a PDF.
    "pdf.fonttype": 42,
}


class Look(NamedTuple):
    """How a system is drawn."""

    colour: str
    line: Any
    marker: str


# By what each is called in `study.systems`.
LOOKS = {
    "MOTO": Look(BLUE, "-", "o"),
    "DreamerV2": Look(VERMILLION, "--", "s"),
    "LOMPO": Look(GREEN, "-.", "^"),
    "COMBO": Look(ORANGE, ":", "v"),
    "CQL": Look(PURPLE, (0, (5, 1, 1, 1)), "D"),
    "IQL": Look(SKY, (0, (3, 1)), "P"),
    "SAC": Look(GREY, (0, (1, 1)), "X"),
    "BC": Look(BLACK, (0, (7, 2)), "*"),
    "RLPD": Look(WINE, (0, (2, 1, 2, 1, 1, 1)), "h"),
    "Cal-QL": Look(OLIVE, (0, (9, 1)), "<"),
    "no penalty": Look(SKY, "-.", "^"),
    "no prior": Look(ORANGE, ":", "v"),
    "neither": Look(PURPLE, (0, (5, 1, 1, 1)), "D"),
}


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes the figure whole or not at all; its ending decides the format."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    # Equal figures give equal files.
    metadata = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    try:
        figure.savefig(temporary, metadata=metadata.get(path.suffix))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def png_bytes(figure: Figure) -> bytes:
    """Returns the figure as a PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
