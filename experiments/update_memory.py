"""What an update holds beside the state, told before anything is allocated."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core

from moto_jax.types import Agent, Batch, Metrics

# They hold one step's values at a time, beside the results of all steps.
_LOOPS = ("scan", "while")


def abstract_batch(agent: Agent, action_size: int, image_size: int) -> Batch:
    """Returns shapes and dtypes of the batches that an agent's updates take."""
    rows = agent.batch_shape

    def field(dtype: Any, *more: int) -> Any:
        return jax.ShapeDtypeStruct((*rows, *more), dtype)

    return Batch(
        image=field(np.uint8, image_size, image_size, 3),
        prev_action=field(np.float32, action_size),
        reward=field(np.float32),
        is_first=field(np.bool_),
        is_last=field(np.bool_),
        is_terminal=field(np.bool_),
        is_behaviour=field(np.bool_),
        behaviour_action=field(np.float32, action_size),
        return_to_go=field(np.float32),
        row=field(np.int32),
    )


def traced_bytes(agent: Agent, batch: Batch) -> int:
    """Returns an estimate in seconds: the most that one seed's update holds at once.

    The update is traced, and its operations are taken one after another as they stand.
    The compiler orders and fuses them, so what it needs may be more or less.

    Args:
      agent: whose offline update.
      batch: like those that it takes, abstract.
    """
    state = jax.eval_shape(agent.init, jax.random.key(0))
    return live_bytes(jax.make_jaxpr(_update(agent))(state, batch).jaxpr)


def compiled_bytes(agent: Agent, batch: Batch) -> int:
    """Returns what XLA allocates for one seed's update on the device at hand.

    Compiles it, which takes a minute or several; nothing runs.

    Args:
      agent: whose offline update.
      batch: like those that it takes, abstract.
    """
    # Starts the device, which tracing does not.
    from moto_jax.running.compilation import program_options

    state = jax.eval_shape(agent.init, jax.random.key(0))
    lowered = jax.jit(_update(agent), donate_argnums=0).lower(state, batch)
    program: Any = lowered.compile(program_options() or None)
    return int(program.memory_analysis().temp_size_in_bytes)


def _update(agent: Agent) -> Any:
    update = agent.updates["offline"]

    def offline(state: Any, batch: Batch) -> tuple[Any, Metrics]:
        return update(state, batch)

    return offline


def live_bytes(program: core.Jaxpr) -> int:
    """Returns the most bytes that a program's own values take at once.

    A value lives from the operation that makes it to the last that reads it; arguments
    are the caller's.
    """
    last_read = {
        value: place
        for place, operation in enumerate(program.eqns)
        for value in operation.invars
        if isinstance(value, core.Var)
    }
    returned = {value for value in program.outvars if isinstance(value, core.Var)}
    alive: set[core.Var] = set()
    held = most = 0
    for place, operation in enumerate(program.eqns):
        made = sum(map(_bytes, operation.outvars))
        inside = max(map(live_bytes, _programs(operation)), default=0)
        loops = operation.primitive.name in _LOOPS
        most = max(most, held + (made + inside if loops else max(made, inside)))
        alive.update(operation.outvars)
        done = {
            value
            for value in (*operation.invars, *operation.outvars)
            if isinstance(value, core.Var)
            and value in alive
            and value not in returned
            and last_read.get(value, place) == place
        }
        alive -= done
        held += made - sum(map(_bytes, done))
    return most


def _programs(operation: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """Yields the programs that an operation runs, such as a loop's body."""
    for value in operation.params.values():
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, core.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one


def _bytes(value: core.Var) -> int:
    # Every value here is an array, which its declared type does not say.
    array: Any = value.aval
    shape, dtype = array.shape, array.dtype
    # A typed key is opaque, and small.
    return math.prod(shape) * getattr(dtype, "itemsize", 8)
