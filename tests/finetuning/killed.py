"""A command killed by SIGKILL in its middle, in a fork of the test's process, which has all libraries loaded."""

import os
import signal
import sys
import time
from collections.abc import Callable

from viscpm_hf.cli import main


def kill(command: list[str], when: Callable[[], bool]) -> None:
    """Begins a command and kills it once something is so.

    Args:
        command: of `viscpm`.
        when: is asked every millisecond.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        try:
            os._exit(main(command))
        finally:
            os._exit(1)
    try:
        deadline = time.monotonic() + 300
        while not when():
            ended, status = os.waitpid(process, os.WNOHANG)
            process = 0 if ended else process
            assert not ended and time.monotonic() < deadline, f"ended with {status} before"
            time.sleep(0.001)
    finally:
        if process:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
