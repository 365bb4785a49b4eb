"""A scan for recurrent models, whose gradient takes few and large kernels.

Autodiff of `lax.scan` keeps every intermediate of every step for the backward loop, and
adds up each weight's gradient step by step inside it: on a GPU most of the kernels of
an update, each too small to fill it. Here the matrix products alone are kept, what lies
between them is computed again, and weights get their gradient after the loop, from all
steps at once.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

# Name of the intermediates that the backward loop of `controlled_scan` finds kept.
_KEPT = "kept_for_the_backward_loop"


def keep(value: jax.Array) -> jax.Array:
    """Returns the value, kept for the backward loop where it is inside a scan.

    For what is dear to compute again, such as a matrix product.
    """
    return checkpoint_name(value, _KEPT)


def controlled_scan(
    control: Callable[[Any, Any], Any],
    follow: Callable[[Any, Any, Any], tuple[Any, Any]],
    carry: Any,
    xs: Any,
    *,
    rematerialise: bool = False,
) -> tuple[Any, Any, Any]:
    """Scans u = control(carry, x), then carry, y = follow(carry, u, x).

    The gradient is that of `lax.scan`, also with respect to what the two functions
    close over. That of `control`'s is taken by applying it to all T steps at once, so
    what learns belongs there; that of `follow`'s is summed inside the backward loop.

    Args:
      control: (carry, x) -> u, floats.
      follow: (carry, u, x) -> (next carry, y).
      carry: the first one, floats.
      xs: arrays [T, ...].
      rematerialise: whether the backward loop finds nothing kept but each step's carry.

    Returns:
      The carries [T + 1, ...] from the first to the last, the controls u [T, ...] and
      the ys [T, ...].
    """
    first = jax.tree.map(lambda leaf: leaf[0], xs)
    convert: Any = jax.closure_convert
    control, learnt = convert(control, carry, first)
    shape = jax.eval_shape(control, carry, first, *learnt)
    follow, fixed = convert(follow, carry, shape, first)
    last, before, controls, ys = _scan(  # pyright: ignore[reportGeneralTypeIssues]
        control, follow, rematerialise, learnt, fixed, carry, xs
    )
    carries = jax.tree.map(
        lambda rows, row: jnp.concatenate([rows, row[None]]), before, last
    )
    return carries, controls, ys


@jax.custom_vjp
def _tap(value: Any, slot: Any) -> Any:
    """Returns the value; its cotangent is also the slot's."""
    del slot
    return value


_tap.defvjp(lambda value, slot: (value, None), lambda _, cotangent: (cotangent,) * 2)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _scan(control, follow, rematerialise, learnt, fixed, carry, xs):
    return _run(control, follow, rematerialise, learnt, fixed, carry, xs)


def _run(control, follow, rematerialise, learnt, fixed, carry, xs, slots=None):
    """The scan; `slots` [T, ...] are there to receive the cotangents of controls."""

    def step(carry, inputs):
        x, slot = inputs
        u = control(carry, x, *learnt)
        u = u if slot is None else _tap(u, slot)
        following, y = follow(carry, u, x, *fixed)
        return following, (carry, u, y)

    kept = () if rematerialise else (_KEPT,)
    policy = jax.checkpoint_policies.save_only_these_names(*kept)
    # A scan is barrier enough; the one of `prevent_cse` would cut fusions apart.
    step = jax.checkpoint(step, policy=policy, prevent_cse=False)
    last, (carries, controls, ys) = jax.lax.scan(step, carry, (xs, slots))
    return last, carries, controls, ys


def _forward(control, follow, rematerialise, learnt, fixed, carry, xs):
    first = jax.tree.map(lambda leaf: leaf[0], xs)
    length = jax.tree.leaves(xs)[0].shape[0]
    slots = jax.tree.map(
        lambda leaf: jnp.zeros((length, *leaf.shape), leaf.dtype),
        jax.eval_shape(control, carry, first, *learnt),
    )

    def run(fixed, carry, slots):
        return _run(control, follow, rematerialise, learnt, fixed, carry, xs, slots)

    outputs, pull = jax.vjp(run, fixed, carry, slots)
    return outputs, (pull, learnt, xs, outputs[1])


def _backward(control, follow, rematerialise, residuals, cotangents):
    del follow, rematerialise
    pull, learnt, xs, carries = residuals
    of_fixed, of_carry, of_controls = pull(cotangents)

    def controls(learnt, xs):
        return jax.vmap(lambda carry, x: control(carry, x, *learnt))(carries, xs)

    _, pull_all = jax.vjp(controls, learnt, xs)
    of_learnt, of_xs = pull_all(of_controls)
    return of_learnt, of_fixed, of_carry, of_xs


_scan.defvjp(_forward, _backward)
