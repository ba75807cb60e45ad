"""The safetensors format: eight bytes of header length, a JSON header, the tensors' bytes without gaps."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from ..errors import CheckpointError
from .disk import identity, open_regular, require_unchanged
from .json_file import load_json, named, read_json_file
from .stored import StoredTensor, is_count, is_shape

CODES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
METADATA = "__metadata__"  # the one key of a header that is no tensor
MAX_HEADER = 16 << 20  # bytes; some 100 are needed for a tensor (the format allows 100 MB)
MAX_MARKS = 500_000  # of JSON, some 10 for a tensor


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Names and places of the tensors in a safetensors file.

    Raises:
        CheckpointError: the file is damaged or has element types a checkpoint does not have.
    """
    with open_regular(path) as file:
        seen = identity(file)
        length = int.from_bytes(file.read(8), "little")
        if length > min(seen.size - 8, MAX_HEADER):
            raise CheckpointError(
                f"{path} is damaged or incomplete: its header does not fit; copy or download it again."
            )
        text = file.read(length)
        require_unchanged(file, path, seen)
    if sum(map(text.count, (b"{", b"[", b","))) > MAX_MARKS:
        raise CheckpointError(f"{path} is damaged: its header describes more than a checkpoint can hold.")
    header = load_json(text, f"The header of {path}")
    header.pop(METADATA, None)
    tensors = {}
    for name, entry in header.items():
        try:
            dtype, shape, (start, end) = CODES.get(entry["dtype"]), entry["shape"], entry["data_offsets"]
            sound = isinstance(shape, list) and is_shape(shape) and is_count(start) and is_count(end)
            sound = sound and (dtype is None or end - start == math.prod(shape) * dtype.itemsize)
        except (TypeError, KeyError, ValueError):
            sound = False
        if not sound:
            raise CheckpointError(
                f"{path} is damaged: its header describes {name} wrongly; copy or download it again."
            )
        if dtype is None:
            raise CheckpointError(
                f"{path} stores {name} as {named(entry['dtype'])}, expected one of {', '.join(CODES)}."
            )
        if 8 + length + end > seen.size:
            raise CheckpointError(f"{path} is incomplete: it ends before {name}; copy or download it again.")
        tensors[name] = StoredTensor(path, dtype, tuple(shape), 8 + length + start, identity=seen)
    end = 8 + length
    for name in sorted(tensors, key=lambda name: (tensors[name].offset, tensors[name].nbytes)):
        if tensors[name].offset != end:
            what = "gives the same bytes to several tensors" if tensors[name].offset < end else "leaves bytes out"
            raise CheckpointError(f"{path} is damaged: its header {what} before {name}; copy or download it again.")
        end += tensors[name].nbytes
    if end != seen.size:
        raise CheckpointError(f"{path} is damaged: it goes on after its last tensor; copy or download it again.")
    return tensors


def read_weights(folder: Path, stem: str) -> dict[str, StoredTensor]:
    """Names and places of the tensors in `stem.safetensors`, or in the files that `stem.safetensors.index.json` names.

    Raises:
        CheckpointError: a file is missing or damaged, or files and index disagree.
    """
    index = folder / f"{stem}.safetensors.index.json"
    if index.exists():
        return read_shards(index, read_safetensors)
    if not (folder / f"{stem}.safetensors").exists():
        raise CheckpointError(f"{folder} lacks {stem}.safetensors; make or download the folder again.")
    return read_safetensors(folder / f"{stem}.safetensors")


def read_shards(index: Path, read: Callable[[Path], dict[str, StoredTensor]]) -> dict[str, StoredTensor]:
    """Names and places of the tensors in the files that a JSON index names, which lie beside it.

    Args:
        index: the JSON file.
        read: gives the tensors of one file.

    Raises:
        CheckpointError: a file is missing or damaged, or files and index disagree.
    """
    folder, weight_map = index.parent, read_json_file(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(f"{index} has no weight_map; make or download the folder again.")
    tensors = {}
    for file in sorted(set(weight_map.values())):
        if Path(file).name != file or "\0" in file or len(file) > 200 or not (folder / file).exists():
            raise CheckpointError(f"{folder} lacks {named(file)}; make or download the folder again.")
        for name, tensor in read(folder / file).items():
            if weight_map.get(name) != file:
                raise CheckpointError(
                    f"{folder} holds {name} in a file its index does not name; make or download it again."
                )
            tensors[name] = tensor
    if absent := [name for name in weight_map if name not in tensors]:
        raise CheckpointError(f"{folder}'s index names tensors that its files lack, such as {absent[0]}.")
    return tensors


def layout(tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> tuple[bytes, dict[str, int]]:
    """Header of a file to be written, and the offset of every tensor in it.

    Args:
        tensors: element type and shape by name; the order is kept among types of one size.
    """
    codes = {dtype: code for code, dtype in CODES.items()}
    header, places, end = {METADATA: {"format": "pt"}}, {}, 0
    # wide types first: readers want every tensor aligned to its element size
    for name in sorted(tensors, key=lambda name: -tensors[name][0].itemsize):
        dtype, shape = tensors[name]
        places[name], end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": codes[dtype], "shape": shape, "data_offsets": [places[name], end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {name: start + place for name, place in places.items()}
