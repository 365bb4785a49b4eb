"""The scan of recurrent models: `lax.scan`'s values and gradients, in other kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from moto_jax.learning.scans import controlled_scan, keep

STEPS, ROWS, STATE, CONTROL = 7, 3, 4, 5


def problem():
    """Parameters of a recurrence, its first carry and its inputs, of all kinds."""
    keys = iter(jax.random.split(jax.random.key(0), 8))

    def normal(*shape):
        return jax.random.normal(next(keys), shape)

    params = {
        "choose": normal(STATE, CONTROL),
        "noise": jnp.float32(0.3),
        "push": 0.5 * normal(CONTROL, STATE),
        "hold": jnp.float32(0.8),
    }
    carry = {"h": normal(ROWS, STATE), "count": jnp.zeros(ROWS)}
    xs = {
        "seen": normal(STEPS, ROWS, STATE),
        "first": jax.random.bernoulli(next(keys), 0.3, (STEPS, ROWS)),
        "key": jax.random.split(next(keys), STEPS),
    }
    return params, carry, xs


def functions(params):
    """A control and what follows on it, both of which close over their parameters."""

    def control(carry, x):
        hidden = keep((carry["h"] + x["seen"]) @ params["choose"])
        noise = jax.random.normal(x["key"], hidden.shape)
        return jnp.tanh(hidden + params["noise"] * noise)

    def follow(carry, u, x):
        held = jnp.where(x["first"][:, None], 0.0, params["hold"] * carry["h"])
        moved = held + jnp.sin(keep(u @ params["push"]))
        following = {"h": moved, "count": carry["count"] + 1}
        return following, jnp.sum(moved**2, axis=-1)

    return control, follow


def plain(params, carry, xs):
    """The same by `lax.scan` and its own gradient."""
    control, follow = functions(params)

    def step(carry, x):
        u = control(carry, x)
        following, y = follow(carry, u, x)
        return following, (following, u, y)

    _, (after, controls, ys) = jax.lax.scan(step, carry, xs)
    carries = jax.tree.map(
        lambda row, rows: jnp.concatenate([row[None], rows]), carry, after
    )
    return carries, controls, ys


def apart(params, carry, xs, **options):
    return controlled_scan(*functions(params), carry, xs, **options)


def scalar(outputs):
    """A number that every output counts in, each row of it otherwise."""
    return sum(
        jnp.sum(jnp.cos(leaf + jnp.arange(leaf.size).reshape(leaf.shape)))
        for leaf in jax.tree.leaves(outputs)
    )


def gradient(scan):
    def total(params, carry, seen, rest):
        return scalar(scan(params, carry, {**rest, "seen": seen}))

    return jax.jit(jax.grad(total, argnums=(0, 1, 2)))


def arguments():
    params, carry, xs = problem()
    return params, carry, xs.pop("seen"), xs


def test_values_are_those_of_a_plain_scan():
    expected, found = jax.jit(plain)(*problem()), jax.jit(apart)(*problem())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        expected,
        found,
    )


@pytest.mark.parametrize("rematerialise", [False, True])
def test_every_gradient_is_that_of_a_plain_scan(rematerialise):
    found = gradient(lambda *args: apart(*args, rematerialise=rematerialise))
    expected = gradient(plain)(*arguments())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        expected,
        found(*arguments()),
    )
    for leaf in jax.tree.leaves((expected[0], expected[1]["h"], expected[2])):
        assert np.all(np.abs(leaf) > 1e-6)


def test_seeds_side_by_side():
    params, *others = arguments()
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)

    def over_seeds(scan):
        return jax.vmap(gradient(scan), (0, None, None, None))(both, *others)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        over_seeds(plain),
        over_seeds(apart),
    )


def equations_of(program):
    """All equations of a program, however deep."""
    for equation in program.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations_of(inner)


def scans_of(program):
    """All scans of a program, however deep."""
    return [one for one in equations_of(program) if one.primitive.name == "scan"]


def kept_shapes(scan):
    """Shapes that the loops of a gradient hand out."""
    found = scans_of(jax.make_jaxpr(gradient(scan))(*arguments()).jaxpr)
    return [variable.aval.shape for loop in found for variable in loop.outvars]


def test_no_loop_sums_the_gradient_of_what_the_control_learns():
    weights = (STATE, CONTROL)
    assert weights in kept_shapes(plain)
    assert weights not in kept_shapes(apart)


def test_loops_keep_products_alone():
    """Not what the tanh, the sine and their sums leave, of which there is much."""
    few, many = len(kept_shapes(apart)), len(kept_shapes(plain))
    assert few < many
    fewest = len(kept_shapes(lambda *args: apart(*args, rematerialise=True)))
    assert fewest == few - 2
