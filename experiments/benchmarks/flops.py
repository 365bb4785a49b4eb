"""Counts the arithmetic of a traced function: scan bodies as often as they run.

XLA's own cost analysis counts the body of a loop once.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def count_flops(function: Callable[..., Any], *args: Any) -> float:
    """Returns the floating-point operations of the matrix products and convolutions.

    A multiplication and its addition count as two; products with the zeros that a
    dilated convolution stands for do not count. Everything else is left out: at the
    sizes here it is a few per cent. Of the branches of a conditional the first counts.

    Args:
      function: of arrays.
      *args: arrays, or their shapes and dtypes.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> float:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _dot(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name == "scan":
        return params["length"] * _count(params["jaxpr"].jaxpr)
    if name == "cond":
        return _count(params["branches"][0].jaxpr)
    if name == "while":
        raise ValueError("a while loop has no length to count: use a scan")
    return sum(_count(inner) for inner in _jaxprs(params))


def _jaxprs(params: dict[str, Any]) -> list[Any]:
    """Returns the jaxprs that a primitive such as `jit` or `custom_vjp` holds."""
    found = []
    for value in params.values():
        if isinstance(value, core.ClosedJaxpr):
            found.append(value.jaxpr)
        elif isinstance(value, core.Jaxpr):
            found.append(value)
    return found


def _dot(equation: Any) -> float:
    left, _ = (variable.aval.shape for variable in equation.invars)
    (contracted, _), _ = equation.params["dimension_numbers"]
    inner = math.prod(left[axis] for axis in contracted)
    return 2.0 * inner * math.prod(equation.outvars[0].aval.shape)


def _convolution(equation: Any) -> float:
    params = equation.params
    numbers = params["dimension_numbers"]
    kernel = equation.invars[1].aval.shape
    taps = math.prod(kernel) / kernel[numbers.rhs_spec[0]]
    dilation = math.prod(params["lhs_dilation"])
    return 2.0 * taps * math.prod(equation.outvars[0].aval.shape) / dilation
