"""Where a run's numbers are shown besides metrics.jsonl: the sinks by name.

metrics.jsonl is the record; a sink is a view of it, for people, and never a reason to
stop. One that raises, whatever it raises and wherever, is named in a single warning and
switched off; what it has missed by then is in metrics.jsonl.
"""

import contextlib
import importlib
import json
import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from moto_jax.data.files import write_atomically
from moto_jax.run_layout import CONFIG_NAME, METRICS_NAME, program_directory

# Seconds that Weights & Biases may still send at the end of a run, for each seed.
_SENDING_SECONDS = 60

_log = logging.getLogger(__name__)


class Sink(Protocol):
    """Takes the numbers of one seed, one line after another."""

    def write(self, step: int, phase: str, numbers: Mapping[str, float]) -> None:
        """Takes what was measured at one step.

        Args:
          step: updates done; not below that of the last call.
          phase: part of the run the numbers belong to, such as "evaluation offline".
          numbers: name, such as "model/kl" -> number; those that are not finite, null
            in metrics.jsonl, are left out.
        """
        ...

    def close(self) -> None:
        """Ends the sink; once, after the last line or the first error."""
        ...


class EventFile:
    """TensorBoard's: one event file each time that the run is taken up.

    Written by tensorboardX, but not in its thread: that would die of a full disk, and
    whoever then hands it a number waits forever.
    """

    def __init__(self, directory: Path, first_step: int):
        """Opens a file under `directory/tensorboard`, beside those from before.

        Args:
          directory: of the seed.
          first_step: readers hide what older files hold from this step on.
        """
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2
        from tensorboardX.summary import scalar

        folder = directory / "tensorboard"
        folder.mkdir(exist_ok=True)
        # Has no classes before it is imported, which no type checker sees.
        messages: Any = event_pb2
        self._event, self._scalar = messages.Event, scalar
        # tensorboardX counts whole seconds, and would empty a file of the same one.
        self._file = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        self._add(first_step, session_log={"status": "START"})

    def write(self, step: int, phase: str, numbers: Mapping[str, float]) -> None:
        """Writes a line as the series `PHASE/NAME`."""
        series = [
            self._scalar(f"{phase}/{name}", number) for name, number in numbers.items()
        ]
        values = [value for one in series for value in one.value]
        self._add(step, summary={"value": values})

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _add(self, step: int, **what: Any) -> None:
        event = self._event(step=step, wall_time=time.time(), **what)
        self._file.write_event(event)
        self._file.flush()


class WandbRun:
    """Weights & Biases': one run of it for a seed, gone on with when ours is.

    Its own settings hold, WANDB_MODE, WANDB_PROJECT and WANDB_ENTITY among them.
    """

    def __init__(self, directory: Path, first_step: int):
        """Opens the run, whose files and id lie under `directory/wandb`.

        Args:
          directory: of the seed.
          first_step: 0 begins another run; later ones go on with that whose id is kept.

        Raises:
          Exception: what wandb raises, or if nobody is logged in.
        """
        import wandb  # pyright: ignore[reportMissingImports]

        # Where it asks who is there, a run that nobody watches would wait for ever.
        online = wandb.setup().settings.mode == "online"
        if online and not wandb.login(prompt=False):
            raise ValueError(
                "nobody is logged in: do `wandb login`, or set WANDB_MODE=offline"
            )
        kept = directory / "wandb" / "moto_run_id"
        goes_on = first_step > 0 and kept.exists()
        if not goes_on:
            kept.parent.mkdir(exist_ok=True)
            write_atomically(kept, secrets.token_hex(4).encode())
        whole = program_directory(directory)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "moto-jax"),
            name="-".join(directory.resolve().relative_to(whole.parent).parts),
            group=whole.name,
            config=json.loads((directory / CONFIG_NAME).read_text(encoding="utf-8")),
            dir=str(directory),
            id=kept.read_text(encoding="utf-8"),
            resume="allow" if goes_on else None,
            # Seeds are runs beside each other in one process.
            reinit="create_new",
            settings=wandb.Settings(
                # Its capture of the terminal would meet the panel's.
                console="off",
                quiet=True,
                finish_timeout=_SENDING_SECONDS,
                finish_timeout_raises=True,
            ),
        )
        # It takes no step twice: those that are redone are there already.
        self._first_step = self._run.step

    def write(self, step: int, phase: str, numbers: Mapping[str, float]) -> None:
        """Logs a line as the series `PHASE/NAME`, by our steps."""
        if step >= self._first_step:
            named = {f"{phase}/{name}": number for name, number in numbers.items()}
            self._run.log(named, step=step)

    def close(self) -> None:
        """Sends what is left, for a minute at most."""
        self._run.finish()


# Name -> what opens it, for a seed's directory, from which metrics.jsonl is there, and
# the first step that comes: 0 where the run starts anew.
SINKS: dict[str, Callable[[Path, int], Sink]] = {
    "tensorboard": EventFile,
    "wandb": WandbRun,
}

# Of those that need one more, the package; the extra is called like the sink.
_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


def sink_names(wanted: str) -> tuple[str, ...]:
    """Returns the names in `config.sinks`, each once.

    Args:
      wanted: names of `SINKS`, separated by commas; or nothing.

    Raises:
      ValueError: for a name that no sink has, or one whose package is missing.
    """
    names = tuple(dict.fromkeys(filter(None, map(str.strip, wanted.split(",")))))
    for name in names:
        if name not in SINKS:
            raise ValueError(
                f"unknown sink {name!r}: set config.sinks to some of "
                f"{', '.join(SINKS)}, separated by commas, or to nothing"
            )
        if name in _PACKAGES:
            _require_package(name)
    return names


def _require_package(name: str) -> None:
    try:
        importlib.import_module(_PACKAGES[name])
    # One that is there but broken raises what it likes.
    except Exception as error:
        raise ValueError(
            f"the sink {name} needs the package {_PACKAGES[name]}, which cannot be "
            f"imported ({_first_line(error)}): pip install 'moto-jax[{name}]', or "
            "leave it out of config.sinks"
        ) from error


class SeedSinks:
    """The sinks of one seed, each until its first error."""

    def __init__(self, directory: Path, names: Sequence[str]):
        """Opens nothing yet: a sink is opened for its first line.

        Args:
          directory: of the seed.
          names: from `sink_names`.
        """
        self._directory = directory
        self._first_step = 0
        self._left = list(names)
        self._opened: dict[str, Sink] = {}

    def truncate_after(self, step: int) -> None:
        """Says that the steps after this one will be redone; before the first line."""
        self._first_step = step + 1

    def write(self, step: int, phase: str, numbers: Mapping[str, float]) -> None:
        """Gives every sink that is left a line, without what is not finite."""
        finite = {
            name: number for name, number in numbers.items() if math.isfinite(number)
        }
        for name in [*self._left]:
            with self._switched_off_by_errors(name):
                if name not in self._opened:
                    make = SINKS[name]
                    self._opened[name] = make(self._directory, self._first_step)
                self._opened[name].write(step, phase, finite)

    def close(self) -> None:
        """Closes every sink that is left; a second call does nothing."""
        for name in [*self._left]:
            with self._switched_off_by_errors(name):
                self._left.remove(name)
                if name in self._opened:
                    self._opened.pop(name).close()

    @contextlib.contextmanager
    def _switched_off_by_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if name in self._left:
                self._left.remove(name)
            sink = self._opened.pop(name, None)
            if sink is not None:
                # Gives back file and thread; what is wrong with it is known.
                with contextlib.suppress(Exception):
                    sink.close()
            _log.warning(
                "the sink %s of %s is switched off: %s; the run goes on, and %s there "
                "has every number",
                *(name, self._directory, _first_line(error), METRICS_NAME),
            )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
