r"""Says whether a run would start on this machine, and what it would take.

    python -m experiments.doctor
    python -m experiments.doctor --config=experiments/configs/mixed.py:desktop --compile

Nothing is trained and nothing but one frame is written. The exit status is 0 where a
run would start and 1 where it would not; what is wrong is said with its mend.
"""

import shutil
import sys
from collections.abc import Sequence

from absl import flags, logging
from ml_collections import config_flags

from experiments.command_line import CONFIGS, laid_out, run_program
from experiments.examination import examine

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    f"{CONFIGS / 'mixed.py'}:cpu",
    "File of the configuration and its size.",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string("workdir", "runs", "Where the run would write.")
_FRAME = flags.DEFINE_string("frame", "runs/doctor.png", "Where to draw a frame.")
_COMPILE = flags.DEFINE_bool(
    "compile", False, "Compile an update, in minutes, to count what it takes of memory."
)


def main(argv: Sequence[str]) -> None:
    """Looks at one thing after another; the first that is wrong stops no other."""
    del argv
    logging.set_verbosity(logging.WARNING)
    # A file keeps lines whole.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    faults = []
    findings = examine(
        _CONFIG.value, _WORKDIR.value, _FRAME.value, compile_update=_COMPILE.value
    )
    for title, lines, fault in findings:
        if fault:
            faults.append(fault)
            lines = [*lines, f"WRONG: {fault}"]
        print("\n".join(laid_out(title, lines, width)))
    if faults:
        sys.exit(f"error: {len(faults)} of these would stop a run")
    print("a run would start")


if __name__ == "__main__":
    run_program(main)
