"""Frames, environment steps and policy calls, of one core and of all."""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.measure import Part, compare, cpu_rate, rate, seconds
from experiments.benchmarks.update import make_agent
from moto_jax.collection import (
    Play,
    WorkerPool,
    collect_episodes,
    make_policy_step,
)
from moto_jax.data.sources import record_episode
from moto_jax.envs import tasks
from moto_jax.envs.demonstrator import Demonstrator
from moto_jax.envs.graphics import software_warning
from moto_jax.envs.kitchen import KitchenEnv
from moto_jax.envs.minikitchen import MiniKitchen
from moto_jax.envs.renderer import KitchenRenderer
from moto_jax.envs.worker import Reset, Step

_POLICY_ROWS = 4


def measure_frames(rounds: int = 5, frames: int = 100, slow_frames: int = 2) -> Part:
    """Yields frames a second of one core, and how near `fast` comes to `paper`.

    Args:
      rounds: measurements of each.
      frames: of profile fast in a measurement.
      slow_frames: of gymnasium-robotics, half a second each on a CPU.
    """
    qpos = _demonstration().qpos.astype(np.float64)
    fast, paper = KitchenRenderer("fast"), KitchenRenderer("paper")
    states = iter(np.tile(qpos, (100, 1)))
    robotics = _RoboticsKitchen()
    yield compare(
        "frame/fast",
        "frames/s of a core",
        lambda: cpu_rate(lambda: fast.render(next(states)), frames),
        "gymnasium-robotics' render()",
        lambda: cpu_rate(robotics.render, slow_frames),
        rounds=rounds,
    )
    rows = np.linspace(0, len(qpos) - 1, 12).astype(int)
    images = [
        np.stack([renderer.render(qpos[row]) for row in rows]).astype(float)
        for renderer in (fast, paper)
    ]
    yield (
        f"profile fast is {np.abs(images[0] - images[1]).mean():.1f} grey levels from "
        "profile paper in the mean; mean RGB of the reset frame "
        + " and ".join(
            " ".join(f"{channel:.1f}" for channel in image[0].mean(axis=(0, 1)))
            for image in images
        )
    )
    yield f"frames are drawn by {fast.gl_renderer}"
    warning = software_warning(fast.gl_renderer)
    if warning:
        yield warning
    for drawing in (fast, paper, robotics):
        drawing.close()


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
            _exchange(pool, {slot: Reset(slot) for slot in range(pool.num_workers)})

        def stepped(pool: WorkerPool) -> float:
            workers = range(pool.num_workers)

            def step() -> None:
                _exchange(pool, {slot: Step(next(upcoming)) for slot in workers})

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
        shape = (environments, tasks.action_size("minikitchen"))
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


def _demonstration():
    demonstrator = Demonstrator(tasks.TASKS["mixed"], seed=0)
    env = KitchenEnv(render_frames=False)
    episode = record_episode(env, demonstrator, 0, 0)
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
            raise RuntimeError("gymnasium-robotics drew a black frame")

    def close(self) -> None:
        self._viewer.make_context_current()
        self._env.close()


def _exchange(pool: WorkerPool, requests: Mapping[int, Reset | Step]) -> None:
    """Asks each of some workers, and waits for all the answers."""
    pool.ask(requests)
    left = set(requests)
    while left:
        left -= pool.answers().keys()
