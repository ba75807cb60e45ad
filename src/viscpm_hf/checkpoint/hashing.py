"""SHA-256 of a file while something else is done with it."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from .stored import PIECE


@contextmanager
def background_sha256(path: Path) -> Iterator[Future]:
    """Hashes a file in a thread of its own, which reads along with the copy and finds the file in memory.

    Args:
        path: the file.

    Returns:
        Gives a future of the hexadecimal digest; leaving the block stops the work.
    """
    stop = Event()

    def work() -> str:
        digest, buffer = hashlib.sha256(), memoryview(bytearray(PIECE))
        with open(path, "rb", buffering=0) as file:
            while not stop.is_set() and (length := file.readinto(buffer)):
                digest.update(buffer[:length])
        return digest.hexdigest()

    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(work)
        finally:
            stop.set()
