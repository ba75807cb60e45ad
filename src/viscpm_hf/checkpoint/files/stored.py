"""A tensor that lies in a file: where its bytes are, and reading them piece by piece."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from ..errors import CheckpointError
from .disk import Identity, open_regular, require_unchanged

PIECE = 256 << 10  # bytes held at a time; fits the processor's cache, so that a copy costs half the time
BLOCK = 16 << 20  # bytes of a strided tensor put together at a time
GAP = 64 << 10  # bytes that are sooner read than skipped
MAX_AXES = 32


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in a file.

    Args:
        path: the file.
        dtype: of the elements.
        shape: as many entries as dimensions.
        offset: of the first element, in bytes from the start of the file.
        strides: in elements, or None when the elements lie in row-major order without gaps.
        identity: of the file when this was found out; None: the file is yet to be written.
    """

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...] | None = None
    identity: Identity | None = None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def is_count(number: object) -> bool:
    return type(number) is int and 0 <= number < 2**60


def is_shape(numbers: Sequence) -> bool:
    """Whether these can be a tensor's lengths: as many and as large as libraries can count with."""
    return (
        len(numbers) <= MAX_AXES
        and all(map(is_count, numbers))
        and is_count(math.prod(number or 1 for number in numbers))
    )


@contextmanager
def opened(tensor: StoredTensor) -> Iterator[BinaryIO]:
    """The file a tensor lies in.

    Raises:
        CheckpointError: it was changed or replaced since its tensors were looked up, or meanwhile.
    """
    with open_regular(tensor.path) as file:
        if tensor.identity is not None:
            require_unchanged(file, tensor.path, tensor.identity)
        yield file
        if tensor.identity is not None:
            require_unchanged(file, tensor.path, tensor.identity)


def read_pieces(tensor: StoredTensor, take_buffer: Callable[[], bytearray] | None = None) -> Iterator[memoryview]:
    """The tensor's bytes in row-major order, at most `PIECE` (or `BLOCK`, if strided) at a time.

    Files are read, not mapped: mapped pages count as resident memory, and are gone when the file becomes shorter.

    Args:
        tensor: to read.
        take_buffer: gives `PIECE` bytes to read the next piece into, unless the tensor is strided; by default a piece
            is valid until the next is asked for.
    """
    with opened(tensor) as file:
        if tensor.strides is not None:
            yield from _read_strided(file, tensor)
            return
        own = bytearray(0 if take_buffer else min(PIECE, tensor.nbytes))
        file.seek(tensor.offset)
        for start in range(0, tensor.nbytes, PIECE):
            piece = memoryview(take_buffer() if take_buffer else own)[: min(PIECE, tensor.nbytes - start)]
            _read_into(file, piece)
            yield piece


def _read_into(file: BinaryIO, piece: memoryview) -> None:
    if file.readinto(piece) != len(piece):
        raise CheckpointError(f"{file.name} became shorter while it was being read; run again.")


def _read_strided(file: BinaryIO, tensor: StoredTensor) -> Iterator[memoryview]:
    size = tensor.dtype.itemsize

    def blocks(offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Iterator[memoryview]:
        nbytes = math.prod(shape) * size
        if nbytes <= BLOCK:
            block = np.empty(shape, f"u{size}")
            _gather(file, block, offset, strides)
            yield memoryview(block.reshape(-1).view(np.uint8))
            return
        rows = BLOCK * shape[0] // nbytes
        for start in range(0, shape[0], rows or 1):
            inner = (min(rows, shape[0] - start), *shape[1:]) if rows else shape[1:]
            yield from blocks(offset + start * strides[0] * size, inner, strides if rows else strides[1:])

    yield from blocks(tensor.offset, tensor.shape, tensor.strides)


def _gather(file: BinaryIO, block: np.ndarray, offset: int, strides: tuple[int, ...]) -> None:
    """Fills a block `(*shape)` with elements that lie `strides` elements apart from `offset` bytes on."""
    size = block.dtype.itemsize
    reach = [(length - 1) * stride for length, stride in zip(block.shape, strides, strict=True)]
    span = (1 + sum(reach)) * size
    if span <= max(GAP, 4 * block.nbytes):
        data = bytearray(span)
        file.seek(offset)
        _read_into(file, memoryview(data))
        elements = np.frombuffer(data, block.dtype)
        block[...] = np.lib.stride_tricks.as_strided(elements, block.shape, [stride * size for stride in strides])
        return
    axis = reach.index(max(reach))
    middle = block.shape[axis] // 2
    first, second = np.split(block, [middle], axis)
    _gather(file, first, offset, strides)
    _gather(file, second, offset + middle * strides[axis] * size, strides)


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
