"""How the programs here read their command lines."""

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags


def run_program(
    main: Callable[[Sequence[str]], None], positional: bool = False
) -> None:
    """Runs an absl program; a wrong command line is answered in one sentence.

    Args:
      main: takes the program's name and its positional arguments.
      positional: whether it has any.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        try:
            rest = flags.FLAGS(argv)
        # A configuration file and its overrides raise what they like.
        except Exception as error:
            fail(_reason(error))
        if len(rest) > 1 and not positional:
            fail(f"unknown argument {rest[1]!r}: flags begin with --")
        return rest

    app.run(main, flags_parser=parse)


def prepare_jax() -> None:
    """Settles memory and the cache of compiled programs; before JAX starts."""
    from moto_jax.running.run_control import keep_compiled_programs, keep_freed_memory

    keep_freed_memory()
    keep_compiled_programs()


def fail(reason: object) -> NoReturn:
    """Ends the program with status 1 and the reason in one line."""
    sys.exit(f"error: {' '.join(str(reason).split())}")


def _reason(error: Exception) -> str:
    text = str(error).strip()
    if isinstance(error, AttributeError):
        # A key that the locked configuration does not have, by the key alone.
        return f"--config has no key {error.args[0].args[0]}"
    if "Traceback" in text:
        # Of an error inside a configuration file only the last line is for its user.
        return text.splitlines()[-1].partition(": ")[2]
    return text
