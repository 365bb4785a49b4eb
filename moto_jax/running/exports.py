"""A trained policy in one small file: what acting needs, in half precision.

The file is an npz archive without pickles. Its field `description` is JSON as bytes:

    format    version of this layout
    config    the run's resolved configuration, which the agent is built from again
    seed      which of the run's it is
    updates   how many made it
    commit    of the sources that exported it, null where they have none
    versions  of the packages that exported it
    leaves    name -> shape of the parameters, each a float16 field of its name

Which parameters are needed is read off the policies' own computations, so that an agent
states nothing about it: of a world model neither decoder nor reward and prior heads are
kept, of an actor-critic no critic.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core
from ml_collections import ConfigDict

from moto_jax.data.files import (
    ArraySchema,
    DatasetError,
    npz_bytes,
    read_arrays,
    read_bytes_field,
    read_regular_file,
)
from moto_jax.run_layout import with_later_keys
from moto_jax.running import provenance
from moto_jax.running.restoring import Restored, build_agent
from moto_jax.types import Agent, Config, Params, Policy

FORMAT = 1
SUFFIX = ".npz"

_DESCRIPTION = "description"
_KINDS = {"config": dict, "seed": int, "updates": int, "leaves": dict}
# Bounds on what is read: more than the paper's sizes take.
_MAX_FILE_BYTES = 64 * 2**20
_MAX_DESCRIPTION_BYTES = 2**20


class ExportError(ValueError):
    """An exported policy that cannot be written or used; the message says why."""


class TrainedPolicy(NamedTuple):
    """What acts, and what it is of.

    Attributes:
      agent: built from the configuration; its `policies` act with the parameters.
      params: of one seed.
      config: the run's resolved configuration.
      seed: the one of its seeds that was trained so.
      updates: done.
    """

    agent: Agent
    params: Params
    config: Config
    seed: int
    updates: int


def trained_policy(restored: Restored) -> TrainedPolicy:
    """Returns a checkpoint's policy."""
    return TrainedPolicy(
        agent=restored.agent,
        params=restored.agent.acting_params(restored.state),
        config=restored.config,
        seed=restored.seed,
        updates=restored.metadata["updates"],
    )


def export_bytes(trained: TrainedPolicy) -> bytes:
    """Returns a policy's file; equal policies give equal bytes.

    Raises:
      ExportError: if a parameter is too large for half precision, or not finite.
    """
    leaves = {
        name: _half(name, leaf)
        for name, leaf in acting_leaves(
            trained.agent, trained.params, trained.config.env.image_size
        ).items()
    }
    description = {
        "format": FORMAT,
        "config": {**trained.config.to_dict(), "seeds": [trained.seed]},
        "seed": trained.seed,
        "updates": trained.updates,
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "leaves": {name: list(leaf.shape) for name, leaf in leaves.items()},
    }
    text = json.dumps(description, allow_nan=False).encode()
    return npz_bytes({_DESCRIPTION: np.frombuffer(text, np.uint8), **leaves})


def read_export(path: str | os.PathLike[str]) -> TrainedPolicy:
    """Returns an exported policy, with parameters in float32.

    Parameters that no policy acts with are zeros, which take no memory.

    Raises:
      ExportError: for a file that is damaged, of another version, or does not fit its
        configuration.
    """
    path = Path(path)
    try:
        contents = read_regular_file(path, _MAX_FILE_BYTES)
        description = _description(contents)
        config: Config = ConfigDict(with_later_keys(description["config"]))
        agent = build_agent(config)
        abstract = jax.eval_shape(
            lambda key: agent.acting_params(agent.init(key)), jax.random.key(0)
        )
        needed = acting_leaves(agent, abstract, config.env.image_size)
        schema = _schema(needed, description["leaves"])
        leaves = read_arrays(
            contents,
            {_DESCRIPTION: (np.dtype(np.uint8), (0,)), **schema},
            _MAX_FILE_BYTES,
        )
    # A configuration that lacks a key, or has another type there, fails anyhow.
    except (
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        RecursionError,
    ) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise ExportError(
            f"{path} cannot be used: {reason}; export the run's checkpoint again with "
            "experiments.export"
        ) from None

    def filled(key_path: Any, leaf: Any) -> np.ndarray:
        name = _name(key_path)
        if name in leaves:
            return leaves[name].astype(np.float32)
        return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)

    return TrainedPolicy(
        agent=agent,
        params=jax.tree_util.tree_map_with_path(filled, abstract),
        config=config,
        seed=description["seed"],
        updates=description["updates"],
    )


def acting_leaves(agent: Agent, params: Params, image_size: int) -> dict[str, Any]:
    """Returns the parameters that decide an action or what is remembered, by name.

    Args:
      agent: whose policies act with them.
      params: acting parameters, or their shapes and dtypes.
      image_size: pixels.
    """
    named, structure = jax.tree_util.tree_flatten_with_path(params)
    image = np.zeros((1, image_size, image_size, 3), np.uint8)
    needed: set[int] = set()
    for policy in agent.policies.values():

        def act(leaves: Any, policy: Policy = policy) -> Any:
            own = jax.tree_util.tree_unflatten(structure, leaves)
            is_first = np.ones(1, np.bool_)
            return policy.act(
                own, policy.initial(1), image, is_first, jax.random.key(0)
            )

        needed |= _needed(jax.make_jaxpr(act)([leaf for _, leaf in named]).jaxpr)
    return {_name(named[index][0]): named[index][1] for index in sorted(needed)}


def _needed(jaxpr: core.Jaxpr) -> set[int]:
    """Returns the positions of the inputs on which an output depends."""
    needed = set(map(id, jaxpr.outvars))
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(map(id, equation.outvars)):
            needed.update(map(id, equation.invars))
    return {index for index, one in enumerate(jaxpr.invars) if id(one) in needed}


def _name(key_path: Any) -> str:
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def _half(name: str, leaf: Any) -> np.ndarray:
    values = np.asarray(leaf)
    largest = np.abs(values).max(initial=0)
    # Neither is NaN at most anything.
    if not largest <= np.finfo(np.float16).max:
        raise ExportError(
            f"parameter {name} holds {largest}, which half precision cannot: export "
            "another checkpoint"
        )
    return values.astype(np.float16)


def _description(contents: bytes) -> dict[str, Any]:
    text = read_bytes_field(contents, _DESCRIPTION, _MAX_DESCRIPTION_BYTES)
    description = json.loads(text)
    version = description.get("format") if isinstance(description, dict) else None
    if version != FORMAT:
        raise DatasetError(f"its format is {version!r} and not {FORMAT}")
    for key, kind in _KINDS.items():
        if not isinstance(description.get(key), kind):
            raise DatasetError(f"its description has no {key!r} as format {FORMAT} has")
    return description


def _schema(needed: dict[str, Any], described: dict[str, Any]) -> ArraySchema:
    """Returns what the file must hold, which is what the policies need.

    Raises:
      DatasetError: where the file says otherwise.
    """
    for name in {**needed, **described}:
        if name not in described:
            raise DatasetError(f"it lacks the parameter {name} of its configuration")
        if name not in needed:
            raise DatasetError(f"it has a parameter {name}, its configuration has none")
        if list(needed[name].shape) != described[name]:
            raise DatasetError(
                f"parameter {name} is {described[name]} and not "
                f"{list(needed[name].shape)} as its configuration says"
            )
    return {name: (np.dtype(np.float16), leaf.shape) for name, leaf in needed.items()}
