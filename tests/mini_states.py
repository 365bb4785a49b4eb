"""States of the kitchen in miniature, put by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.mini import minikitchen

KEY = jax.random.key(0)
NUMBER = {name: index for index, name in enumerate(tasks.OBJECTS)}


def place(*done, **fields):
    """A state with some objects at their ends, the gripper away from everything."""
    share = np.isin(tasks.OBJECTS, done).astype(np.float32)
    fields = {"share": share, "position": [0.15, 0.9], **fields}
    return minikitchen.reset(KEY)._replace(
        **{name: jnp.asarray(value) for name, value in fields.items()}
    )


def at_handle(name, *done, **fields):
    """A state as `place` makes it, the gripper at a handle."""
    start = place(*done, **fields)
    return start._replace(position=minikitchen.handles(start)[NUMBER[name]])
