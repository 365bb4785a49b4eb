"""Frames, environment steps and policy calls, of one core and of all."""

import functools
import itertools
import os
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.measure import Part, compare, cpu_rate, rate, seconds
from experiments.benchmarks.update import make_agent
from moto_jax.acting.collection import (
    Play,
    collect_episodes,
    make_policy_step,
)
from moto_jax.acting.worker import Reset, Step
from moto_jax.acting.worker_pool import WorkerPool
from moto_jax.data.episodes import Episode
from moto_jax.worlds.graphics import software_warning
from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.kitchen.demonstrations import record_episode
from moto_jax.worlds.kitchen.demonstrator import Demonstrator
from moto_jax.worlds.kitchen.environment import KitchenEnv
from moto_jax.worlds.kitchen.renderer import (
    RENDER_PROFILES,
    KitchenRenderer,
    box_filter,
)
from moto_jax.worlds.mini import minikitchen
from moto_jax.worlds.mini.minikitchen import MiniKitchen

_POLICY_ROWS = 4


def measure_frames(
    rounds: int = 5, frames: int = 100, slow_frames: int = 2, states: int = 25
) -> Part:
    """Yields frames a second of one core, and how near profiles come to the default.

    Args:
      rounds: measurements of each.
      frames: of profile fast in a measurement; of shaded a tenth.
      slow_frames: of `paper` and of gymnasium-robotics, a second each on a CPU.
      states: of demonstrations of both tasks, in which profiles are compared.
    """
    chosen = _states(states)
    drawings = {name: KitchenRenderer(name) for name in RENDER_PROFILES}
    robotics = _RoboticsKitchen()

    def drawn(name: str, count: int) -> float:
        upcoming = itertools.cycle(chosen)
        return cpu_rate(lambda: drawings[name].render(next(upcoming)), count)

    yield compare(
        "frame/fast",
        "frames/s of a core",
        lambda: drawn("fast", frames),
        "gymnasium-robotics' render()",
        lambda: cpu_rate(robotics.render, slow_frames),
        rounds=rounds,
    )
    yield compare(
        "frame/shaded",
        "frames/s of a core",
        lambda: drawn("shaded", -(-frames // 10)),
        "profile paper",
        lambda: drawn("paper", slow_frames),
        rounds=rounds,
    )
    distances = _grey_levels(drawings, chosen)
    yield (
        f"grey levels from gymnasium's render at 256 pixels, averaged to 64, in the "
        f"mean over {states} states of demonstrations: "
        + ", ".join(f"{name} {far:.1f}" for name, far in distances.items())
    )
    yield "mean RGB of the reset frame: " + ", ".join(
        f"{name} "
        + " ".join(f"{mean:.1f}" for mean in drawing.render(chosen[0]).mean((0, 1)))
        for name, drawing in drawings.items()
    )
    fast = drawings["fast"]
    yield f"frames are drawn by {fast.gl_renderer}"
    warning = software_warning(fast.gl_renderer)
    if warning:
        yield warning
    for drawing in (*drawings.values(), robotics):
        drawing.close()


def _states(number: int) -> np.ndarray:
    """Returns joint positions [number, 30], spread over a demonstration a task."""
    halves = (number - number // 2, number // 2)
    rows = []
    for seed, (task, half) in enumerate(zip(("mixed", "partial"), halves, strict=True)):
        qpos = _demonstration(task, seed).qpos
        assert qpos is not None
        rows.append(qpos[np.linspace(0, len(qpos) - 1, half).astype(int)])
    return np.concatenate(rows).astype(np.float64)


def _grey_levels(
    drawings: Mapping[str, KitchenRenderer], states: np.ndarray
) -> dict[str, float]:
    """Returns each drawing's mean difference from larger pictures of profile paper."""
    large = KitchenRenderer("paper", 4 * drawings["paper"].image_size)
    expected = np.stack([box_filter(large.render(qpos), 4) for qpos in states])
    large.close()
    return {
        name: float(
            np.abs(
                np.stack([drawing.render(qpos) for qpos in states]).astype(float)
                - expected
            ).mean()
        )
        for name, drawing in drawings.items()
    }


def measure_steps(rounds: int = 5, steps: int = 100, slow_steps: int = 2) -> Part:
    """Yields environment steps a second: physics and frame, of one core and of all."""
    generator = np.random.default_rng(0)
    actions = generator.uniform(-1, 1, (100_000, tasks.NUM_ACTIONS)).astype("f4")
    upcoming = iter(actions)
    kitchen, robotics = KitchenEnv(), _RoboticsKitchen()
    kitchen.reset(seed=0)

    def slow_step() -> None:
        robotics.step(next(upcoming))
        robotics.render()

    yield compare(
        "env_step/fast",
        "steps/s of a core",
        lambda: cpu_rate(lambda: kitchen.step(next(upcoming)), steps),
        "gymnasium-robotics' step() and render()",
        lambda: cpu_rate(slow_step, slow_steps),
        rounds=rounds,
    )
    kitchen.close()
    robotics.close()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    with (
        WorkerPool(functools.partial(KitchenEnv, "mixed"), 1) as one,
        WorkerPool(functools.partial(KitchenEnv, "mixed"), cores) as all_cores,
    ):
        for pool in (one, all_cores):
            exchange(pool, {slot: Reset(slot) for slot in range(pool.num_workers)})

        def stepped(pool: WorkerPool) -> float:
            workers = range(pool.num_workers)

            def step() -> None:
                exchange(pool, {slot: Step(next(upcoming)) for slot in workers})

            return len(workers) * rate(step, steps)

        yield compare(
            "env_step/workers",
            "steps/s",
            lambda: stepped(all_cores),
            "one worker process",
            lambda: stepped(one),
            rounds=rounds,
        )
        yield f"env_step/workers: {cores} processes"


def measure_mini(rounds: int = 5, environments: int = 256, steps: int = 100) -> Part:
    """Yields frames a second of one core of the kitchen in miniature, physics included.

    Args:
      rounds: measurements.
      environments: stepped and drawn together.
      steps: of each in a measurement.
    """
    kitchen = KitchenEnv()
    kitchen.reset(seed=0)
    action = np.zeros(tasks.NUM_ACTIONS, np.float32)
    frames = environments * steps
    for size in (16, 32, 64):
        play = _many_minikitchens(MiniKitchen(size), environments, steps)
        yield compare(
            f"mini/{size}",
            "frames/s of a core",
            lambda play=play: frames * cpu_rate(play, 1),
            "the real kitchen's step and frame, profile fast",
            lambda: cpu_rate(lambda: kitchen.step(action), 30),
            rounds=rounds,
        )
    yield f"mini: {environments} environments at once"
    kitchen.close()


def _many_minikitchens(
    kitchen: MiniKitchen, environments: int, steps: int
) -> Callable[[], Any]:
    """Returns what plays environments at once with random actions and draws each."""

    def advance(states: Any, key: jax.Array) -> Any:
        action_key, step_key = jax.random.split(key)
        shape = (environments, minikitchen.NUM_ACTIONS)
        actions = jax.random.uniform(action_key, shape, minval=-1.0)
        keys = jax.random.split(step_key, environments)
        states = jax.vmap(kitchen.step)(states, actions, keys)
        images = jax.vmap(kitchen.render)(states)
        # All pixels, or some would not be computed.
        return states, jnp.sum(images.astype(jnp.uint32), axis=(1, 2, 3))

    @jax.jit
    def play(key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, environments)
        states = jax.vmap(kitchen.reset)(keys)
        return jax.lax.scan(advance, states, jax.random.split(key, steps))[1]

    return lambda: play(jax.random.key(0)).block_until_ready()


def measure_policy(rounds: int = 5, calls: int = 50, preset: str = "cpu") -> Part:
    """Yields policy calls a second: as collected with, and as one batch."""
    agent = make_agent(preset)
    policy = agent.policies["sampled"]
    params = agent.acting_params(jax.jit(agent.init)(jax.random.key(0)))
    rows = _POLICY_ROWS
    image = np.zeros((rows, 64, 64, 3), np.uint8)
    is_first = np.zeros(rows, np.bool_)
    key = jax.random.key(0)
    step = make_policy_step(policy)
    batched = jax.jit(policy.act)
    carries = {"ours": step.initial(rows), "batched": policy.initial(rows)}
    member, row = np.zeros(rows, np.int32), np.ones(rows, np.int32)
    seed = np.arange(rows, dtype=np.uint32)
    stacked = jax.tree.map(lambda leaf: leaf[None], params)

    def ours() -> None:
        action, carries["ours"] = step.step(
            stacked, carries["ours"], image, is_first, key[None], member, seed, row
        )
        action.block_until_ready()

    def theirs() -> None:
        action, carries["batched"] = batched(
            params, carries["batched"], image, is_first, key
        )
        action.block_until_ready()

    yield compare(
        f"policy/{preset}",
        "calls/s",
        lambda: rate(ours, calls),
        "one batch, whose last bits depend on the number of workers",
        lambda: rate(theirs, calls),
        rounds=rounds,
    )
    yield f"policy/{preset}: {rows} workers a call, on {jax.default_backend()}"


def measure_rounds(
    rounds: int = 3, preset: str = "cpu", steps: int = 280, idle: int = 15
) -> Part:
    """Yields environment steps a second of whole episodes that a policy acts in.

    Args:
      rounds: measurements of each.
      preset: of the policy.
      steps: of an episode.
      idle: workers of a pool of which one alone has an episode to play.
    """
    agent = make_agent(preset)
    params = agent.acting_params(jax.jit(agent.init)(jax.random.key(0)))
    stacked = jax.tree.map(lambda leaf: leaf[None], params)
    keys = jax.random.key(0)[None]
    make_env = functools.partial(KitchenEnv, "mixed", episode_steps=steps)
    step = make_policy_step(agent.policies["sampled"])

    def played(pool: WorkerPool, episodes: int) -> float:
        plays = [Play(0, seed) for seed in range(episodes)]

        def play() -> None:
            list(collect_episodes(pool, step, stacked, keys, plays))

        return episodes * steps / seconds(play)

    with WorkerPool(make_env, 1) as one, WorkerPool(make_env, 2) as two:
        yield compare(
            f"collect/round_of_two/{preset}",
            "steps/s",
            lambda: played(two, 2),
            "one episode, one worker",
            lambda: played(one, 1),
            rounds=rounds,
        )
    with WorkerPool(make_env, 1) as one, WorkerPool(make_env, idle) as many:
        yield compare(
            f"collect/idle_workers/{preset}",
            "steps/s",
            lambda: played(many, 1),
            f"one worker; ours has {idle}, of which one plays",
            lambda: played(one, 1),
            rounds=rounds,
        )
    yield f"collect/*/{preset}: whole episodes of {steps} steps, their resets included"


def _demonstration(task: str, seed: int) -> Episode:
    demonstrator = Demonstrator(tasks.TASKS[task], seed=seed)
    env = KitchenEnv(render_frames=False)
    episode = record_episode(env, demonstrator, 0, seed)
    env.close()
    return episode


class _RoboticsKitchen:
    """The registered environment as its users draw it, 64 pixels square."""

    def __init__(self) -> None:
        self._env: Any = gymnasium.make(
            "FrankaKitchen-v1", render_mode="rgb_array", width=64, height=64
        ).unwrapped
        self._env.reset(seed=0)
        self._env.render()
        self._viewer = self._env.robot_env.mujoco_renderer.viewer

    def step(self, action: np.ndarray) -> None:
        self._env.step(action)

    def render(self) -> None:
        # Left to itself it draws into the context of whoever drew last: black.
        self._viewer.make_context_current()
        if not self._env.render().any():
            raise RuntimeError(
                "gymnasium-robotics drew a black frame: mend the graphics driver, or "
                "measure the others with --part"
            )

    def close(self) -> None:
        self._viewer.make_context_current()
        self._env.close()


def exchange(pool: WorkerPool, requests: Mapping[int, Reset | Step]) -> None:
    """Asks each of some workers, and waits for all the answers."""
    pool.ask(requests)
    left = set(requests)
    while left:
        left -= pool.answers().keys()
