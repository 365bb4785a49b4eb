"""Muon (Jordan, 2024) for weight matrices, many of them made orthogonal at once.

`optax.contrib.muon` takes each leaf by itself, some 26 kernels on a GPU, and an update
of the small presets has 23 of them. Here those of like sizes are padded with zeros and
stacked, which changes nothing: zero rows and columns stay zero in every product of
Newton and Schulz. State and numbers are optax's, but for rounding.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from moto_jax.types import Params

_MOMENTUM = 0.95

# Multiplications of one iteration that are worth a stack less: a few hundredths of what
# an update of the small presets takes on a CPU, and the time of its kernels on a GPU.
_STACK_WORTH = 45_000_000


@dataclasses.dataclass(frozen=True)
class Stack:
    """Leaves whose matrices are made orthogonal together.

    Attributes:
      leaves: their numbers.
      count: matrices, an ensemble's members each one.
      rows: of the padded matrices, the shorter side.
      columns: of the padded matrices.
    """

    leaves: tuple[int, ...]
    count: int
    rows: int
    columns: int

    @property
    def cost(self) -> int:
        """Multiplications of an iteration: X X', its square, and their sum times X."""
        return self.count * self.rows**2 * (self.rows + 2 * self.columns)

    def joined(self, other: "Stack") -> "Stack":
        """Returns both in one."""
        return Stack(
            self.leaves + other.leaves,
            self.count + other.count,
            max(self.rows, other.rows),
            max(self.columns, other.columns),
        )


def muon(
    learning_rate: optax.ScalarOrSchedule,
    adam_learning_rate: optax.ScalarOrSchedule,
    *,
    epsilon: float,
    weight_decay: float,
) -> optax.GradientTransformation:
    """Returns Muon for kernels with several outputs, and AdamW for the rest.

    Kernels are [in, out], [members, in, out] of an ensemble, or [height, width, in,
    out] of a convolution, one matrix of all its taps. Both have Nesterov's momentum.

    Args:
      learning_rate: of the matrices.
      adam_learning_rate: of the rest.
      epsilon: what is added to what is divided by, Adam's and Muon's.
      weight_decay: decoupled, multiplied by either rate.
    """

    def label(path: Any, leaf: jax.Array) -> str:
        matrix = path[-1].key == "kernel" and leaf.shape[-1] > 1
        return "muon" if matrix else "adam"

    of_matrices = optax.chain(
        _scale_by_muon(epsilon),
        optax.stateless(_scale_by_shape),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )
    of_the_rest = optax.adamw(
        adam_learning_rate, eps=epsilon, weight_decay=weight_decay, nesterov=True
    )
    return optax.partition(
        {"muon": of_matrices, "adam": of_the_rest},
        lambda params: jax.tree_util.tree_map_with_path(label, params),
    )


def plan_stacks(shapes: Sequence[tuple[int, ...]]) -> list[Stack]:
    """Returns stacks of all leaves, joined where padding costs less than a stack.

    Args:
      shapes: count, rows and columns of each leaf's matrices.
    """
    stacks = [
        Stack((leaf,), count, min(rows, columns), max(rows, columns))
        for leaf, (count, rows, columns) in enumerate(shapes)
    ]

    def padding(pair: tuple[Stack, Stack]) -> int:
        return pair[0].joined(pair[1]).cost - pair[0].cost - pair[1].cost

    while True:
        pairs = [(a, b) for n, a in enumerate(stacks) for b in stacks[n + 1 :]]
        best = min(pairs, key=padding, default=None)
        if best is None or padding(best) > _STACK_WORTH:
            return stacks
        stacks = [stack for stack in stacks if stack not in best]
        stacks.append(best[0].joined(best[1]))


def _scale_by_muon(epsilon: float) -> optax.GradientTransformation:
    """Nesterov's momentum made orthogonal; the state is `optax.contrib.MuonState`."""

    def init(params: Params) -> optax.OptState:
        return optax.contrib.scale_by_muon().init(params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        count = optax.safe_increment(state.count)
        mean = optax.tree.update_moment(updates, state.mu, _MOMENTUM, 1)
        ahead: Any = jax.tree.map(
            lambda mean, gradient: _MOMENTUM * mean + (1 - _MOMENTUM) * gradient,
            optax.tree.bias_correction(mean, _MOMENTUM, optax.safe_increment(count)),
            optax.tree.bias_correction(updates, _MOMENTUM, count),
        )
        leaves, structure = jax.tree.flatten(ahead)
        moved = jax.tree.unflatten(structure, _orthogonal(leaves, epsilon))
        return moved, state._replace(count=count, mu=mean)

    return optax.GradientTransformation(init, update)


def _orthogonal(leaves: Sequence[jax.Array], epsilon: float) -> list[jax.Array]:
    """Returns kernels with their matrices' singular values near one."""
    # Optax's iteration of Newton and Schulz alone: no momentum.
    orthogonalise = optax.contrib.scale_by_muon(
        beta=0.0,
        nesterov=False,
        eps=epsilon,
        weight_dimension_numbers=optax.contrib.MuonDimensionNumbers(1, 2),
    )
    matrices = [_matrices(leaf) for leaf in leaves]
    moved = list(leaves)
    for stack in plan_stacks([each.shape for each in matrices]):
        padded = jnp.concatenate([_padded(matrices[n], stack) for n in stack.leaves])
        found: Any = orthogonalise.update(padded, orthogonalise.init(padded))[0]
        end = 0
        for n in stack.leaves:
            start, end = end, end + len(matrices[n])
            part = _unpadded(found[start:end], matrices[n].shape)
            moved[n] = part.reshape(leaves[n].shape)
    return moved


def _matrices(leaf: jax.Array) -> jax.Array:
    """Returns a kernel as matrices [n, in, out]."""
    members = leaf.shape[0] if leaf.ndim == 3 else 1
    return leaf.reshape((members, -1, leaf.shape[-1]))


def _padded(matrices: jax.Array, stack: Stack) -> jax.Array:
    """Returns matrices [n, in, out] as those of their stack, wide ones."""
    if matrices.shape[1] > matrices.shape[2]:
        matrices = matrices.mT
    _, rows, columns = matrices.shape
    beside = (0, 0), (0, stack.rows - rows), (0, stack.columns - columns)
    return jnp.pad(matrices, beside)


def _unpadded(matrices: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns a stack's matrices as they were, [n, in, out]."""
    _, inputs, outputs = shape
    wide = matrices[:, : min(inputs, outputs), : max(inputs, outputs)]
    return wide.mT if inputs > outputs else wide


def _scale_by_shape(updates: Any, params: Any = None) -> Any:
    """Scales steps by sqrt(max(1, out / in)), as Muon's author does."""
    del params

    def scaled(leaf: jax.Array) -> jax.Array:
        _, inputs, outputs = _matrices(leaf).shape
        return max(1.0, outputs / inputs) ** 0.5 * leaf

    return jax.tree.map(scaled, updates)
