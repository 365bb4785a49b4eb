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

from moto_jax.data.episodes import DatasetError, Episode
from moto_jax.data.rows import Label, Rows, to_rows
from moto_jax.types import Batch, Config

T = TypeVar("T")

_ROW_FIELDS = dataclasses.fields(Rows)

# Second word of the generator's key, so that other parts of a run that draw from the
# same seed and step do not see the same numbers.
_REPLAY_STREAM = 0x5E9A


class _Index:
    """Some rows of each of a pool's episodes, numbered over all of them."""

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []
        self._ends: list[int] = []

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def add(self, chosen: np.ndarray) -> None:
        """Adds the rows of the next episode that are chosen, bool [rows]."""
        self._rows.append(np.flatnonzero(chosen))
        self._ends.append(len(self) + len(self._rows[-1]))

    def locate(self, number: int) -> tuple[int, int]:
        """Returns which episode holds the row of this number, and which of its own."""
        episode = bisect.bisect_right(self._ends, number)
        before = self._ends[episode - 1] if episode else 0
        return episode, int(self._rows[episode][number - before])


class _Pool:
    """Episodes of one origin, each of at least `min_rows` rows.

    Attributes:
      episodes: one each, or several short ones in a row.
      rows: all of theirs.
      cloned: those that are cloned.
      solved: of them those of episodes that were a success.
    """

    def __init__(self, min_rows: int) -> None:
        self._min_rows = min_rows
        # Episodes that do not fill a sequence together, and whether they succeeded.
        self._waiting: list[tuple[Rows, bool]] = []
        self.episodes: list[Rows] = []
        self.rows, self.cloned, self.solved = _Index(), _Index(), _Index()

    def add(self, rows: Rows, success: bool) -> None:
        """Stores an episode, or keeps it until it fills a sequence with the next.

        A sequence may then hold the ends and beginnings of several: `is_first` says
        where, and the model forgets what was before.
        """
        self._waiting.append((rows, success))
        if sum(len(one.image) for one, _ in self._waiting) < self._min_rows:
            return
        solved = np.concatenate(
            [np.full(len(one.image), succeeded) for one, succeeded in self._waiting]
        )
        if len(self._waiting) > 1:
            rows = Rows(
                **{
                    field.name: np.concatenate(
                        [getattr(one, field.name) for one, _ in self._waiting]
                    )
                    for field in _ROW_FIELDS
                }
            )
        self._waiting = []
        self.episodes.append(rows)
        self.rows.add(np.ones(len(rows.image), np.bool_))
        self.cloned.add(rows.is_behaviour)
        self.solved.add(rows.is_behaviour & solved)


class Replay:
    """Offline and online episodes of one world, and the sequences drawn from them.

    A sequence is drawn by choosing a stored row uniformly and a place for it in the
    sequence uniformly, then moving the sequence to fit its episode. Rows within
    `sequence_length` of an episode's ends are therefore seen as often as the rest, up
    to the clipping, and long episodes as often as their length deserves. A share of
    the sequences may choose their row among those that are cloned.

    An agent without a model takes a sequence for one transition, between a stack of
    frames and the next. For it the episode is drawn by its length, and each of its
    transitions is as likely as the others, but for the share that asks for cloned rows.
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
        prefer_successes: bool = False,
        discount: float = 1.0,
        transitions: bool = False,
    ):
        """Makes an empty replay.

        Args:
          label: the world's: which reward and behaviour rows the sequences carry.
          batch_size: sequences in a batch, B.
          sequence_length: rows in a sequence, T.
          seed: key of the generator, at least 0.
          online_share: expected share of sequences from online episodes, in [0, 1],
            once there are any; None draws uniformly over all stored rows.
          clone_intended: see `rows.to_rows`.
          behaviour_share: expected share of sequences, in [0, 1], that are drawn around
            a row that is cloned, where their pool has one.
          prefer_successes: whether these are of episodes that were a success, once
            their pool has one.
          discount: of the returns to go.
          transitions: whether a sequence stands for the transition to its last row, or
            in an episode's first sequence for any of its transitions. Then it is of one
            episode, and an online one that is shorter is left out; otherwise it waits
            for the next, to fill a sequence together.

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
        self._prefer_successes = prefer_successes
        self._discount = discount
        self._transitions = transitions
        self._rows_added = 0
        self._offline = _Pool(sequence_length)
        self._online = _Pool(sequence_length)
        self._names: dict[str, bool] = {}
        self._row_shapes: tuple[tuple[int, ...], ...] | None = None

    @property
    def num_rows(self) -> int:
        """Stored rows: environment steps plus one an episode."""
        return len(self._offline.rows) + len(self._online.rows)

    @property
    def behaviour_share(self) -> float:
        """Share of the stored rows whose action is cloned, 0 without rows."""
        cloned = len(self._offline.cloned) + len(self._online.cloned)
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
        if not (short and self._transitions):
            pool = self._online if online else self._offline
            labels = self._label(episode)
            rows = to_rows(
                episode,
                labels,
                self._rows_added,
                clone_intended=self._clone_intended,
                discount=self._discount,
            )
            pool.add(rows, bool(labels.events.any(axis=0).all()))
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
        behaviour &= np.array([len(pool.cloned) > 0 for pool in pools])
        among = [
            self._for_behaviour(pool) if cloned else pool.rows
            for pool, cloned in zip(pools, behaviour, strict=True)
        ]
        number = generator.integers([len(index) for index in among])
        offset = generator.integers(self._sequence_length, size=self._batch_size)
        # Of the episode's transitions, where no cloned row was asked for.
        within = generator.random(self._batch_size)
        sequences = []
        for column, pool in enumerate(pools):
            episode, row = among[column].locate(int(number[column]))
            rows = pool.episodes[episode]
            last = len(rows.image) - 1
            if self._transitions:
                drawn = row if behaviour[column] else int(within[column] * last)
                start = min(drawn, last - 1) + 2 - self._sequence_length
            else:
                start = row - int(offset[column])
            start = min(max(start, 0), last + 1 - self._sequence_length)
            sequences.append((rows, start))
        return sequences

    def _for_behaviour(self, pool: _Pool) -> _Index:
        """Returns the rows that a share of the sequences is drawn around."""
        return pool.solved if self._prefer_successes and pool.solved else pool.cloned

    def _current_online_share(self) -> float:
        """Returns the probability that a sequence comes from an online episode."""
        if not self._online.rows:
            return 0.0
        if self._online_share is None or not self._offline.rows:
            return len(self._online.rows) / self.num_rows
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
    transitions: bool,
    online_share: float | None = None,
) -> list[Replay]:
    """Returns replays that hold the demonstrations, images shared.

    Args:
      config: the run's; read are its section `replay` and `actor_critic.discount`.
      label: the world's.
      demonstrations: name and episode of each.
      seeds: one replay for each.
      batch_shape: (T, B) of the batches to be sampled.
      transitions: see `Replay`.
      online_share: what takes the place of the configuration's, if anything.
    """
    length, size = batch_shape
    if online_share is None and config.replay.online_share >= 0:
        online_share = config.replay.online_share
    replays = [
        Replay(
            label,
            size,
            length,
            seed,
            online_share=online_share,
            clone_intended=config.replay.cloned_action == "intended",
            behaviour_share=config.replay.behaviour_share,
            prefer_successes=config.replay.prefer_successes,
            discount=config.actor_critic.discount,
            transitions=transitions,
        )
        for seed in seeds
    ]
    for name, episode in demonstrations:
        for replay in replays:
            replay.add(episode, name)
    return replays
