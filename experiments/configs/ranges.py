"""What a value of the configuration may be: a test, and the same in words."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Range(NamedTuple):
    """Values that a key takes.

    Attributes:
      says: which they are, after the word "use".
      holds: value -> whether it is one.
    """

    says: str
    holds: Callable[[Any], bool]


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return numeric and math.isfinite(value)


def at_least(low: int) -> Range:
    """Returns the integers from one on."""
    return Range(
        f"a whole number, {low} or more",
        lambda value: _is_integer(value) and value >= low,
    )


def one_of(*values: Any) -> Range:
    """Returns a few values."""
    return Range(
        "one of " + ", ".join(str(value) for value in values),
        lambda value: value in values,
    )


def between(low: float, high: float) -> Range:
    """Returns the numbers from one to another, both included."""
    return Range(
        f"a number from {low:g} to {high:g}",
        lambda value: _is_number(value) and low <= value <= high,
    )


POSITIVE = Range("a number above 0", lambda value: _is_number(value) and value > 0)
NOT_NEGATIVE = Range(
    "a number, 0 or more", lambda value: _is_number(value) and value >= 0
)
SHARE = between(0, 1)
# Of which nothing is nothing at all.
POSITIVE_SHARE = Range(
    "a number above 0, at most 1", lambda value: _is_number(value) and 0 < value <= 1
)
BELOW_ONE = Range(
    "a number from 0 to below 1", lambda value: _is_number(value) and 0 <= value < 1
)
SHARE_OR_NEGATIVE = Range(
    "a number up to 1", lambda value: _is_number(value) and value <= 1
)
NUMBER = Range("a number", _is_number)
SWITCH = Range("true or false", lambda value: isinstance(value, bool))
TEXT = Range("text", lambda value: isinstance(value, str))
NAME = Range("text, not empty", lambda value: isinstance(value, str) and value != "")
SEED = Range(
    "a whole number from 0 to below 2**32",
    lambda value: _is_integer(value) and 0 <= value < 2**32,
)
SEEDS = Range(
    "different whole numbers from 0 to below 2**32, such as 0,1,2",
    lambda value: (
        isinstance(value, tuple | list)
        and 0 < len(value) == len(set(value))
        and all(map(SEED.holds, value))
    ),
)
