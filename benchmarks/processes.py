"""A command as a process of its own: its seconds and its peaks of memory. Files out of the page cache."""

import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """What a command took.

    Args:
        seconds: from start to end.
        resident: bytes of memory at the peak (VmHWM), pages of mapped files included.
        anonymous: bytes that are not pages of files, at the peak (of RssAnon, looked at every 10 ms).
        output: what it printed.
    """

    seconds: float
    resident: int
    anonymous: int
    output: str


def run(command: list) -> Run:
    """Runs a command to its end.

    The peaks are read while it runs: `getrusage` would count the memory of this process, too, where Python starts
    another with vfork.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    command = [str(part) for part in command]
    start, peaks = time.perf_counter(), {"VmHWM": 0, "RssAnon": 0}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        while True:
            status = Path(f"/proc/{process.pid}/status").read_text()
            for name, kilobytes in re.findall(r"(VmHWM|RssAnon):\s*(\d+) kB", status):  # none once it has ended
                peaks[name] = max(peaks[name], 1024 * int(kilobytes))
            try:
                output, _ = process.communicate(timeout=0.01)
                break
            except subprocess.TimeoutExpired:
                pass
    finally:
        process.kill()  # does nothing to one that has ended
        process.wait()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Run(time.perf_counter() - start, peaks["VmHWM"], peaks["RssAnon"], output)


def out_of_cache(path: Path) -> None:
    """Makes the next reader of a file fetch it from the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
