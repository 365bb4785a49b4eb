"""Time of an update at a preset's own batch, and what the paper's budget would take."""

import jax

from experiments.benchmarks.measure import Part, figure_of, seconds
from experiments.benchmarks.overlap import Loop
from experiments.benchmarks.update import (
    flops_of,
    measured_peak,
    preset_config,
)
from moto_jax.acting.worker_pool import WorkerPool
from moto_jax.types import Config
from moto_jax.worlds.graphics import renderer_name, software_warning
from moto_jax.worlds.kitchen.world import environment_maker

# The goal for the paper's whole budget on one H200-class GPU with 16 cores.
_GOAL_MINUTES = 60.0


def measure_training(preset: str = "", rounds: int = 3, updates: int = 0) -> Part:
    """Yields the projected minutes, and what they are made of.

    Args:
      preset: of the configuration; "full" where there is an accelerator, else "cpu".
      rounds: measurements.
      updates: in each; by default 50 on an accelerator and 5 on a CPU.
    """
    platform = jax.default_backend()
    on_cpu = platform == "cpu"
    preset = preset or ("cpu" if on_cpu else "full")
    dtype = "float32" if on_cpu else "bfloat16"
    config = preset_config(preset)
    config.compute_dtype = dtype
    config.training.updates_per_episode = updates or (5 if on_cpu else 50)
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **_: object) -> None:
        del duration_secs
        if event.endswith("/backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    with WorkerPool(environment_maker(config), config.env.workers) as pool:
        loop = Loop(config, pool)
        # The first block and episode warm everything up.
        loop.train()
        loop.collect(0, loop.params())
        compiled.clear()
        spent = []
        for number in range(rounds):
            update = seconds(loop.train) / loop.updates_per_block
            episode = seconds(lambda: loop.collect(1 + number, loop.params()))  # noqa: B023
            spent.append((update, episode))
    compiled_late = len(compiled)
    update, episode = sorted(spent)[len(spent) // 2]
    yield figure_of(
        f"{platform}/{preset}",
        "minutes for the paper's budget",
        "the goal on one H200-class GPU with 16 cores",
        [(_projected_minutes(*both), _GOAL_MINUTES) for both in spent],
        less_is_better=True,
    )
    yield from _notes(config, update, episode, compiled_late)


def _notes(config: Config, update: float, episode: float, compiled_late: int) -> Part:
    """Yields what the seconds of an update and of an episode are made of."""
    where = f"{jax.default_backend()}/{config.size}"
    dtype = config.compute_dtype
    flops = flops_of(config)
    peak = measured_peak(dtype)()
    yield (
        f"{where}: {1e3 * update:.1f} ms an update in {dtype}, "
        f"{flops / update / 1e12:.2f} TFLOP/s, {flops / update / peak:.2f} of the "
        f"measured product's {peak / 1e12:.2f}; {compiled_late} programs compiled "
        "after the first block"
    )
    length = config.env.episode_steps
    yield (
        f"{where}: an episode of {length} steps {episode:.1f} s, "
        f"{length / episode:.0f} steps/s with {config.env.workers} workers of which "
        f"one plays, profile {config.env.render_profile}, drawn by {renderer_name()}"
    )
    memory = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in memory:
        yield (
            f"{where}: "
            f"{memory['peak_bytes_in_use'] / 1e9:.1f} GB on the device at the peak"
        )
    warning = software_warning(renderer_name())
    if warning:
        yield warning


def _projected_minutes(update: float, episode: float) -> float:
    """Returns the minutes of the paper's budget: collecting hides behind training."""
    budget = preset_config("full").training
    block = max(budget.updates_per_episode * update, episode)
    return (budget.offline_updates * update + budget.online_episodes * block) / 60
