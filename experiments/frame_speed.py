r"""Measures the renderer's two profiles: frames a second of one core, and closeness.

    python -m experiments.frame_speed

States are a scripted demonstration's. A second is one of the process's CPU time, which
a busy machine does not stretch; Mesa's own drawing threads are off.
"""

import os
import time
from collections.abc import Sequence

import numpy as np
from absl import flags

from experiments.command_line import fail, run_program
from moto_jax.envs.graphics import choose_backend

_FRAMES = flags.DEFINE_integer("frames", 300, "Frames of profile fast.", lower_bound=1)
_PAPER_FRAMES = flags.DEFINE_integer(
    "paper_frames", 12, "Frames of profile paper, half a second each.", lower_bound=1
)


def main(argv: Sequence[str]) -> None:
    """Prints the figures; what is wrong is said in one sentence."""
    del argv
    try:
        choose_backend()
        _measure()
    except (ValueError, RuntimeError) as error:
        fail(error)


def _measure() -> None:
    from moto_jax.data.sources import record_episode
    from moto_jax.envs import tasks
    from moto_jax.envs.demonstrator import Demonstrator
    from moto_jax.envs.kitchen import KitchenEnv
    from moto_jax.envs.renderer import KitchenRenderer

    demonstrator = Demonstrator(tasks.TASKS["mixed"], seed=0)
    episode = record_episode(KitchenEnv(render_frames=False), demonstrator, 0, 0)
    qpos = episode.qpos.astype(np.float64)
    images, seconds = {}, {}
    for profile, count in (("fast", _FRAMES.value), ("paper", _PAPER_FRAMES.value)):
        renderer = KitchenRenderer(profile)
        renderer.render(qpos[0])
        start = time.process_time()
        for row in range(count):
            renderer.render(qpos[row % len(qpos)])
        seconds[profile] = (time.process_time() - start) / count
        rows = np.linspace(0, len(qpos) - 1, _PAPER_FRAMES.value).astype(int)
        images[profile] = np.stack([renderer.render(qpos[row]) for row in rows])
        red, green, blue = renderer.render(qpos[0]).mean(axis=(0, 1))
        print(
            f"{profile:<6} {1 / seconds[profile]:7.1f} frames a CPU second, "
            f"reset frame's mean RGB {red:.1f} {green:.1f} {blue:.1f} "
            f"({renderer.gl_renderer})"
        )
    error = np.abs(images["fast"].astype(float) - images["paper"]).mean()
    print(f"mean absolute error of fast from paper {error:.1f} grey levels")
    print(f"ratio {seconds['paper'] / seconds['fast']:.0f}")


if __name__ == "__main__":
    # Before Mesa is loaded.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    run_program(main)
