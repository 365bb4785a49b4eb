"""Episodes of an environment that is written in JAX: played whole on the device."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from moto_jax.acting.collection import Play, PlayEpisodes
from moto_jax.data.episodes import Episode
from moto_jax.types import Params, Policy


class DeviceEnvironment(Protocol):
    """An environment as pure functions of one state, such as `minikitchen`'s."""

    @property
    def episode_steps(self) -> int:
        """Steps after which every episode ends."""
        ...

    def reset(self, key: jax.Array) -> Any:
        """Returns the first state."""
        ...

    def step(self, state: Any, action: jax.Array, key: jax.Array) -> Any:
        """Returns the state after an action."""
        ...

    def look(self, state: Any) -> dict[str, jax.Array]:
        """Returns a row of an episode: its fields by name, `image` among them."""
        ...


class DeviceStage:
    """Plays episodes in one compiled program, environment and policy together.

    Like a worker pool's, an episode is a function of (parameters, key,
    environment seed) alone: on a CPU each is computed by itself, in a loop, since a
    batched product may differ in its last bit with the size of the batch.
    """

    def __init__(self, environment: DeviceEnvironment):
        """Takes the environment; nothing is compiled yet."""
        self._environment = environment

    @property
    def process_ids(self) -> tuple[int, ...]:
        """None: there are no processes beside this one."""
        return ()

    def player(self, policy: Policy) -> PlayEpisodes:
        """Returns what plays episodes here with a policy.

        Raises, while it plays:
          ValueError: for a seed out of range.
          FloatingPointError: if the policy's action is not finite.
        """
        play_all = jax.jit(_make_play_all(policy, self._environment))

        def play(
            params: Params, keys: jax.Array, plays: Sequence[Play]
        ) -> Iterator[Episode]:
            for one in plays:
                if not 0 <= one.seed < 2**32:
                    raise ValueError(
                        f"environment seed {one.seed} is not in [0, 2**32)"
                    )
            member = np.array([one.member for one in plays], np.int32)
            seed = np.array([one.seed for one in plays], np.uint32)
            fields = jax.device_get(play_all(params, keys, member, seed))
            for index, one in enumerate(plays):
                own = {name: array[index] for name, array in fields.items()}
                if not np.isfinite(own["action"]).all():
                    raise FloatingPointError(
                        f"an action of the policy in the episode with seed {one.seed} "
                        "is not finite: its parameters have diverged, so lower the "
                        "learning rates, or take an earlier checkpoint"
                    )
                yield Episode(**own)

        return play


def _make_play_all(
    policy: Policy, environment: DeviceEnvironment
) -> Callable[..., dict[str, jax.Array]]:
    """Returns (params [M], keys [M], member [n], seed [n]) -> episodes' fields."""

    def play_one(params: Params, key: jax.Array, seed: jax.Array):
        # The policy's noise and the environment's have nothing in common.
        act_key = jax.random.fold_in(key, seed)
        reset_key, step_key = jax.random.split(jax.random.key(seed))

        def advance(carry: Any, row: jax.Array):
            state, memory = carry
            seen = environment.look(state)
            action, memory = policy.act(
                params,
                memory,
                seen["image"][None],
                (row == 0)[None],
                jax.random.fold_in(act_key, row),
            )
            action = jnp.clip(action[0], -1.0, 1.0)
            key = jax.random.fold_in(step_key, row)
            state = environment.step(state, action, key)
            return (state, memory), {**seen, "action": action}

        carry = environment.reset(reset_key), policy.initial(1)
        rows = jnp.arange(environment.episode_steps)
        (state, _), fields = jax.lax.scan(advance, carry, rows)
        last = environment.look(state)
        return {
            name: field
            if name == "action"
            else jnp.concatenate([field, last[name][None]])
            for name, field in fields.items()
        }

    def play_all(params: Params, keys: jax.Array, member: jax.Array, seed: jax.Array):
        def one(inputs: Any):
            member, seed = inputs
            own, key = jax.tree.map(lambda leaf: leaf[member], (params, keys))
            return play_one(own, key, seed)

        return jax.lax.platform_dependent(
            (member, seed),
            cpu=lambda all_plays: jax.lax.map(one, all_plays),
            default=jax.vmap(one),
        )

    return play_all
