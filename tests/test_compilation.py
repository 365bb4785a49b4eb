"""Options of programs: chosen by what the card's platform and XLA can do."""

import itertools
import pathlib
import types

import jax
import jax.numpy as jnp
import pytest

from moto_jax.learning.learners import init_state
from moto_jax.running import compilation
from moto_jax.running.compilation import compile_updates, gpu_options, known_options
from moto_jax.types import Agent

GRAPHS, UNROLLED = (
    "xla_gpu_enable_command_buffer",
    "xla_gpu_command_buffer_unroll_loops",
)


@pytest.mark.parametrize(
    ("platform", "names"),
    [
        ("PJRT C API\ncuda 13000", {GRAPHS, UNROLLED}),
        ("PJRT C API\nStreamExecutor CUDA 12080", {GRAPHS}),
        ("cuda 12020", set()),
        ("rocm 60200", set()),
        ("", set()),
    ],
)
def test_loops_are_recorded_where_the_platform_can(platform, names, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    options = gpu_options(platform)
    assert options.keys() == names
    if names:
        assert "WHILE" in options[GRAPHS].split(",")


def test_what_xla_flags_say_holds(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"--{GRAPHS}=FUSION --xla_cpu_other=1")
    assert gpu_options("cuda 13000").keys() == {UNROLLED}


def test_this_version_of_xla_knows_what_is_asked_for(monkeypatch, capsys):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    asked = gpu_options("cuda 13000")
    assert known_options(asked) == asked
    assert capsys.readouterr().err == ""


def test_what_xla_does_not_know_is_left_out_and_said(capsys):
    asked = {"xla_gpu_of_tomorrow": True, GRAPHS: "FUSION,TOMORROW", UNROLLED: True}
    assert known_options(asked) == {UNROLLED: True}
    said = capsys.readouterr().err
    assert "xla_gpu_of_tomorrow" in said and "TOMORROW" in said


def adding_agent():
    def adds(number):
        def update(state, batch):
            return state.replace(step=state.step + number), {"batch": batch}

        return update

    first, second = adds(1), adds(10)
    return Agent(
        init=lambda key: init_state(key, {}, lambda learners: {}),
        updates={"model": first, "offline": second, "online": second},
        policies={},
        acting_params=lambda state: state.acting,
        model=None,
        batch_shape=(1, 1),
    )


def test_one_program_an_update_and_what_is_compiled_is_said(capsys):
    agent = adding_agent()
    state = agent.init(jax.random.key(0))
    shapes = jax.eval_shape(agent.init, jax.random.key(0))
    programs = compile_updates(agent, shapes, jax.ShapeDtypeStruct((), jnp.float32))
    assert programs["offline", 1] is programs["online", 1]
    assert programs["offline", 1] is not programs["model", 1]
    state, _ = programs["model", 1](state, 0.0)
    state, _ = programs["online", 1](state, 0.0)
    assert state.step == 11
    said = capsys.readouterr().err
    assert "compiling the update: model; offline and online" in said
    assert "compiled in" in said


def test_a_program_of_several_updates_is_as_many_in_turn():
    def update(state, batch):
        state = state.replace(step=2 * state.step + batch)
        return state, {"batch": batch, "step": state.step}

    agent = Agent(
        init=lambda key: init_state(key, {}, lambda learners: {}),
        updates={"offline": update},
        policies={},
        acting_params=lambda state: state.acting,
        model=None,
        batch_shape=(1, 1),
    )
    shapes = jax.eval_shape(agent.init, jax.random.key(0))
    one = jax.ShapeDtypeStruct((), jnp.int32)
    programs = compile_updates(agent, shapes, one, together=3)
    assert set(programs) == {("offline", 1), ("offline", 3)}
    state, metrics = programs["offline", 3](agent.init(jax.random.key(0)), 1, 5, 7)
    assert state.step == 2 * (2 * 1 + 5) + 7
    assert metrics == {"batch": 7, "step": state.step}


def test_the_second_compilation_tells_how_long_the_first_took(monkeypatch, capsys):
    agent = adding_agent()
    shapes = jax.eval_shape(agent.init, jax.random.key(0))
    # Of this module alone: XLA's threads look at the clock too.
    ticks = itertools.count(step=21)
    clock = types.SimpleNamespace(monotonic=lambda: next(ticks))
    monkeypatch.setattr(compilation, "time", clock)

    def said_of(batch):
        compile_updates(agent, shapes, jax.ShapeDtypeStruct(batch, jnp.float32))
        return capsys.readouterr().err

    assert "remaining" not in said_of((3,))
    assert "model; offline and online, remaining 0:00:21 or less" in said_of((3,))
    assert "remaining" not in said_of((4,))
    directory = pathlib.Path(jax.config.jax_compilation_cache_dir)
    for record in directory.glob("*.seconds"):
        record.write_text("of another program")
    assert "remaining" not in said_of((3,))
    assert "remaining 0:00:21" in said_of((3,))
