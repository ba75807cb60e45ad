"""A tensor that lies in a file: where its bytes are, and reading them piece by piece."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .errors import CheckpointError

PIECE = 256 << 10  # bytes held at a time; fits the processor's cache, so that a copy costs half the time


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in a file.

    Args:
        path: the file.
        dtype: of the elements.
        shape: as many entries as dimensions.
        offset: of the first element, in bytes from the start of the file.
        strides: in elements, or None when the elements lie in row-major order without gaps.
    """

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...] | None = None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_pieces(tensor: StoredTensor) -> Iterator[memoryview]:
    """The tensor's bytes in row-major order, at most `PIECE` (or one row, if strided) at a time.

    Files are read, not mapped: mapped pages count as resident memory. A piece is valid until the next is asked for.
    """
    if tensor.strides is not None:
        yield from _read_strided(tensor)
        return
    buffer = memoryview(bytearray(min(PIECE, tensor.nbytes)))
    with open(tensor.path, "rb") as file:
        file.seek(tensor.offset)
        for start in range(0, tensor.nbytes, PIECE):
            piece = buffer[: min(PIECE, tensor.nbytes - start)]
            if file.readinto(piece) != len(piece):
                raise CheckpointError(f"{tensor.path} became shorter while it was being read; convert it again.")
            yield piece


def _read_strided(tensor: StoredTensor) -> Iterator[memoryview]:
    size = tensor.dtype.itemsize
    span = 1 + sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.strides, strict=True))
    flat = np.memmap(tensor.path, f"V{size}", "r", tensor.offset, (span,))
    view = np.lib.stride_tricks.as_strided(flat, tensor.shape, [stride * size for stride in tensor.strides])
    rows = max(1, PIECE * tensor.shape[0] // tensor.nbytes)
    for start in range(0, tensor.shape[0], rows):
        yield memoryview(np.array(view[start : start + rows], order="C").reshape(-1).view(np.uint8))


def cast_pieces(pieces: Iterator[memoryview], source: torch.dtype, target: torch.dtype) -> Iterator[memoryview]:
    """Pieces in another floating-point type.

    Raises:
        OverflowError: a finite number has no finite counterpart.
    """
    for piece in pieces:
        numbers = torch.frombuffer(piece, dtype=source)
        cast = numbers.to(target)
        overflow = cast.isinf() & ~numbers.isinf()
        if overflow.any():
            raise OverflowError(f"{numbers[overflow].abs().max().item():.4g}")
        yield memoryview(cast.view(torch.uint8).numpy())
