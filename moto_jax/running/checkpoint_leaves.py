"""What a checkpoint says of itself: its leaves, and what its run says of it."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import jax

# Beside the state of a checkpoint.
DESCRIPTION_NAME = "metadata.json"

# How the names of what learns begin.
_LEARNERS = ".learners."


class CheckpointError(ValueError):
    """A checkpoint that cannot be saved, is not there, is corrupt or does not fit."""


def description(step: int, metadata: dict[str, Any], state: Any) -> str:
    """Returns the text of a checkpoint's description, JSON.

    Raises:
      CheckpointError: if the metadata are not valid JSON, or a leaf has no dtype.
    """
    leaves = _describe_leaves(state)
    try:
        return json.dumps(
            {"step": step, "metadata": metadata, "leaves": leaves},
            allow_nan=False,
            indent=1,
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"metadata of checkpoint {step} is not valid JSON ({error}): give text, "
            "finite numbers, and lists and dicts of them"
        ) from error


def read_description(
    directory: Path,
) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Returns leaf name -> [dtype, shape], and the caller's metadata.

    Raises:
      CheckpointError: if the file describes no checkpoint.
    """
    try:
        found = json.loads((directory / DESCRIPTION_NAME).read_text())
        leaves, metadata = found["leaves"], found["metadata"]
        # A manifest of its own makes a stranger's description no better.
        for dtype, shape in leaves.values():
            if not isinstance(dtype, str) or not isinstance(shape, list):
                raise TypeError("a leaf is a dtype and a shape")
        if not isinstance(metadata, dict):
            raise TypeError("the metadata are an object")
        return leaves, metadata
    # Whatever else it holds, it is no description.
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise CheckpointError(
            f"{directory / DESCRIPTION_NAME} does not describe a checkpoint of this "
            "package: give the directory of a run or of a step"
        ) from error


def _describe_leaves(state: Any) -> dict[str, list[Any]]:
    """Returns leaf name -> [dtype, shape], as JSON gives it back."""
    leaves: dict[str, list[Any]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path)
        if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
            raise CheckpointError(
                f"leaf {name} of the state is a {type(leaf).__name__}: make it a NumPy "
                "or JAX array so that its dtype is stated"
            )
        leaves[name] = [str(leaf.dtype), list(leaf.shape)]
    return leaves


def require_same_leaves(directory: Path, state: Any) -> None:
    """Raises CheckpointError unless a step's leaves are those of a state."""
    saved, asked = read_description(directory)[0], _describe_leaves(state)
    if lies_flat(saved, state):
        asked = {re.sub(r"^\.learners\.", ".", name): asked[name] for name in asked}
    for name in {**saved, **asked}:
        if name not in saved:
            problem = f"has no leaf {name}, which this configuration needs"
        elif name not in asked:
            problem = f"has a leaf {name}, which this configuration lacks"
        elif saved[name] != asked[name]:
            problem = (
                f"holds leaf {name} as {saved[name][0]} {tuple(saved[name][1])}, this "
                f"configuration needs {asked[name][0]} {tuple(asked[name][1])}"
            )
        else:
            continue
        raise CheckpointError(
            f"checkpoint {directory} {problem}: use the configuration and the commit "
            "that it was saved with"
        )


def lies_flat(saved: dict[str, list[Any]], state: Any) -> bool:
    """Returns whether what learns was saved beside the rest and is asked for apart.

    MOTO's states of before it had the frame of the other agents.
    """
    apart = any(name.startswith(_LEARNERS) for name in saved)
    return hasattr(state, "learners") and not apart


def flat(state: Any) -> dict[str, Any]:
    """Returns a state's fields, with those of its learners instead of `learners`."""
    fields = {
        field.name: getattr(state, field.name) for field in dataclasses.fields(state)
    }
    learners = fields.pop("learners")
    return fields | {
        field.name: getattr(learners, field.name)
        for field in dataclasses.fields(learners)
    }


def unflattened(restored: dict[str, Any], state: Any) -> Any:
    """Returns such a state, of fields as `flat` gives them."""
    names = [field.name for field in dataclasses.fields(state.learners)]
    learners = {name: restored.pop(name) for name in names}
    return state.replace(**restored, learners=state.learners.replace(**learners))
