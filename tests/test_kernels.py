"""Kernels counted in the text of compiled programs, and the table of them."""

import csv

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks.cards import CARDS, target_config
from experiments.benchmarks.kernels import Loop, count_kernels
from experiments.benchmarks.programs import Row, add_row, compile_row

# Three trips of a body of two kernels, one of which is a loop of five trips; beside it
# a fusion, a product, a copy that is started and awaited, and a branch of two or one.
PROGRAM = """HloModule jit_update, entry_computation_layout={(f32[4]{0})->f32[4]{0}}

%inner_body (arg.3: (s32[], f32[4])) -> (s32[], /*index=1*/f32[4]) {
  %arg.3 = (s32[], f32[4]{0}) parameter(0)
  %part = f32[4]{0} get-tuple-element(%arg.3), index=1
  %add_fusion = f32[4]{0} fusion(%part), kind=kLoop, calls=%fused
  ROOT %tuple.3 = (s32[], f32[4]{0}) tuple(%part, %add_fusion)
}

%body (arg.1: (s32[], f32[4])) -> (s32[], f32[4]) {
  %arg.1 = (s32[], f32[4]{0}) parameter(0)
  %product = (f32[4]{0}, s8[64]{0}) custom-call(%arg.1), custom_call_target="__cublas"
  %while.2 = (s32[], f32[4]{0}) while(%arg.1), condition=%less, body=%inner_body, \
backend_config={"known_trip_count":{"n":"5"}}
  ROOT %tuple.1 = (s32[], f32[4]{0}) tuple(%arg.1)
}

%two (arg.4: f32[4]) -> f32[4] {
  %arg.4 = f32[4]{0} parameter(0)
  %first = f32[4]{0} fusion(%arg.4), kind=kLoop, calls=%fused
  ROOT %second = f32[4]{0} fusion(%first), kind=kLoop, calls=%fused
}

%one (arg.5: f32[4]) -> f32[4] {
  %arg.5 = f32[4]{0} parameter(0)
  ROOT %only = f32[4]{0} fusion(%arg.5), kind=kLoop, calls=%fused
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %zero = f32[] constant(0)
  %fused.1 = (f32[4]{0}, /*index=1*/f32[4]{0}) fusion(%x), kind=kLoop, calls=%fused
  %copy-start = (f32[4]{0}, f32[4]{0}, u32[]) copy-start(%x)
  %copy-done = f32[4]{0} copy-done(%copy-start)
  %while.1 = (s32[], f32[4]{0}) while(%fused.1), condition=%less, body=%body, \
backend_config={"known_trip_count":{"n":"3"},"known_init_step":{"init":"0"}}
  %captured = f32[4]{0} call(%x), to_apply=%two
  ROOT %either = f32[4]{0} conditional(%zero, %x, %x), branch_computations={%one, %two}
}
"""


def test_counts_by_hand():
    kernels = count_kernels(PROGRAM)
    # Fusion, copy, two captured ones, two of the larger branch.
    assert kernels.outside == 6
    assert kernels.loops == (Loop(3, 6),)
    assert kernels.total == 6 + 3 * 6


def test_counts_a_program_of_xla():
    def scanned(x):
        step = lambda carry, row: (jnp.sin(carry @ carry) + row, carry[0])  # noqa: E731
        return jax.lax.scan(step, x, jnp.ones((7, 4, 4)))

    text = jax.jit(scanned).lower(jnp.ones((4, 4))).compile().as_text()
    (loop,) = count_kernels(text).loops
    assert loop.trips == 7
    assert 1 <= loop.kernels < 20


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("HloModule nothing", "not the text of a compiled program"),
        (PROGRAM.replace("known_trip_count", "unknown"), "length is not known"),
    ],
)
def test_what_cannot_be_counted_is_said(text, reason):
    with pytest.raises(ValueError, match=reason):
        count_kernels(text)


def test_cards_are_described_by_name():
    texts = [target_config(card) for card in CARDS]
    assert len(set(texts)) == len(CARDS)
    assert 'device_description_str: "NVIDIA H100"' in target_config("h100")
    with pytest.raises(ValueError, match="unknown card 'h300': use one of h100, h200"):
        target_config("h300")


def row(**changes):
    values = {
        **{"preset": "cpu", "agent": "moto", "seeds": 1, "jax": "0.10.2"},
        **{"card": "h200", "seconds": 90, "temp_gb": 0.5, "kernels": 24},
        **{"outside": 6, "loops": "3 x 6", "state": "after", **changes},
    }
    return Row(**values)


def test_a_row_takes_the_place_of_the_one_it_repeats(tmp_path):
    table = tmp_path / "programs"
    for one in (row(state="before", kernels=90), row(kernels=30), row()):
        add_row(table, one)
    with table.with_suffix(".csv").open() as file:
        found = list(csv.DictReader(file))
    assert [(one["state"], one["kernels"]) for one in found] == [
        ("before", "90"),
        ("after", "24"),
    ]
    assert table.with_suffix(".md").read_text().count("\n| cpu | moto |") == 2


@pytest.mark.parametrize(
    ("preset", "agent", "reason"),
    [
        ("huge", "moto", "unknown size 'huge'"),
        ("tiny", "nobody", "unknown agent 'nobody'"),
        ("tiny", "bc", "agent bc has no world model"),
    ],
)
def test_what_cannot_be_compiled_is_said_before_xla_is_asked(preset, agent, reason):
    with pytest.raises(ValueError, match=reason):
        compile_row(preset, agent, 1, "h200")
