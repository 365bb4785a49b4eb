"""Fresh interpreters for work with the simulator, each at one end of a pipe.

Neither a fork (jax's threads do not survive one) nor a multiprocessing child (which
would import the caller's main module, and jax with it).
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from typing import Any

# How long a process may take to end once its end of the pipe is closed.
_ENDING_S = 1.0

_START = "import sys; from {module} import {function}; {function}({descriptor})"


class ProcessDied(RuntimeError):
    """A process ended, or closed its pipe, with a request unanswered."""


class Process:
    """A process that runs `module.function(descriptor)` and our end of its pipe.

    Attributes:
      connection: objects sent here arrive at the `Connection(descriptor)` there.
    """

    def __init__(self, module: str, function: str):
        ours, theirs = socket.socketpair()
        descriptor = theirs.fileno()
        # The process imports from where this one does, also when the caller's
        # directory is on the path only because it was started there.
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        # Mesa's own drawing threads bring nothing at 64 pixels, and there is one of
        # these processes a core already.
        environment = {"LP_NUM_THREADS": "0", **os.environ, "PYTHONPATH": path}
        start = _START.format(module=module, function=function, descriptor=descriptor)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", start],
                env=environment,
                pass_fds=(descriptor,),
                stdin=subprocess.DEVNULL,
            )
        self.connection = Connection(ours.detach())

    @property
    def process_id(self) -> int:
        """As the operating system numbers it."""
        return self._process.pid

    def send(self, request: Any) -> None:
        """Sends a request. A dead process shows when its answer is read."""
        with contextlib.suppress(OSError):
            self.connection.send(request)

    def receive(self) -> Any:
        """Waits for an answer.

        Raises:
          ProcessDied: where none will come.
        """
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            how = self._end()
            self.kill()
            raise ProcessDied(how) from None

    def _end(self) -> str:
        """Returns how a process ends that has closed its pipe."""
        try:
            code = self._process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            return "the process closed its pipe and did not end"
        if code >= 0:
            return f"the process ended with exit code {code}"
        if code == -signal.SIGKILL:
            return "the process was killed by SIGKILL, most often for want of memory"
        try:
            return f"the process was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"the process was killed by signal {-code}"

    def kill(self) -> None:
        """Ends the process; doing so twice is harmless."""
        self.connection.close()
        self._process.kill()
        self._process.wait()
