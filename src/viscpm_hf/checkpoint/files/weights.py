"""Writing the tensors of a checkpoint into safetensors files, piece by piece."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import torch
from tqdm import tqdm

from ..errors import CheckpointError
from .safetensors_file import layout
from .stored import StoredTensor, cast_pieces, read_pieces

DTYPES = {
    "keep": None,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}


Reader = Callable[[StoredTensor], Iterator[memoryview]]


def target_dtype(name: str) -> torch.dtype | None:
    """The type `--dtype` names, None for the tensors' own."""
    if name not in DTYPES:
        raise CheckpointError(f"Got dtype {name!r}, expected one of {', '.join(DTYPES)}.")
    return DTYPES[name]


@dataclass(frozen=True)
class WeightFile:
    """A safetensors file to be written.

    Args:
        name: path in the repository.
        tensors: source of each tensor by new name.
        dtype: for floating-point numbers, None for the tensors' own.
    """

    name: str
    tensors: Mapping[str, StoredTensor]
    dtype: torch.dtype | None = None

    def written(self) -> dict[str, StoredTensor]:
        """What is written for each tensor: itself, or its cast if it holds floating-point numbers."""
        return {name: _written(tensor, self.dtype) for name, tensor in self.tensors.items()}


def shards(tensors: Mapping[str, StoredTensor], stem: str, dtype: torch.dtype | None, limit: int) -> list[WeightFile]:
    """Splits tensors over `stem.safetensors`, or over numbered files when they exceed `limit` bytes.

    Args:
        tensors: sources by new name; the order is kept.
        stem: of the file names, such as `model` or `unet/diffusion_pytorch_model`.
        dtype: that will be written, None for the tensors' own.
        limit: bytes of one file; a single larger tensor gets a file of its own.
    """
    groups, filled = [{}], 0
    for name, tensor in tensors.items():
        nbytes = _written(tensor, dtype).nbytes
        if groups[-1] and filled + nbytes > limit:
            groups.append({})
            filled = 0
        groups[-1][name] = tensor
        filled += nbytes
    if len(groups) == 1:
        return [WeightFile(f"{stem}.safetensors", groups[0], dtype)]
    return [
        WeightFile(f"{stem}-{number:05}-of-{len(groups):05}.safetensors", group, dtype)
        for number, group in enumerate(groups, 1)
    ]


def write_index(folder: Path, stem: str, files: list[WeightFile]) -> None:
    """The index transformers and diffusers need when a model has several files."""
    written = [tensor for file in files for tensor in file.written().values()]
    index = {
        "metadata": {
            "total_parameters": sum(tensor.nbytes // tensor.dtype.itemsize for tensor in written),
            "total_size": sum(tensor.nbytes for tensor in written),
        },
        "weight_map": {name: Path(file.name).name for file in files for name in file.tensors},
    }
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (folder / f"{stem}.safetensors.index.json").write_text(text, encoding="utf-8")


def total_bytes(files: list[WeightFile]) -> int:
    return sum(tensor.nbytes for file in files for tensor in file.written().values())


def progress_bar(nbytes: int, progress: bool) -> tqdm:
    """A bar that counts bytes, on stderr if that is a terminal."""
    return tqdm(total=nbytes, unit="B", unit_scale=True, disable=None if progress else True)


def write_weights(folder: Path, files: list[WeightFile], progress: bool, read: Reader = read_pieces) -> None:
    """Writes the files, reading the sources from their beginnings to their ends.

    Args:
        folder: to write to.
        files: to be written.
        progress: whether to show a progress bar on a terminal.
        read: gives a tensor's bytes.

    Raises:
        CheckpointError: a number is too large for the type a file asks for, or a source changes meanwhile.
    """
    places = []
    for file in files:
        written = file.written()
        header, starts = layout({name: (tensor.dtype, tensor.shape) for name, tensor in written.items()})
        (folder / file.name).write_bytes(header)
        places += [
            (folder / file.name, starts[name], name, tensor, written[name].dtype)
            for name, tensor in file.tensors.items()
        ]
    places.sort(key=lambda place: (place[3].path, place[3].offset))
    with progress_bar(total_bytes(files), progress) as bar:
        for path, group in groupby(places, key=itemgetter(0)):
            with open(path, "r+b") as output:
                for _, start, name, tensor, dtype in group:
                    output.seek(start)
                    for piece in pieces_as(name, tensor, dtype, read):
                        output.write(piece)
                        bar.update(len(piece))


def pieces_as(name: str, tensor: StoredTensor, dtype: torch.dtype, read: Reader = read_pieces) -> Iterator[memoryview]:
    """The tensor's bytes in `dtype`.

    Raises:
        CheckpointError: a number is too large for `dtype`.
    """
    if dtype == tensor.dtype:
        yield from read(tensor)
        return
    try:
        yield from cast_pieces(read(tensor), tensor.dtype, dtype)
    except OverflowError as error:
        raise CheckpointError(
            f"{name} holds a number of size {error}, too large for {str(dtype).removeprefix('torch.')}; convert with "
            "--dtype bfloat16 or float32."
        ) from error


def _written(tensor: StoredTensor, dtype: torch.dtype | None) -> StoredTensor:
    cast = dtype is not None and tensor.dtype.is_floating_point
    return StoredTensor(tensor.path, dtype if cast else tensor.dtype, tensor.shape, 0)
