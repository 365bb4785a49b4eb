"""What the benchmark counts and compares, and that each part runs at its smallest."""

import dataclasses
import json
from itertools import chain

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import benchmark
from experiments.benchmarks import (
    compilation,
    flops,
    frames,
    measure,
    overlap,
    plan,
    reference,
    sampling,
    scale,
    train,
    update,
)
from experiments.benchmarks.measure import Figure
from moto_jax.learning.networks.world_networks import Sizes
from moto_jax.learning.world_model import make_world_model, world_model_loss
from tests.fakes import random_batch

TINY = update.Size("tiny", 2, 6, updates=1, rounds=2)


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


class TestFlops:
    def test_products_count_two_a_multiplication(self):
        assert flops.count_flops(jnp.matmul, shape(3, 5), shape(5, 7)) == 2 * 3 * 5 * 7
        batched = flops.count_flops(jnp.matmul, shape(4, 3, 5), shape(4, 5, 7))
        assert batched == 4 * 2 * 3 * 5 * 7
        assert flops.count_flops(jnp.add, shape(3), shape(3)) == 0

    def test_a_gradient_is_two_more_products(self):
        def loss(weight, inputs):
            return jnp.sum(jnp.square(inputs @ weight))

        both = jax.grad(loss, argnums=(0, 1))
        assert flops.count_flops(both, shape(5, 7), shape(3, 5)) == 3 * 2 * 3 * 5 * 7

    def test_a_scans_body_counts_as_often_as_it_runs(self):
        def repeat(state, weight):
            step = jax.jit(lambda state, _: (state @ weight, None))
            return jax.lax.scan(step, state, length=11)[0]

        counted = flops.count_flops(repeat, shape(3, 5), shape(5, 5))
        assert counted == 11 * 2 * 3 * 5 * 5

    def test_an_unbounded_loop_is_refused(self):
        def repeat(state):
            return jax.lax.while_loop(lambda x: x[0] < 1, lambda x: x + 1, state)

        with pytest.raises(ValueError, match="while"):
            flops.count_flops(repeat, shape(3))

    def test_strided_and_transposed_convolutions_by_hand(self):
        kernel = shape(4, 4, 3, 8)

        def down(inputs, kernel):
            return jax.lax.conv_general_dilated(
                inputs,
                kernel,
                (2, 2),
                "VALID",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )

        # 31 x 31 outputs of 8 channels, each from 4 x 4 x 3 inputs.
        once = 2 * 31 * 31 * 8 * 4 * 4 * 3
        assert flops.count_flops(down, shape(1, 64, 64, 3), kernel) == once

        def up(inputs, kernel):
            return jax.lax.conv_transpose(inputs, kernel, (2, 2), "VALID")

        # Each of 30 x 30 inputs meets all 4 x 4 taps; the edge's outputs, which meet
        # fewer, make the count a little larger.
        counted = flops.count_flops(up, shape(1, 30, 30, 3), kernel)
        assert 1 <= counted / (2 * 30 * 30 * 4 * 4 * 3 * 8) < 1.1


RENAMED = {"HalvingConv": "Conv", "DoublingConv": "ConvTranspose"}


def renamed(tree):
    """The parameters under flax's names of the convolutions."""
    if not isinstance(tree, dict):
        return tree
    names = {
        f"{ours}_{layer}": f"{theirs}_{layer}"
        for ours, theirs in RENAMED.items()
        for layer in range(4)
    }
    return {names.get(name, name): renamed(value) for name, value in tree.items()}


@pytest.mark.parametrize(
    "make", [reference.make_plain_model, reference.make_straightforward_model]
)
def test_the_reference_is_the_same_model(make):
    sizes = Sizes(
        deter=5,
        hidden=6,
        groups=3,
        classes=4,
        members=2,
        depth=1,
        reward_layers=1,
        reward_units=5,
    )
    ours, theirs = make_world_model(sizes, action_size=2), make(sizes, action_size=2)
    params = jax.jit(ours.init)(jax.random.key(0))
    batch = random_batch(4, 3, action_size=2, image_size=64)

    def value_and_gradient(model, params):
        def loss(params):
            return world_model_loss(params, model, batch, jax.random.key(1))[0]

        return jax.jit(jax.value_and_grad(loss))(params)

    loss, gradient = value_and_gradient(ours, params)
    their_loss, their_gradient = value_and_gradient(theirs, renamed(params))
    np.testing.assert_allclose(loss, their_loss, rtol=1e-5)
    expected = renamed(gradient)
    assert jax.tree.structure(expected) == jax.tree.structure(their_gradient)
    for a, b in zip(
        jax.tree.leaves(expected), jax.tree.leaves(their_gradient), strict=True
    ):
        scale = np.abs(b).max() + 1e-6
        np.testing.assert_allclose(a / scale, b / scale, atol=1e-3)


class TestFigures:
    def test_ratio_is_above_one_where_ours_is_better(self):
        pairs = [(4.0, 2.0), (9.0, 3.0), (5.0, 5.0)]
        rate = measure.figure_of("a", "frames/s", "b", pairs)
        assert (rate.value, rate.reference_value) == (5.0, 3.0)
        assert (rate.ratio, rate.low, rate.high) == (2.0, 1.0, 3.0)
        time = measure.figure_of("a", "s", "b", pairs, less_is_better=True)
        assert (time.ratio, time.low, time.high) == (0.5, 1 / 3, 1.0)

    def test_rounds_take_turns_after_the_warm_up(self):
        calls = []

        def measured(name, values):
            values = iter(values)

            def once():
                calls.append(name)
                return next(values)

            return once

        figure = measure.compare(
            "a",
            "frames/s",
            measured("ours", [100, 6, 8]),
            "b",
            measured("theirs", [1, 2, 2]),
            rounds=2,
        )
        assert calls == 3 * ["ours", "theirs"]
        assert (figure.low, figure.high) == (3.0, 4.0)

    def test_a_line_of_json_has_what_readers_look_for(self, tmp_path):
        figure = Figure("update/cpu", 5.0, "frames/s", "plain", 1.0, 5.0, 4.0, 6.0)
        for _ in range(2):
            benchmark._append_json(tmp_path / "figures.jsonl", figure, "a machine")
        lines = (tmp_path / "figures.jsonl").read_text().splitlines()
        assert len(lines) == 2
        assert json.loads(lines[1]) == {
            "name": "update/cpu",
            "value": 5.0,
            "unit": "frames/s",
            "reference": "plain",
            "reference_value": 1.0,
            "ratio": 5.0,
            "low": 4.0,
            "high": 6.0,
            "hardware": "a machine",
        }

    def test_the_report_grows_by_sections(self, tmp_path):
        figure = Figure("update/cpu", 5.0, "frames/s", "plain", 1.0, 5.0, 4.0, 6.0)
        path = tmp_path / "results" / "benchmarks.md"
        for part in ("update", "train"):
            section = benchmark.markdown(
                [f"--part={part}"], [figure], ["a note", "    a drawing"]
            )
            benchmark._append_section(path, section)
        text = path.read_text()
        row = "| update/cpu | 5 | frames/s | plain | 1 | 5.00 | 4.00–6.00 |"
        assert text.count("# Benchmarks") == 1 and text.count(row) == 2
        assert text.count("\n- a note\n\n    a drawing\n") == 2
        assert "\n    python -m experiments.benchmark --part=train\n" in text
        assert "core" in text and "jax" in text

    def test_a_timeline_counts_by_column(self):
        updates, steps, _ = overlap.timeline(
            10.0, 72.0, [10.5, 12.1, 82.0], [11.5] * 20
        )
        assert updates.split()[1] == "1.1" + 68 * "." + "1"
        assert steps.split()[1] == ".9" + 70 * "."


def figures_of(part):
    """The figures of a part by name; every one is a finite, positive ratio."""
    items = list(part)
    figures = {item.name: item for item in items if isinstance(item, Figure)}
    for figure in figures.values():
        numbers = dataclasses.astuple(figure)
        for number in (one for one in numbers if not isinstance(one, str)):
            assert np.isfinite(number) and number > 0, figure
        assert figure.low <= figure.ratio <= figure.high
    assert any(isinstance(item, str) for item in items)
    return figures


class TestParts:
    @pytest.mark.slow
    def test_update(self):
        found = figures_of(update.measure_updates([TINY]))
        assert list(found) == [
            "update/tiny",
            "update/tiny/convolutions",
            "update/tiny/peak",
        ]

    def test_replay(self):
        found = figures_of(
            sampling.measure_replay(
                steps=2_000, batch_size=4, sequence_length=6, rounds=2, calls=2
            )
        )
        assert list(found) == ["replay/sample", "replay/memory", "replay/add"]
        # 8 episodes of 281 frames.
        assert found["replay/memory"].value > 0.8 * 8 * 281 * 64 * 64 * 3 / 1e9

    @pytest.mark.kitchen
    def test_frames_and_steps(self):
        found = figures_of(frames.measure_frames(1, 3, 1, states=2))
        assert list(found) == ["frame/fast", "frame/shaded"]
        found = figures_of(frames.measure_steps(rounds=1, steps=3, slow_steps=1))
        assert list(found) == ["env_step/fast", "env_step/workers"]

    @pytest.mark.slow
    @pytest.mark.kitchen
    def test_policies_and_the_miniature(self):
        found = figures_of(frames.measure_policy(rounds=1, calls=2, preset="tiny"))
        assert list(found) == ["policy/tiny"]
        found = figures_of(
            frames.measure_rounds(rounds=1, preset="tiny", steps=3, idle=2)
        )
        assert list(found) == ["collect/round_of_two/tiny", "collect/idle_workers/tiny"]
        found = figures_of(frames.measure_mini(rounds=1, environments=2, steps=2))
        assert list(found) == ["mini/16", "mini/32", "mini/64"]

    @pytest.mark.slow
    @pytest.mark.kitchen
    def test_training(self):
        found = figures_of(train.measure_training("tiny", rounds=1, updates=2))
        assert list(found) == [f"{jax.default_backend()}/tiny"]

    @pytest.mark.slow
    @pytest.mark.kitchen
    def test_overlap(self):
        found = figures_of(overlap.measure_overlap("tiny", rounds=1))
        assert list(found) == ["overlap/online"]

    @pytest.mark.slow
    def test_seeds_and_devices(self):
        found = figures_of(
            chain(
                scale.measure_seeds("tiny", rounds=1, counts=(1, 3)),
                scale.measure_devices("tiny", [(1, 1), (2, 1)]),
            )
        )
        on_cpu = jax.default_backend() == "cpu"
        assert list(found) == [
            *("scale/tiny/seeds1", "scale/tiny/seeds3"),
            *(["scale/tiny/seeds2/vmap"] if on_cpu else []),
            "scale/tiny/2x1",
        ]

    @pytest.mark.slow
    def test_sizes(self):
        dimensions = ["batch", "sequence", "horizon", "latent"]
        found = figures_of(plan.measure_sizes("tiny", rounds=1))
        assert list(found) == [f"scale/tiny/2x {name}" for name in dimensions]
        found = figures_of(plan.measure_plan("tiny"))
        assert list(found) == [f"plan/tiny/0.5x {name}" for name in dimensions]
        # Less of anything takes less memory.
        assert all(figure.value < figure.reference_value for figure in found.values())

    @pytest.mark.slow
    def test_memory_and_compilation(self):
        found = figures_of(update.measure_memory(TINY))
        assert list(found) == ["memory/tiny"]
        *found, note = compilation.measure_compilation("tiny", rounds=1)
        assert [figure.name for figure in found] == [
            "compile/tiny/cached",
            "compile/tiny",
        ]
        assert "0 by the second" in note
