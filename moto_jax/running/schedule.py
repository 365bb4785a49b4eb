"""When a run does what, as pure functions of its update counter.

Alg. 1 in blocks: the offline phase is one block of updates; then each round of
collected episodes, of one or of several, opens a block of the online phase. Round 0 is
collected with the parameters that the offline phase left. While block i trains on
rounds 0 .. i, round i + 1 is collected with the parameters that block i began with:
this interleaving is fixed, so that a run does not depend on how fast either side is.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple


class Round(NamedTuple):
    """Online episodes of a seed that are collected at once, with the same parameters.

    Attributes:
      number: of the round.
      episodes: their numbers.
    """

    number: int
    episodes: range


class Block(NamedTuple):
    """Updates `first` .. `last` - 1, over the same stored episodes.

    Attributes:
      phase: "model", "offline" or "online".
      first: the first update's number.
      last: one past the last's.
      round: the newest that the block trains on, None before any.
    """

    phase: str
    first: int
    last: int
    round: Round | None


class Schedule(NamedTuple):
    """The budget and the rhythm of a run; see `config.training`.

    The first `model_updates` of the offline updates are the "model" phase. With
    `evaluate_online_every` the online phase has a rhythm of its own, counted from its
    start. The last round is a smaller one where the episodes leave no other.
    """

    offline_updates: int
    online_episodes: int
    updates_per_episode: int
    log_every: int
    evaluate_every: int
    checkpoint_every: int
    evaluate_online_every: int = 0
    episodes_per_round: int = 1
    updates_per_program: int = 1
    model_updates: int = 0

    @property
    def rounds(self) -> list[Round]:
        """The rounds of the online phase."""
        numbers = range(self.online_episodes)
        every = self.episodes_per_round
        starts = numbers[::every]
        return [
            Round(number, numbers[start : start + every])
            for number, start in enumerate(starts)
        ]

    @property
    def total(self) -> int:
        """Updates of the whole run."""
        return self.offline_updates + self.online_episodes * self.updates_per_episode

    def blocks(self, done: int) -> Iterator[Block]:
        """Yields the blocks that are left after `done` updates, the first cut short."""
        if done < self.model_updates:
            yield Block("model", done, self.model_updates, None)
        if done < self.offline_updates:
            first = max(done, self.model_updates)
            yield Block("offline", first, self.offline_updates, None)
        for one in self.rounds:
            first = self._begins(one.episodes.start)
            last = self._begins(one.episodes.stop)
            if done < last:
                yield Block("online", max(first, done), last, one)

    def programs(self, block: Block) -> Iterator[int]:
        """Yields how many updates each program of a block does, one after another.

        `updates_per_program` where nothing is due before the last of them; else one.
        """
        done, several = block.first, self.updates_per_program
        while done < block.last:
            passed = range(done + 1, done + several)
            fits = done + several <= block.last and not any(map(self._is_due, passed))
            yield several if fits else 1
            done += several if fits else 1

    def rounds_stored(self, done: int) -> list[Round]:
        """Returns the rounds that update number `done` trains on."""
        return [one for one in self.rounds if self._begins(one.episodes.start) <= done]

    def _begins(self, episode: int) -> int:
        """Returns the first update after an episode, of a round that it opens."""
        return self.offline_updates + episode * self.updates_per_episode

    def ends_phase(self, done: int) -> bool:
        """Whether a phase ends with `done` updates."""
        return done in (self.offline_updates, self.total)

    def logs(self, done: int) -> bool:
        """Whether metrics are logged after `done` updates."""
        return _due(done, self.log_every) or self.ends_phase(done)

    def evaluates(self, done: int) -> bool:
        """Whether the policy is evaluated after `done` updates."""
        every, since = self.evaluate_every, done
        if self.evaluate_online_every and done > self.offline_updates:
            every, since = self.evaluate_online_every, done - self.offline_updates
        return done == 0 or _due(since, every) or self.ends_phase(done)

    def saves(self, done: int) -> bool:
        """Whether the state is saved after `done` updates."""
        return _due(done, self.checkpoint_every) or self.ends_phase(done)

    def _is_due(self, done: int) -> bool:
        return self.logs(done) or self.evaluates(done) or self.saves(done)

    def has_saved(self, last_step: int, episodes: int) -> bool:
        """Whether a run that has come so far has saved a state on the way.

        Args:
          last_step: of its metrics, -1 without any; a step's are written before it is
            saved.
          episodes: online episodes that it has written; each round but the first is
            set out for when the block before it begins.
        """
        done = last_step - 1
        if episodes:
            newest = (episodes - 1) // self.episodes_per_round
            before = max(0, newest - 1) * self.episodes_per_round
            done = max(done, self._begins(before))
        return any(self.saves(number) for number in range(1, done + 1))


def make_schedule(section: Any, model_share: float = 0.0) -> Schedule:
    """Returns the schedule of `config.training`: both phases of Alg. 1.

    Args:
      section: of the configuration.
      model_share: of the offline updates, that of an agent's "model" phase.

    Raises:
      ValueError: for a negative number, or a run of no updates.
    """
    if not 0 <= model_share < 1:
        raise ValueError(
            f"the share of the model phase is {model_share}: use at least 0 and less "
            "than 1 in config.latent.model_share"
        )
    schedule = Schedule(
        **{field: int(section[field]) for field in Schedule._fields if field in section}
    )
    schedule = schedule._replace(
        model_updates=int(model_share * schedule.offline_updates)
    )
    for field, value in zip(Schedule._fields, schedule, strict=True):
        if value < 0:
            raise ValueError(f"config.training.{field} is {value}: use 0 or more")
    if not schedule.updates_per_program:
        raise ValueError("config.training.updates_per_program is 0: use 1 or more")
    if not schedule.episodes_per_round:
        raise ValueError(
            "config.training.episodes_per_round is 0: use 1 or more, at most "
            "config.env.workers"
        )
    if schedule.online_episodes and not schedule.updates_per_episode:
        raise ValueError(
            "config.training.updates_per_episode is 0 with online episodes to come: "
            "use at least 1, or set online_episodes to 0"
        )
    if not schedule.total:
        raise ValueError(
            "config.training asks for no updates: raise offline_updates or "
            "online_episodes"
        )
    return schedule


def _due(done: int, every: int) -> bool:
    return every > 0 and done > 0 and done % every == 0
