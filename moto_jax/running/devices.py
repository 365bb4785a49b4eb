"""Seeds and batches laid over devices: one mesh, one program, no collective by hand.

The mesh has two axes. Along `seed` groups of devices train seeds of their own and never
exchange a number. Along `data` the devices of a group share each batch and the rollouts
imagined from it: sequences are split over them, parameters are copies, and the compiler
adds the sums. The update is the one of a single device.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from moto_jax.types import Agent, Batch, Config, Params

SEED, DATA = "seed", "data"


class Share(NamedTuple):
    """What one process feeds of every batch.

    Attributes:
      seeds: indices into the run's seeds.
      columns: indices into a batch's sequences.
    """

    seeds: range
    columns: range


def make_mesh(
    config: Config, batch_size: int, devices: Sequence[Any] | None = None
) -> Mesh:
    """Lays the run of a configuration over devices.

    Args:
      config: `mesh.seed` groups of `mesh.data` devices; 0 stands for the most that
        divide `seeds` and the batch, seeds first.
      batch_size: B of the agent's batches.
      devices: those of all processes where not given.

    Raises:
      ValueError: where seeds, batch and devices do not divide; names the keys.
    """
    devices = jax.devices() if devices is None else devices
    seeds = len(config.seeds)
    groups, width = config.mesh.seed, config.mesh.data
    for key, size in (("seed", groups), ("data", width)):
        if size < 0:
            raise ValueError(f"config.mesh.{key} is {size}: use 0 or more")
    groups = groups or math.gcd(seeds, len(devices) // (width or 1))
    width = width or math.gcd(batch_size, len(devices) // max(groups, 1))
    if seeds % max(groups, 1):
        raise ValueError(
            f"{seeds} seeds (config.seeds) do not divide into {groups} groups of "
            "devices (config.mesh.seed): use a divisor, or 0"
        )
    if batch_size % max(width, 1):
        raise ValueError(
            f"a batch of {batch_size} sequences (config.replay.batch_size, or "
            "config.model_free.batch_size of an agent without a model) does not "
            f"divide over {width} devices (config.mesh.data): use a divisor, or 0"
        )
    used = groups * width
    if not 0 < used <= len(devices):
        raise ValueError(
            f"config.mesh.seed {groups} x config.mesh.data {width} is more than the "
            f"{len(devices)} devices there are"
        )
    processes = {device.process_index for device in devices}
    if len(processes) > 1 and used < len(devices):
        raise ValueError(
            f"config.mesh.seed {groups} x config.mesh.data {width} leaves "
            f"{len(devices) - used} of {len(devices)} devices idle: with several "
            "processes all must take part; change config.seeds or the batch's size "
            "to numbers that divide over them"
        )
    return Mesh(np.array(devices[:used]).reshape(groups, width), (SEED, DATA))


def describe(mesh: Mesh) -> str:
    """Returns the mesh in words, and how many devices stay idle."""
    groups, width = mesh.devices.shape
    kind = mesh.devices.flat[0].device_kind
    plural = "s" if groups > 1 else ""
    idle = jax.device_count() - mesh.size
    rest = f"; {idle} of {jax.device_count()} devices stay idle" if idle else ""
    return f"{groups} group{plural} of {width} x {kind}{rest}"


def state_sharding(mesh: Mesh) -> NamedSharding:
    """Returns where arrays [seeds, ...] lie: a group's seeds on each of its devices."""
    return NamedSharding(mesh, PartitionSpec(SEED))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns where batches [seeds, T, B, ...] lie: B split within a group."""
    return NamedSharding(mesh, PartitionSpec(SEED, None, DATA))


def own_share(mesh: Mesh, seeds: int, batch_size: int) -> Share:
    """Returns what this process feeds of batches [seeds, T, batch_size].

    Raises:
      ValueError: if its devices hold no rectangle of seeds and sequences.
    """
    shape = (seeds, 1, batch_size)
    indices = batch_sharding(mesh).addressable_devices_indices_map(shape).values()
    parts = [
        [range(*part.indices(size)) for part, size in zip(index, shape, strict=True)]
        for index in indices
        if index is not None
    ]
    rows, columns = (
        range(
            min(part[axis].start for part in parts),
            max(part[axis].stop for part in parts),
        )
        for axis in (0, 2)
    )
    held = {(row, column) for part in parts for row in part[0] for column in part[2]}
    if len(held) != len(rows) * len(columns):
        raise ValueError(
            f"a process with {len(parts)} devices would hold parts of groups of "
            f"{mesh.devices.shape[1]} devices: set config.mesh.data to a divisor or a "
            "multiple of the devices of a process"
        )
    return Share(rows, columns)


def one_after_another(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function over leading axes, like `jax.vmap`, as a loop."""
    return lambda *args: jax.lax.map(lambda one: function(*one), args)


def over_seeds(
    agent: Agent, mesh: Mesh, map_seeds: Callable[..., Any] | None = None
) -> Agent:
    """Returns the agent with a leading seed axis on keys, states, batches and metrics.

    Every seed learns as it would alone, up to rounding.

    Args:
      agent: of one seed.
      mesh: where the seeds are trained.
      map_seeds: maps an update over the seeds of a group; `jax.vmap` where not given,
        and on CPUs a loop: batched kernels make convolutions grouped ones, which XLA
        computes there at a third of the speed, while one seed keeps all cores busy.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    each = map_seeds or (one_after_another if on_cpu else jax.vmap)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def lift(update: Callable[..., Any]) -> Callable[..., Any]:
        # By hand over `seed`, so that the compiler cannot mix seeds; `data` is its own.
        by_group = jax.shard_map(
            each(update),
            mesh=mesh,
            in_specs=PartitionSpec(SEED),
            out_specs=PartitionSpec(SEED),
            axis_names={SEED},
            check_vma=False,
        )

        def update_seeds(state: Any, batch: Batch) -> tuple[Any, Any]:
            state, metrics = by_group(state, batch)
            state = jax.lax.with_sharding_constraint(state, state_sharding(mesh))
            return state, jax.lax.with_sharding_constraint(metrics, everywhere)

        return update_seeds

    def init(keys: jax.Array) -> Any:
        state = jax.vmap(agent.init)(keys)
        return jax.lax.with_sharding_constraint(state, state_sharding(mesh))

    # One function for the phases that share one, so that it is compiled once.
    lifted = {update: lift(update) for update in dict.fromkeys(agent.updates.values())}
    updates = {phase: lifted[update] for phase, update in agent.updates.items()}
    return agent._replace(init=init, updates=updates)


def abstract_state(agent: Agent, keys: jax.Array, mesh: Mesh) -> Any:
    """Returns shapes, dtypes and places of an `over_seeds` agent's state."""
    return _placed(jax.eval_shape(agent.init, keys), state_sharding(mesh))


def abstract_batch(batch: Batch, seeds: int, batch_size: int, mesh: Mesh) -> Batch:
    """Returns shapes, dtypes and places of the batches whose own share is `batch`."""
    whole = jax.tree.map(
        lambda part: jax.ShapeDtypeStruct(
            (seeds, part.shape[1], batch_size, *part.shape[3:]), part.dtype
        ),
        batch,
    )
    return _placed(whole, batch_sharding(mesh))


def _placed(shapes: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
    )


def place_batch(batch: Batch, seeds: int, batch_size: int, mesh: Mesh) -> Batch:
    """Returns the batch [seeds, T, batch_size, ...] of which each process has a share.

    The arrays that are given may be written over once the result is ready.
    """
    sharding = batch_sharding(mesh)
    on_cpu = mesh.devices.flat[0].platform == "cpu"

    def place(part: np.ndarray) -> jax.Array:
        shape = (seeds, part.shape[1], batch_size, *part.shape[3:])
        # A CPU's arrays may be the very memory they were made from.
        part = part.copy() if on_cpu else part
        return jax.make_array_from_process_local_data(sharding, part, shape)

    return jax.tree.map(place, batch)


def local_copy(params: Params, indices: Sequence[int], device: Any = None) -> Params:
    """Returns a copy of some seeds' parameters, for policies that act.

    A copy, since the next update donates its state.

    Args:
      params: arrays [seeds, ...] that lie as `state_sharding` says.
      indices: of seeds that this process's devices hold.
      device: of this process; its first where not given.

    Returns:
      Arrays [len(indices), ...] on that device.
    """

    def copy(leaf: jax.Array) -> np.ndarray:
        rows = []
        for index in indices:
            for shard in leaf.addressable_shards:
                row = index - (shard.index[0].start or 0)
                if 0 <= row < shard.data.shape[0]:
                    rows.append(np.asarray(shard.data)[row])
                    break
        return np.stack(rows)

    copied = jax.tree.map(copy, params)
    return jax.device_put(copied, device or jax.local_devices()[0])
