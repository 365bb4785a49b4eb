"""Replay of whole episodes in memory, sampled as time-major sequences.

Episodes stay as they were added: a sequence is a contiguous slice of one episode, so
adding an episode costs no copy of the others and several replays (one a seed) can share
the same images. A sample is a pure function of (seed, step, contents): a resumed run
that adds the same episodes in the same order draws the same batches.
"""

import bisect
import dataclasses
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

from moto_jax.data.episodes import DatasetError, Episode, Label, Rows, to_rows
from moto_jax.types import Batch, Config

T = TypeVar("T")

_ROW_FIELDS = dataclasses.fields(Rows)

# Second word of the generator's key, so that other parts of a run that draw from the
# same seed and step do not see the same numbers.
_REPLAY_STREAM = 0x5E9A


@dataclasses.dataclass
class _Pool:
    """Episodes of one origin and the running total of their rows.

    Attributes:
      min_rows: of a sequence.
      episodes: each of at least so many rows: one, or several short ones in a row.
      row_ends: how many rows there are up to each one's end.
      behaviour_ends: how many of those are cloned.
      waiting: episodes that do not fill a sequence together.
    """

    min_rows: int
    episodes: list[Rows] = dataclasses.field(default_factory=list)
    row_ends: list[int] = dataclasses.field(default_factory=list)
    behaviour_ends: list[int] = dataclasses.field(default_factory=list)
    waiting: list[Rows] = dataclasses.field(default_factory=list)

    @property
    def num_rows(self) -> int:
        return self.row_ends[-1] if self.row_ends else 0

    @property
    def behaviour_rows(self) -> int:
        return self.behaviour_ends[-1] if self.behaviour_ends else 0

    def add(self, rows: Rows) -> None:
        """Stores an episode, or keeps it until it fills a sequence with the next.

        A sequence may then hold the ends and beginnings of several: `is_first` says
        where, and the model forgets what was before.
        """
        self.waiting.append(rows)
        if sum(len(one.image) for one in self.waiting) < self.min_rows:
            return
        if len(self.waiting) > 1:
            rows = Rows(
                **{
                    field.name: np.concatenate(
                        [getattr(one, field.name) for one in self.waiting]
                    )
                    for field in _ROW_FIELDS
                }
            )
        self.waiting = []
        self.row_ends.append(self.num_rows + len(rows.image))
        self.behaviour_ends.append(self.behaviour_rows + int(rows.is_behaviour.sum()))
        self.episodes.append(rows)

    def locate(self, row: int, behaviour: bool = False) -> tuple[Rows, int]:
        """Returns the episode that holds the pool's `row`, and the row within it.

        Rows are counted over all that are stored, or over those of behaviour alone.
        """
        ends = self.behaviour_ends if behaviour else self.row_ends
        index = bisect.bisect_right(ends, row)
        rows, within = self.episodes[index], row - (ends[index - 1] if index else 0)
        if behaviour:
            within = int(np.flatnonzero(rows.is_behaviour)[within])
        return rows, within


class Replay:
    """Offline and online episodes of one world, and the sequences drawn from them.

    A sequence is drawn by choosing a stored row uniformly and a place for it in the
    sequence uniformly, then moving the sequence to fit its episode. Rows within
    `sequence_length` of an episode's ends are therefore seen as often as the rest, up
    to the clipping, and long episodes as often as their length deserves. A share of
    the sequences may choose their row among those that are cloned.
    """

    def __init__(
        self,
        label: Label,
        batch_size: int,
        sequence_length: int,
        seed: int,
        online_share: float | None = None,
        clone_intended: bool = False,
        behaviour_share: float = 0.0,
        join_short: bool = False,
    ):
        """Makes an empty replay.

        Args:
          label: the world's: which reward and behaviour rows the sequences carry.
          batch_size: sequences in a batch, B.
          sequence_length: rows in a sequence, T.
          seed: key of the generator, at least 0.
          online_share: expected share of sequences from online episodes, in [0, 1],
            once there are any; None draws uniformly over all stored rows.
          clone_intended: see `episodes.to_rows`.
          behaviour_share: expected share of sequences, in [0, 1], that are drawn around
            a row that is cloned, where their pool has one.
          join_short: whether an online episode that is shorter than a sequence waits
            for the next, to fill one together; otherwise it is left out, for an agent
            whose sequences must be of one episode.

        Raises:
          ValueError: for a size below one, a negative seed or a share outside [0, 1].
        """
        if batch_size < 1 or sequence_length < 1:
            raise ValueError(
                f"batch_size {batch_size} and sequence_length {sequence_length} must "
                "both be at least 1"
            )
        if seed < 0:
            raise ValueError(f"seed {seed} is negative: give one of at least 0")
        if online_share is not None and not 0 <= online_share <= 1:
            raise ValueError(f"online_share {online_share} must lie in [0, 1]")
        if not 0 <= behaviour_share <= 1:
            raise ValueError(f"behaviour_share {behaviour_share} must lie in [0, 1]")
        self._label = label
        self._batch_size = batch_size
        self._sequence_length = sequence_length
        self._seed = seed
        self._online_share = online_share
        self._clone_intended = clone_intended
        self._drawn_for_behaviour = behaviour_share
        self._join_short = join_short
        self._rows_added = 0
        self._offline = _Pool(sequence_length)
        self._online = _Pool(sequence_length)
        self._names: dict[str, bool] = {}
        self._row_shapes: tuple[tuple[int, ...], ...] | None = None

    @property
    def num_rows(self) -> int:
        """Stored rows: environment steps plus one an episode."""
        return self._offline.num_rows + self._online.num_rows

    @property
    def behaviour_share(self) -> float:
        """Share of the stored rows whose action is cloned, 0 without rows."""
        cloned = self._offline.behaviour_rows + self._online.behaviour_rows
        return cloned / max(1, self.num_rows)

    @property
    def num_episodes(self) -> int:
        """Stored episodes."""
        return len(self._names)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stored episodes, in the order they were added."""
        return tuple(self._names)

    @property
    def online_names(self) -> tuple[str, ...]:
        """Names of the stored online episodes, in the order they were added."""
        return tuple(name for name, online in self._names.items() if online)

    def add(self, episode: Episode, name: str, online: bool = False) -> None:
        """Adds an episode; its images are kept by reference, not copied.

        Args:
          episode: in the format of those stored; unless it is an online one, of at
            least `sequence_length` rows.
          name: identifies the episode in a checkpoint; each may be added once.
          online: whether the agent collected it.

        Raises:
          DatasetError: if the episode is too short, has another image or action size
            than the stored ones, or its name is taken.
        """
        if name in self._names:
            raise DatasetError(
                f"episode {name} is already in the replay: add each episode once"
            )
        short = episode.num_rows < self._sequence_length
        if short and not online:
            raise DatasetError(
                f"episode {name} has {episode.num_rows} rows, fewer than "
                f"sequence_length {self._sequence_length}: shorten the sequences or "
                "leave the episode out"
            )
        shapes = (episode.image.shape[1:], episode.action.shape[1:])
        if self._row_shapes is not None and shapes != self._row_shapes:
            raise DatasetError(
                f"episode {name} has image and action shapes {shapes}, the replay "
                f"holds {self._row_shapes}: use episodes of one format"
            )
        self._names[name] = online
        if not short or self._join_short:
            pool = self._online if online else self._offline
            labels = self._label(episode)
            pool.add(to_rows(episode, labels, self._rows_added, self._clone_intended))
            self._rows_added += episode.num_rows
        self._row_shapes = shapes

    def empty_batch(self, columns: int | None = None) -> Batch:
        """Returns a batch of NumPy arrays [T, B, ...] for `sample` to write.

        Args:
          columns: how many sequences to leave room for; all B where not given.

        Raises:
          DatasetError: if no episode was added yet.
        """
        if self._row_shapes is None:
            raise DatasetError("the replay holds no episode: add one before sampling")
        pool = self._offline if self._offline.episodes else self._online
        first = pool.episodes[0]
        leading = (self._sequence_length, columns or self._batch_size)
        fields = {field.name: getattr(first, field.name) for field in _ROW_FIELDS}
        return Batch(
            **{
                name: np.empty((*leading, *rows.shape[1:]), rows.dtype)
                for name, rows in fields.items()
            }
        )

    def sample(
        self, step: int, out: Batch | None = None, columns: range | None = None
    ) -> Batch:
        """Returns the batch of `step`, every field a NumPy array [T, B, ...].

        A sequence that begins inside an episode keeps the action that led to its first
        row; only an episode's first row has none.

        Args:
          step: any integer of at least 0; the same step gives the same batch as long
            as the same episodes are stored.
          out: an earlier batch to write over, three times faster than fresh memory;
            nothing may read it any more.
          columns: the sequences of the batch to return; all where not given. Which they
            are does not depend on it.

        Raises:
          DatasetError: if no episode was added yet.
        """
        columns = range(self._batch_size) if columns is None else columns
        batch = self.empty_batch(len(columns)) if out is None else out
        chosen = self._choose_sequences(step)
        for column, (rows, start) in enumerate(chosen[i] for i in columns):
            stop = start + self._sequence_length
            for field in _ROW_FIELDS:
                time_major = getattr(batch, field.name)
                time_major[:, column] = getattr(rows, field.name)[start:stop]
        return batch

    def _choose_sequences(self, step: int) -> list[tuple[Rows, int]]:
        """Returns B pairs of (episode, first row)."""
        # The step is the counter's highest word: streams of two steps never overlap.
        generator = np.random.Generator(
            np.random.Philox(
                key=np.array([self._seed, _REPLAY_STREAM], np.uint64),
                counter=np.array([0, 0, 0, step], np.uint64),
            )
        )
        from_online = generator.random(self._batch_size) < self._current_online_share()
        pools = [self._online if online else self._offline for online in from_online]
        behaviour = generator.random(self._batch_size) < self._drawn_for_behaviour
        behaviour &= np.array([pool.behaviour_rows > 0 for pool in pools])
        pool_row = generator.integers(
            [
                pool.behaviour_rows if cloned else pool.num_rows
                for pool, cloned in zip(pools, behaviour, strict=True)
            ]
        )
        offset = generator.integers(self._sequence_length, size=self._batch_size)
        sequences = []
        for column, pool in enumerate(pools):
            rows, row = pool.locate(int(pool_row[column]), bool(behaviour[column]))
            last_start = len(rows.image) - self._sequence_length
            start = min(max(row - int(offset[column]), 0), last_start)
            sequences.append((rows, start))
        return sequences

    def _current_online_share(self) -> float:
        """Returns the probability that a sequence comes from an online episode."""
        if self._online.num_rows == 0:
            return 0.0
        if self._online_share is None or self._offline.num_rows == 0:
            return self._online.num_rows / self.num_rows
        return self._online_share


def check_replay(config: Config) -> None:
    """Raises ValueError for what no replay of a configuration could do."""
    if config.replay.cloned_action not in ("executed", "intended"):
        raise ValueError(
            f"config.replay.cloned_action is {config.replay.cloned_action!r}: use "
            "executed or intended"
        )


def make_replays(
    config: Config,
    label: Label,
    demonstrations: Iterable[tuple[str, Episode]],
    seeds: Sequence[int],
    batch_shape: tuple[int, int],
    join_short: bool,
) -> list[Replay]:
    """Returns replays that hold the demonstrations, images shared.

    Args:
      config: the run's; read is its section `replay`.
      label: the world's.
      demonstrations: name and episode of each.
      seeds: one replay for each.
      batch_shape: (T, B) of the batches to be sampled.
      join_short: see `Replay`.
    """
    length, size = batch_shape
    share = config.replay.online_share
    replays = [
        Replay(
            label,
            size,
            length,
            seed,
            online_share=None if share < 0 else share,
            clone_intended=config.replay.cloned_action == "intended",
            behaviour_share=config.replay.behaviour_share,
            join_short=join_short,
        )
        for seed in seeds
    ]
    for name, episode in demonstrations:
        for replay in replays:
            replay.add(episode, name)
    return replays
