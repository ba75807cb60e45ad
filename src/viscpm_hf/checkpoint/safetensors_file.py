"""The safetensors format: eight bytes of header length, a JSON header, the tensors' bytes without gaps."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch

from .errors import CheckpointError, listed
from .stored import StoredTensor

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
MAX_HEADER = 100_000_000  # the format's own limit


def load_json(text: str | bytes, what: str) -> dict:
    """A JSON object whose keys are all different.

    Raises:
        CheckpointError: `text` is anything else; `what` begins the message.
    """
    repeated = []

    def unique(pairs):
        repeated.extend(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} is not valid JSON ({error}).") from error
    if repeated:
        raise CheckpointError(f"{what} has keys that come twice: {listed(repeated)}.")
    if not isinstance(value, dict):
        raise CheckpointError(f"{what} holds a JSON {type(value).__name__}, expected an object.")
    return value


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Names and places of the tensors in a safetensors file.

    Raises:
        CheckpointError: the file is damaged or has element types a checkpoint does not have.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, MAX_HEADER):
            raise CheckpointError(
                f"{path} is damaged or incomplete: its header does not fit; copy or download it again."
            )
        header = load_json(file.read(length), f"The header of {path}")
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        try:
            dtype, shape, (start, end) = CODES.get(entry["dtype"]), entry["shape"], entry["data_offsets"]
            numbers = [*shape, start, end]
            sound = all(type(number) is int and number >= 0 for number in numbers)
            sound = sound and (dtype is None or end - start == math.prod(shape) * dtype.itemsize)
        except (TypeError, KeyError, ValueError):
            sound = False
        if not sound:
            raise CheckpointError(
                f"{path} is damaged: its header describes {name} wrongly; copy or download it again."
            )
        if dtype is None:
            raise CheckpointError(f"{path} stores {name} as {entry['dtype']}, expected one of {', '.join(CODES)}.")
        if 8 + length + end > size:
            raise CheckpointError(f"{path} is incomplete: it ends before {name}; copy or download it again.")
        tensors[name] = StoredTensor(path, dtype, tuple(shape), 8 + length + start)
    return tensors


def read_weights(folder: Path, stem: str) -> dict[str, StoredTensor]:
    """Names and places of the tensors in `stem.safetensors`, or in the files that `stem.safetensors.index.json` names.

    Raises:
        CheckpointError: a file is missing or damaged, or files and index disagree.
    """
    index = folder / f"{stem}.safetensors.index.json"
    if not index.is_file():
        return _read_safetensors_of(folder, f"{stem}.safetensors")
    weight_map = load_json(index.read_bytes(), str(index)).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index} has no weight_map; make or download the folder again.")
    tensors = {}
    for file in sorted(set(weight_map.values())):
        for name, tensor in _read_safetensors_of(folder, file).items():
            if weight_map.get(name) != file:
                raise CheckpointError(
                    f"{folder} holds {name} in a file its index does not name; make or download it again."
                )
            tensors[name] = tensor
    if absent := [name for name in weight_map if name not in tensors]:
        raise CheckpointError(f"{folder}'s index names tensors that its files lack, such as {absent[0]}.")
    return tensors


def _read_safetensors_of(folder: Path, name: str) -> dict[str, StoredTensor]:
    if Path(name).name != name or not (folder / name).is_file():
        raise CheckpointError(f"{folder} lacks {name}; make or download the folder again.")
    return read_safetensors(folder / name)


def layout(tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> tuple[bytes, dict[str, int]]:
    """Header of a file to be written, and the offset of every tensor in it.

    Args:
        tensors: element type and shape by name; the order is kept among types of one size.
    """
    codes = {dtype: code for code, dtype in CODES.items()}
    header, places, end = {"__metadata__": {"format": "pt"}}, {}, 0
    # wide types first: readers want every tensor aligned to its element size
    for name in sorted(tensors, key=lambda name: -tensors[name][0].itemsize):
        dtype, shape = tensors[name]
        places[name], end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": codes[dtype], "shape": shape, "data_offsets": [places[name], end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {name: start + place for name, place in places.items()}
