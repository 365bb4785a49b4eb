"""Muon in stacks, beside optax's own, a matrix at a time."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from moto_jax.learning.muon import muon, plan_stacks

SHAPES = {
    "square": {"kernel": (8, 8), "bias": (8,)},
    "tall": {"kernel": (20, 8)},
    "wide": {"kernel": (8, 30), "scale": (30,)},
    "members": {"kernel": (3, 8, 9), "bias": (3, 9)},
    "taps": {"kernel": (2, 3, 4, 5)},
    "three_outputs": {"kernel": (7, 3)},
    "one_output": {"kernel": (8, 1), "bias": (1,)},
}


def random_tree(seed):
    random = np.random.default_rng(seed)
    # Of sizes far apart, as gradients of different layers are.
    return jax.tree.map(
        lambda shape: jnp.asarray(
            10 ** random.uniform(-3, 2) * random.normal(size=shape)
        ),
        SHAPES,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def dimensions(params):
    """What optax is told of each leaf: the axes that its matrix maps from and to."""

    def axes(path, leaf):
        if path[-1].key != "kernel" or leaf.shape[-1] == 1:
            return None
        inputs = (0, 1, 2) if leaf.ndim == 4 else leaf.ndim - 2
        return optax.contrib.MuonDimensionNumbers(inputs, leaf.ndim - 1)

    return jax.tree_util.tree_map_with_path(axes, params)


class TestMuon:
    RATES = (optax.cosine_decay_schedule(0.1, 5), optax.cosine_decay_schedule(0.01, 5))

    @pytest.mark.parametrize("worth", [-1, 1_000, 10**12])
    def test_moves_and_remembers_what_optax_does(self, worth, monkeypatch):
        """Each leaf by itself, some together, all in one stack."""
        monkeypatch.setattr("moto_jax.learning.muon._STACK_WORTH", worth)
        several = [(1, 8, 8), (1, 20, 8), (1, 8, 30), (3, 8, 9), (1, 24, 5), (1, 7, 3)]
        assert len(plan_stacks(several)) == {-1: 6, 1_000: 5, 10**12: 1}[worth]
        ours = muon(*self.RATES, epsilon=1e-5, weight_decay=0.3)
        theirs = optax.contrib.muon(
            self.RATES[0],
            adam_learning_rate=self.RATES[1],
            eps=1e-5,
            weight_decay=0.3,
            adam_weight_decay=0.3,
            muon_weight_dimension_numbers=dimensions,
        )
        # In double precision, for the iteration makes much of rounding.
        with jax.enable_x64(True):
            params = random_tree(0)
            states = [ours.init(params), theirs.init(params)]
            # A checkpoint of either is one of the other.
            assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
            for number in range(1, 4):
                gradients = random_tree(number)
                steps = [
                    jax.jit(one.update)(gradients, state, params)
                    for one, state in zip((ours, theirs), states, strict=True)
                ]
                chex.assert_trees_all_close(*steps, rtol=1e-9, atol=1e-12)
                states = [state for _, state in steps]
                params = optax.apply_updates(params, steps[1][0])


class TestPlan:
    def test_like_matrices_share_a_stack_and_unlike_ones_do_not(self):
        stacks = plan_stacks([(1, 200, 200), (1, 512, 456), (4, 256, 200)])
        found = {stack.leaves: (stack.rows, stack.columns) for stack in stacks}
        assert {tuple(sorted(leaves)) for leaves in found} == {(0, 2), (1,)}
        assert sorted(found.values()) == [(200, 256), (456, 512)]

    def test_every_leaf_is_in_one_stack(self):
        random = np.random.default_rng(0)
        shapes = [tuple(map(int, random.integers(1, 600, 3))) for _ in range(20)]
        stacks = plan_stacks(shapes)
        leaves = [leaf for stack in stacks for leaf in stack.leaves]
        assert sorted(leaves) == list(range(20))
        for stack in stacks:
            several = [shapes[leaf] for leaf in stack.leaves]
            assert stack.count == sum(count for count, _, _ in several)
            assert stack.rows == max(min(rows, columns) for _, rows, columns in several)
            assert stack.columns == max(max(shape[1:]) for shape in several)

    def test_the_small_presets_pay_a_few_hundredths(self):
        # The world model's leaves of the preset `cpu`.
        shapes = [
            *((1, 456, 512), (1, 12800, 64), (1, 1600, 32), (1, 1152, 16), (1, 576, 3)),
            *((1, 48, 16), (1, 256, 32), (1, 512, 64), (1, 1024, 128), (1, 456, 200)),
            *((1, 200, 200), (1, 400, 600), (1, 512, 200), (1, 200, 200)),
            *((1, 200, 256), (4, 200, 200), (4, 200, 256), (1, 265, 200)),
        ]
        alone = [plan_stacks([shape])[0] for shape in shapes]
        stacks = plan_stacks(shapes)
        assert len(stacks) <= 8
        assert sum(s.cost for s in stacks) < 1.1 * sum(s.cost for s in alone)

    def test_nothing_to_stack(self):
        assert plan_stacks([]) == []
