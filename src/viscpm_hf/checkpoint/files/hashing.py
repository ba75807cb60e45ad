"""SHA-256 of files, of the very bytes that are read of them for something else."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

import torch

from .disk import Identity
from .stored import PIECE, StoredTensor, read_pieces

BUFFERS = 8  # pieces that may wait for the hash


class Digests:
    """Hashes files while their tensors are read, in a thread of its own.

    What lies between the tensors is read in passing, so tensors should be read in the order they have in a file; what
    is read out of order was hashed before or is read once more.

    Args:
        files: identities by path.
    """

    def __init__(self, files: Iterable[tuple[Path, Identity]]):
        self._identities = dict(files)
        self._digests = {path: hashlib.sha256() for path in self._identities}
        self._positions = dict.fromkeys(self._identities, 0)
        self._free, self._full = SimpleQueue(), SimpleQueue()
        for _ in range(BUFFERS):
            self._free.put(bytearray(PIECE))
        self._thread = Thread(target=self._work, daemon=True)

    def __enter__(self) -> "Digests":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._full.put(None)
        self._thread.join()

    def read_pieces(self, tensor: StoredTensor) -> Iterator[memoryview]:
        """What the function of this name gives, hashed on the way."""
        if tensor.path not in self._digests or tensor.strides is not None:
            yield from read_pieces(tensor)
            return
        if tensor.nbytes:
            self._read_up_to(tensor.path, tensor.offset)
        yield from self._hashed(tensor)

    def finish(self) -> dict[Path, str]:
        """Reads what is left of every file; the hexadecimal digests by path."""
        for path, identity in self._identities.items():
            self._read_up_to(path, identity.size)
        self.__exit__()
        return {path: digest.hexdigest() for path, digest in self._digests.items()}

    def _read_up_to(self, path: Path, end: int) -> None:
        start = self._positions[path]
        if start < end:
            between = StoredTensor(path, torch.uint8, (end - start,), start, identity=self._identities[path])
            for _ in self._hashed(between):
                pass

    def _hashed(self, tensor: StoredTensor) -> Iterator[memoryview]:
        end = tensor.offset
        for piece in read_pieces(tensor, self._free.get):
            end += len(piece)
            new = end - self._positions[tensor.path]
            if new > 0:
                self._positions[tensor.path] = end
                # the buffer is free again when it is hashed, which may be before our reader is done with it; but the
                # next piece goes into whichever is free when the reader asks for it, so not before
                self._full.put((self._digests[tensor.path], piece[-new:]))
            yield piece
            if new <= 0:
                self._free.put(piece.obj)

    def _work(self) -> None:
        while (item := self._full.get()) is not None:
            digest, piece = item
            digest.update(piece)
            self._free.put(piece.obj)
