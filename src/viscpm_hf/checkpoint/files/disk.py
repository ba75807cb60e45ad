"""Files of others: regular ones only, opened without waiting, read within bounds, and whether they stayed the same."""

import os
import stat
import time
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..errors import CheckpointError

SMALL = 32 << 20  # bytes that a file of text or JSON may have
TICK = 20_000_000  # nanoseconds; file systems' clocks are finer than this
KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


class Identity(NamedTuple):
    """What changes when a file is written to or replaced."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int  # which, unlike the time before, cannot be set back


def open_regular(path: str | Path) -> BinaryIO:
    """Opens a regular file for reading; pipes, devices and the like, on which a reader might wait for ever, are not.

    Raises:
        CheckpointError: there is no such file, or it is something else.
        OSError: it may not be read.
    """
    try:
        # looked at first because opening alone does something to a device, again afterwards in case it was replaced
        _require_regular(os.stat(path).st_mode, path)
        file = open(path, "rb", opener=_without_waiting)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"There is no file {path}.") from error
    try:
        _require_regular(os.fstat(file.fileno()).st_mode, path)
    except BaseException:
        file.close()
        raise
    return file


def identity(file: BinaryIO) -> Identity:
    """Of an open file, such that whatever is written to the file from now on changes it."""
    found = _identity(file)
    if 0 <= time.time_ns() - max(found.modified, found.changed) < TICK:  # one more write could bear the same time
        time.sleep(TICK / 1e9)
        found = _identity(file)
    return found


def require_unchanged(file: BinaryIO, path: Path, seen: Identity) -> None:
    """Stops when an open file is not, or no longer, what it was.

    Raises:
        CheckpointError: its identity is another one.
    """
    if _identity(file) != seen:
        raise CheckpointError(
            f"{path} was changed or replaced while it was being read; wait until nothing writes to it and run again."
        )


def read_small(path: str | Path, limit: int = SMALL) -> bytes:
    """A whole file of text or JSON.

    Raises:
        CheckpointError: there is no such file, it is no regular one, or larger than `limit` bytes.
    """
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise CheckpointError(f"{path} has more than {limit >> 20} MB, far more than a file of its kind needs.")
    return data


def _identity(file: BinaryIO) -> Identity:
    status = os.fstat(file.fileno())
    return Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _require_regular(mode: int, path) -> None:
    if not stat.S_ISREG(mode):
        what = next((what for test, what in KINDS.items() if test(mode)), "no file")
        raise CheckpointError(f"{path} is {what}, expected a regular file.")


def _without_waiting(path, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
