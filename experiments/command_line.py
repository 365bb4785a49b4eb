"""How the programs here read their command lines."""

import errno
import io
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from absl import app, flags

from moto_jax import interruption

if TYPE_CHECKING:
    from rich.console import Console

CONFIGS = Path(__file__).parent / "configs"


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
            rest = flags.FLAGS(packaged_configs(list(map(_with_home, argv))))
        # A configuration file and its overrides raise what they like.
        except Exception as error:
            fail(_reason(error))
        if len(rest) > 1 and not positional:
            fail(f"unknown argument {rest[1]!r}: flags begin with --")
        return rest

    def watched(argv: Sequence[str]) -> None:
        with interruption.handled():
            main(argv)

    go_on_unread()
    app.run(watched, flags_parser=parse)


def _with_home(word: str) -> str:
    """Returns a flag with the home directory for ~, which shells leave after a =.

    Behind the last = in `--override=data.directory=~/demos`, too.
    """
    if not word.startswith("--"):
        return word
    name, tilde, rest = word.partition("=~")
    if not tilde or rest[:1] not in ("", "/"):
        return word
    return f"{name}={os.path.expanduser('~')}{rest}"


def packaged_configs(argv: Sequence[str]) -> list[str]:
    """Returns a command line, where a configuration is named its file instead.

    `--config=mixed:cpu`, or `--config mixed:cpu`, names a packaged one, and so does
    `--config=experiments/configs/mixed.py:cpu` where no such file lies.
    """
    words: list[str] = []
    for word in argv:
        flag, equals, value = word.partition("=")
        if words and words[-1] in ("--config", "-config"):
            words.append(_packaged_file(word))
        elif equals and flag in ("--config", "-config"):
            words.append(f"{flag}={_packaged_file(value)}")
        else:
            words.append(word)
    return words


def _packaged_file(value: str) -> str:
    name, colon, size = value.partition(":")
    path = CONFIGS / f"{Path(name).stem}.py"
    known = name in (path.stem, f"experiments/configs/{path.name}")
    if Path(name).exists() or not known or not path.exists():
        return value
    return f"{path}{colon}{size}"


class _Unread(io.FileIO):
    """A stream that goes nowhere from when nobody reads it any more."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return super().write(data)


def go_on_unread() -> None:
    """Lets the program go on to its results where nobody reads what it says.

    Its output may be a pipe whose reader is gone, or none at all.
    """
    sys.stdout = _unread(sys.stdout)
    sys.stderr = _unread(sys.stderr, by_line=True)


def _unread(stream: Any, by_line: bool = False) -> io.TextIOWrapper:
    """Returns the stream, or what stands for it where there is none, as `_Unread`."""
    if stream is None:
        return io.TextIOWrapper(io.BufferedWriter(_Unread(os.devnull, "w")))
    if isinstance(getattr(stream.buffer, "raw", None), _Unread):
        return stream
    stream.flush()
    raw = _Unread(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        stream.encoding,
        stream.errors,
        # The last is `python -u`.
        line_buffering=by_line or raw.isatty() or stream.write_through,
    )


def output_console(width: int) -> "Console":
    """Returns where tables are printed: as wide as the terminal; a file so wide."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else width, highlight=False)


def laid_out(title: str, lines: Sequence[str], width: int | None) -> list[str]:
    """Returns a part's lines beneath each other, behind its title.

    Args:
      title: of the part, at most 10 characters.
      lines: what was found.
      width: of the terminal, at whose words lines are broken; None breaks none.
    """
    if width is not None:
        lines = [
            part
            for line in lines
            for part in textwrap.wrap(
                line,
                max(width - 12, 20),
                break_long_words=False,
                break_on_hyphens=False,
            )
        ]
    rows = zip([title, *[""] * len(lines)], lines or [""], strict=False)
    return [f"{name:<10} {line}".rstrip() for name, line in rows]


def require_platform() -> None:
    """Ends the program where `JAX_PLATFORMS` asks for what JAX has not here."""
    import jax

    asked = os.environ.get("JAX_PLATFORMS")
    try:
        jax.devices()
    # Some platforms fail with an AssertionError without words.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        asked = f"JAX_PLATFORMS is {asked!r}" if asked else "JAX_PLATFORMS is not set"
        fail(
            f"{asked}, and JAX finds no such device here ({reason[:200]}): unset it, "
            "or set it to cpu"
        )


def prepare_jax(check: bool = True) -> None:
    """Settles numbers, memory and the cache of compiled programs; before JAX starts.

    Args:
      check: whether to start it and look for its devices; several processes of one run
        must find each other first.
    """
    from moto_jax.running.run_control import (
        keep_compiled_programs,
        keep_freed_memory,
        settle_numbers,
    )

    for sentence in settle_numbers():
        print(sentence, file=sys.stderr)
    keep_freed_memory()
    keep_compiled_programs()
    if check:
        require_platform()


def fail(reason: object, status: int = 1) -> NoReturn:
    """Ends the program with a status, 1 unless told, and the reason in one line."""
    if isinstance(reason, OSError):
        reason = _of_the_system(reason)
    line = f"error: {' '.join(str(reason).split())}"
    if status == 1:
        sys.exit(line)
    print(line, file=sys.stderr)
    sys.exit(status)


# What to do about an error of the operating system's.
_MENDS = {
    errno.EACCES: "mend its rights, or give another path",
    errno.EDQUOT: "free space, and give the same command again",
    errno.EEXIST: "a file has the name of a directory: move it, or give another path",
    errno.EFBIG: "raise the limit (ulimit -f), and give the same command again",
    errno.EISDIR: "a directory has the name of a file: give another path",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ENOENT: "look at the path",
    errno.ENOSPC: "free space, and give the same command again",
    errno.ENOTDIR: "a part of the path is a file: give another path",
    errno.EPERM: "mend its rights, or give another path",
    errno.EROFS: "give a path that can be written",
}


def _of_the_system(error: OSError) -> str:
    """Returns the file, what is wrong with it, and the mend; else its own words."""
    mend = _MENDS.get(error.errno or 0)
    if mend is None or error.filename is None:
        return str(error)
    return f"{error.filename}: {error.strerror}; {mend}"


def _reason(error: Exception) -> str:
    text = str(error).strip()
    if isinstance(error, AttributeError):
        # A key that the locked configuration does not have, by the key alone.
        return f"--config has no key {error.args[0].args[0]}"
    if "Traceback" in text:
        # Of an error inside a configuration file only the last line is for its user.
        return text.splitlines()[-1].partition(": ")[2]
    return text
