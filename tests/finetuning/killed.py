"""A command killed by SIGKILL in its middle, in a process of its own.

Not in a fork of the test's process: a backward pass of an earlier test would forbid one in the fork.
"""

import subprocess
import sys
import time
from collections.abc import Callable


def kill(command: list[str], when: Callable[[], bool]) -> None:
    """Begins a command and kills it once something is so.

    Args:
        command: of `viscpm`.
        when: is asked every millisecond.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "viscpm_hf", *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 300
        while not when():
            assert process.poll() is None, f"ended before: {process.stderr.read()[-2000:]}"
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        process.kill()
        process.communicate()
