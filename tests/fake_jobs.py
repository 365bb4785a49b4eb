"""Jobs of a dataset that need no simulator; importable by the processes that run them.

Kept apart from the tests: a process that makes episodes imports this module alone.
"""

import dataclasses
import os
import sys
from pathlib import Path

import numpy as np

from moto_jax.acting.building import Made
from moto_jax.data.episodes import DatasetError, Episode


@dataclasses.dataclass(frozen=True)
class FakeJob:
    """Writes a line to `log`, then makes an episode of `index + 2` rows, or does not.

    `fault` is a file: while it is there, the job whose index it holds does not go well.
    """

    index: int
    log: Path
    fault: Path
    how: str = "refuse"

    @property
    def file(self) -> str:
        return f"{self.index:06d}.npz"

    def run(self) -> Made:
        with self.log.open("a") as log:
            log.write(f"{self.index} {'jax' in sys.modules}\n")
        if self.fault.exists() and self.fault.read_text() == str(self.index):
            if self.how == "die":
                os._exit(7)
            if self.how == "raise":
                raise ZeroDivisionError("oops")
            raise DatasetError(f"{self.file}: cannot be made")
        num_rows = self.index + 2
        episode = Episode(
            image=np.full((num_rows, 4, 4, 3), self.index, np.uint8),
            action=np.zeros((num_rows - 1, 9), np.float32),
            objects_in_goal=np.zeros((num_rows, 7), np.bool_),
            qpos=np.zeros((num_rows, 30), np.float32),
        )
        return Made(episode)
