"""Pictures of runs as small as a phone's screen: objects, and where the time went."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from moto_jax.run_layout import POLICIES
from moto_jax.study.comparison import axis_label, draw_curves
from moto_jax.study.style import (
    BLACK,
    BLUE,
    COLUMN,
    GREEN,
    GREY,
    LOOKS,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    Look,
)
from moto_jax.study.systems import REACHED, System

# Of a legend that is as wide as the picture.
_LETTERS = 60

# Parts of a run as its stopwatch calls them, in the order in which they begin.
_PARTS = {
    "demonstrations": ORANGE,
    "compilation": PURPLE,
    "offline updates": BLUE,
    "online updates": SKY,
    "waiting for episodes": GREEN,
    "evaluation": VERMILLION,
    "checkpoints": BLACK,
}
OTHER = "other"


class Times(NamedTuple):
    """Where the time of a program went.

    Attributes:
      name: the program's.
      seconds: part -> seconds, in the order in which the parts begin.
    """

    name: str
    seconds: Mapping[str, float]

    @property
    def total(self) -> float:
        """Of all parts, seconds."""
        return sum(self.seconds.values())


def times(name: str, wall_seconds: Mapping[str, float]) -> Times:
    """Returns a program's parts in order, and what they leave of the total as another.

    Args:
      name: the program's.
      wall_seconds: of its summary: part -> seconds, and "total".
    """
    known = {part: wall_seconds[part] for part in _PARTS if part in wall_seconds}
    rest = wall_seconds.get("total", 0.0) - sum(known.values())
    # Each part is rounded to tenths of a second.
    return Times(name, known | ({OTHER: rest} if rest >= 1 else {}))


def parts_of(several: Sequence[Times]) -> list[str]:
    """Returns the parts that any of the programs has, in order."""
    present = {part for one in several for part in one.seconds}
    return [part for part in (*_PARTS, OTHER) if part in present]


# Where there is one system, its two policies.
_POLICY_LOOKS = {
    "mean policy": Look(BLUE, "-", "o"),
    "sampled policy": Look(VERMILLION, "--", "s"),
}


def object_figure(systems: Sequence[System], name: str) -> Figure:
    """Returns how often systems on one task get an object done, as they learn.

    Of several systems it is the mean policy, of one alone both.

    Args:
      systems: on the task.
      name: the object's.
    """
    labels = [system.label for system in systems]
    alone = len(systems) == 1
    shown = [*_POLICY_LOOKS] if alone else labels
    columns = max(1, min(3, _LETTERS // (8 + max(map(len, shown)))))
    height = 2.0 + 0.14 * -(-len(shown) // columns)
    figure = Figure(figsize=(COLUMN, height), layout="constrained")
    axes = figure.add_subplot()
    if alone:
        for policy, label in zip(POLICIES, _POLICY_LOOKS, strict=True):
            one = [systems[0]._replace(label=label)]
            draw_curves(axes, one, policy, f"{REACHED}{name}", _POLICY_LOOKS)
    else:
        unknown = [label for label in labels if label not in LOOKS]
        free = [look for label, look in LOOKS.items() if label not in labels]
        own = zip(unknown, itertools.cycle(free or LOOKS.values()), strict=False)
        draw_curves(axes, systems, "mean", f"{REACHED}{name}", {**LOOKS, **dict(own)})
    axes.set_title(name, loc="left")
    axes.set_xlabel(axis_label(systems))
    figure.legend(loc="outside lower center", ncols=columns, handlelength=2.4)
    return figure


def time_figure(several: Sequence[Times]) -> Figure:
    """Returns a bar a program, of its parts one after the other.

    Args:
      several: the programs; one at least.
    """
    parts = parts_of(several)
    height = 0.75 + 0.38 * len(several) + 0.14 * -(-len(parts) // 2)
    figure = Figure(figsize=(COLUMN, height), layout="constrained")
    axes = figure.add_subplot()
    for place, one in enumerate(several):
        left = 0.0
        for part in parts:
            minutes = one.seconds.get(part, 0.0) / 60
            colour = _PARTS.get(part, GREY)
            label = part if place == 0 else None
            axes.barh(place, minutes, height=0.45, left=left, color=colour, label=label)
            left += minutes
        axes.annotate(
            f"{one.name}: {left:.0f} min"
            if left >= 10
            else f"{one.name}: {left:.1f} min",
            (0.0, place - 0.28),
            xytext=(0, 1),
            textcoords="offset points",
            va="bottom",
        )
    axes.set_ylim(len(several) - 0.6, -0.8)
    axes.set_yticks([])
    axes.grid(False, axis="y")
    axes.set_xlabel("minutes")
    figure.legend(loc="outside lower center", ncols=2, handlelength=1.2)
    return figure
