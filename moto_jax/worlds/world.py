"""The one door between an environment and everything that learns, plays or studies."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from moto_jax.acting.collection import Stage
from moto_jax.acting.progress import Progress
from moto_jax.data.episodes import Episode, Manifest
from moto_jax.data.rows import Label

# (directory, progress) -> the manifest of a dataset there, made where it is missing.
Source = Callable[[Path, Progress], Manifest]


class World(NamedTuple):
    """A place to learn in: all that training, data and study know of it.

    Attributes:
      action_size: A.
      image_size: pixels a side.
      render_profile: what a dataset's manifest must say of how its images were drawn.
      events: names of the K events that make an episode a success once each of them was
        so; in a kitchen the task's objects, in order.
      label: Episode -> reward, terminal rows, events [L + 1, K], rows that are cloned.
      sources: name -> what makes a dataset of demonstrations here.
      demonstrate: seed -> an episode of all events that no dataset has, drawn as the
        run's are; see `environment_seeds` for the seeds. Raises DatasetError where the
        demonstrator fails, or there is none.
      open_stage: () -> a context manager of the Stage on which policies play.
      most_at_once: how many episodes the stage plays at once; None: as many as asked.
      prepare: chooses what draws the frames, before anything imports it.
        Raises GraphicsError where the machine cannot draw.
      renderer_name: () -> the name of what draws the frames, None where that is plain.
        Raises GraphicsError where nothing can.
    """

    action_size: int
    image_size: int
    render_profile: str
    events: tuple[str, ...]
    label: Label
    sources: Mapping[str, Source]
    demonstrate: Callable[[int], Episode]
    open_stage: Callable[[], contextlib.AbstractContextManager[Stage]]
    most_at_once: int | None
    prepare: Callable[[], object]
    renderer_name: Callable[[], str | None]
