"""Signals outside the training loop: one sentence, the status, what was held let go."""

import os
import signal
import subprocess
import sys

import pytest

from tests.programs import ROOT

NUMBERS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])

# Holds a file until it is unwound; `body` says what it does meanwhile.
PROGRAM = """
import ctypes, pathlib, sys, time
from moto_jax import interruption
held = pathlib.Path(sys.argv[1])
with interruption.handled():
    held.touch()
    try:
        {body}
    finally:
        {last}
        held.unlink()
"""
SLEEPS = "print('ready', flush=True); time.sleep(60)"
# A callback from C, which cannot raise: Python says so and goes on.
SWALLOWS = (
    "call = ctypes.CFUNCTYPE(None)(lambda: (print('ready', flush=True), "
    "time.sleep(2)) and None); call(); time.sleep(60)"
)
# A thread that is still at work once all is unwound, as one that compiles is.
WORKS_ON = (
    "import threading; work = lambda: (time.sleep(3), held.with_name('late').touch()); "
    "threading.Thread(target=work).start(); " + SLEEPS
)


def start(tmp_path, body=SLEEPS, last="pass"):
    program = PROGRAM.format(body=body, last=last)
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "held")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@NUMBERS
@pytest.mark.parametrize("body", [SLEEPS, SWALLOWS, WORKS_ON])
def test_a_signal_unwinds_and_is_told_in_one_sentence(tmp_path, number, body):
    process = start(tmp_path, body)
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert told == (
        f"interrupted by {number.name}: nothing half-written stays, and the same "
        "command can be given again\n"
    )
    assert list(tmp_path.iterdir()) == []


@NUMBERS
def test_a_second_signal_ends_at_once(tmp_path, number):
    process = start(tmp_path, last="print('tidies', flush=True); time.sleep(60)")
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "tidies\n"
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert told.splitlines()[1:] == [f"ended at once by {number.name}"]
    assert (tmp_path / "held").exists()


def test_the_second_signal_of_a_run_ends_it_at_once(tmp_path):
    body = (
        "from moto_jax.running.run_control import StopRequest\n"
        "        with StopRequest() as stop:\n"
        f"            {SLEEPS.replace('time.sleep(60)', 'time.sleep(1)')}\n"
        "            print(stop.signal_number, flush=True); time.sleep(60)"
    )
    process = start(tmp_path, body)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == f"{signal.SIGTERM.value}\n"
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert told == "ended at once by SIGTERM\n"


@pytest.mark.parametrize("package", ["experiments", "launch"])
def test_programs_are_watched_from_their_first_import(package):
    program = (
        "import signal, sys; sys.argv = ['-m']; "
        f"import {package}; from moto_jax import interruption; "
        "print([signal.getsignal(n) is interruption.end_at_once "
        "for n in (signal.SIGINT, signal.SIGTERM)], 'jax' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "[True, True] False\n"


PRINTS = """
import sys
from experiments.command_line import go_on_unread, output_console, run_program

def main(argv):
    if argv[2:]:
        go_on_unread()
    for _ in range(3):
        print("words", flush=True)
        output_console(80).print("words")
        print("words", file=sys.stderr)
    open(argv[1], "w").close()

run_program(main, positional=True)
"""


@pytest.mark.parametrize("again", [[], ["again"]])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("closed", ["pipe", "descriptor"])
def test_a_program_goes_on_where_nobody_reads(tmp_path, stream, closed, again):
    number = {"stdout": 1, "stderr": 2}[stream]
    words = [sys.executable, "-c", PRINTS, str(tmp_path / "result"), *again]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    reader, writer = os.pipe()
    os.close(reader)
    if closed == "pipe":
        streams[stream] = writer
    else:
        command = 'exec "$@" ' + f"{number}>&-"
        words = ["sh", "-c", command, "sh", *words]
    done = subprocess.run(words, cwd=ROOT, text=True, timeout=60, **streams)
    os.close(writer)
    other = done.stderr if stream == "stdout" else done.stdout
    # Of three rounds the one word on stderr, or the two on stdout.
    assert (done.returncode, other) == (0, "words\n" * 3 * number)
    assert (tmp_path / "result").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "--checkpoint=runs/none"),
        ("run", "--config=experiments/configs/mixed.py:mini", "--workdir=runs/none"),
    ],
)
def test_a_platform_that_is_not_there_is_one_sentence(words):
    environment = {**os.environ, "JAX_PLATFORMS": "nonsense"}
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{words[0]}", *words[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: JAX_PLATFORMS is 'nonsense', and JAX finds")
    assert done.stderr.endswith("unset it, or set it to cpu\n")


def test_a_notebooks_matplotlib_backend_stops_no_program():
    environment = {
        **os.environ,
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    done = subprocess.run(
        [sys.executable, "-m", "experiments.report", "--runs=runs/none", "--out=x.html"]
        + ["--figures=none"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
