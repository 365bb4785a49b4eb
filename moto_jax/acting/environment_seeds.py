"""Environment seeds: every purpose has its own, by construction; free of jax.

An environment seed has 32 bits. The highest three are its purpose, so that no episode
of one purpose ever starts as one of another does. The other 29 count up from a place
that is hashed from the stream's words, such as the run's seed: numbers within a stream
never meet before the stream is full, and streams of other words meet by chance alone.
"""

import enum

import numpy as np

_PLACE_BITS = 29

# Episodes that a stream has room for.
STREAM_LENGTH = 1 << _PLACE_BITS

# Seeds of runs and datasets, and the words of streams, are below this.
SEED_END = 1 << 32


class Purpose(enum.IntEnum):
    """What an episode is for; 0 is left to the small seeds that are typed by hand.

    Their streams' words: of demonstrations the dataset's seed and the attempt, of
    training and evaluation the run's seed; the others have none, and are the same for
    all runs.
    """

    DEMONSTRATIONS = 1
    TRAINING = 2
    EVALUATION = 3
    TEST = 4
    HELD_OUT_DEMONSTRATIONS = 5
    EXPERTS = 6


def environment_seed(purpose: Purpose, *words: int, number: int) -> int:
    """Returns the environment seed of an episode, in [0, 2**32).

    Args:
      purpose: of the episode.
      words: of the stream, each in [0, 2**32), as many as `Purpose` says: of two
        streams that differ in trailing zeros alone the hash is the same.
      number: of the episode within its stream.

    Raises:
      ValueError: for a word or a number out of its range.
    """
    for word in words:
        check_seed("a seed", word)
    if not 0 <= number < STREAM_LENGTH:
        raise ValueError(
            f"episode {number} has no environment seed: use numbers of at least 0 and "
            f"less than {STREAM_LENGTH}"
        )
    hashed = np.random.SeedSequence([purpose, *words]).generate_state(1)[0]
    return (purpose << _PLACE_BITS) + (int(hashed) + number) % STREAM_LENGTH


def check_seed(name: str, seed: int) -> None:
    """Raises ValueError, with the name of what holds it, for a seed out of range."""
    if not isinstance(seed, int) or not 0 <= seed < SEED_END:
        raise ValueError(
            f"{name} is {seed!r}: use an integer of at least 0 and less than 2**32"
        )
