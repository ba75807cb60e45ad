"""PyTorch's zip checkpoints, read without executing their pickle and written without holding their tensors."""

import io
import math
import os
import pickle
import struct
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from ..errors import CheckpointError, listed
from .disk import Identity, identity, open_regular, require_unchanged
from .pickled import MAX_BYTES, Global, Made, Pairs, read_pickle
from .stored import StoredTensor, is_count, is_shape
from .wrapped import find_state_dict, is_tensor, not_plain

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
LOCAL_HEADER = 30  # bytes of a zip member's header before its name
ALIGNMENT = 64  # of tensor data in the file, as torch.save does
MAX_DIRECTORY = 8 << 20  # bytes; some 80 are needed for a tensor
TIMES = 4  # as many bytes as the file has may its tensors have: some share them, such as tied weights
ENCRYPTED, UTF_8 = 1, 0x800  # flags of a zip file's member


@dataclass
class _View:
    """A tensor as the pickle describes it: a view of a storage, which is a member of the archive."""

    dtype: torch.dtype
    key: str
    storage_length: int
    storage_offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch(path: Path) -> tuple[dict[str, StoredTensor], str]:
    """Names and places of the tensors in a `.bin` or `.pt` file of today's zip format.

    `torch.load(weights_only=True)` would be as safe, but it tells neither where in the file a storage lies nor that a
    name came twice, and takes nothing that lies beside objects it does not know.

    Returns:
        Tensors by name, and the keys they lie under, with dots between them, if the file holds more than them.

    Raises:
        CheckpointError: the file is damaged, or holds no state dict of tensors. Nothing in it is executed.
    """
    with open_regular(path) as file:
        seen = identity(file)
        members, (pickle_name, pickled) = _directory(file, path)
        try:
            value = read_pickle(pickled)
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged: its data.pkl cannot be read ({error}).") from error
        pairs, under = find_state_dict(value, path)
        views = _views(pairs, path)
        folder = pickle_name.removesuffix("data.pkl")
        starts = {view.key: _data_start(file, path, members, folder, name, view) for name, view in views.items()}
        require_unchanged(file, path, seen)
    tensors = {name: _stored(path, name, view, starts[view.key], seen) for name, view in views.items()}
    if tensors and not any(tensor.nbytes for tensor in tensors.values()):
        raise CheckpointError(
            f"All tensors in {path} are empty, as in one part of a DeepSpeed ZeRO-3 checkpoint; join the parts with "
            "the script zero_to_fp32.py beside them and give the result."
        )
    nbytes = sum(tensor.nbytes for tensor in tensors.values())
    if nbytes > TIMES * seen.size + 2**20:  # a few bytes can be called any number of tensors of any size
        raise CheckpointError(
            f"{path} describes {nbytes / 1e9:.3g} GB of tensors that share {seen.size / 1e9:.3g} GB; save them with "
            ".contiguous()."
        )
    return tensors, under


class _Bounded:
    """A file of which not too much is read at once: a zip file's directory can claim to be as large as the file."""

    def __init__(self, file: BinaryIO, limit: int):
        self.file, self.limit = file, limit

    def __getattr__(self, name):
        return getattr(self.file, name)

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(self.limit + 1 if size < 0 else min(size, self.limit + 1))
        if len(data) > self.limit:
            raise zipfile.BadZipFile("it describes more than a checkpoint can hold")
        return data


def _directory(file: BinaryIO, path: Path) -> tuple[dict[str, zipfile.ZipInfo], tuple[str, bytes]]:
    """A zip file's members by name, and name and contents of its pickle."""
    bounded = _Bounded(file, MAX_DIRECTORY)
    try:
        with zipfile.ZipFile(bounded) as archive:
            bounded.limit = MAX_BYTES
            infos = archive.infolist()
            twice = [name for name, count in Counter(info.filename for info in infos).items() if count > 1]
            members = {info.filename: info for info in infos}
            pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
            if twice or len(pickles) != 1:
                what = f"holds {listed(twice)} twice" if twice else "has no data.pkl in it"
                raise CheckpointError(f"{path} is a zip file but not a PyTorch checkpoint: it {what}.")
            compressed = [name for name, info in members.items() if info.compress_type != zipfile.ZIP_STORED]
            if compressed:
                raise CheckpointError(
                    f"{path} has compressed members ({listed(compressed, 3)}), which PyTorch does not write; "
                    "unpack it if it was zipped for transport."
                )
            if any(info.flag_bits & ENCRYPTED for info in infos):
                raise CheckpointError(f"{path} is an encrypted zip file; give the checkpoint as it was saved.")
            order = pickles[0].removesuffix("data.pkl") + "byteorder"
            if order in members and archive.read(order) != b"little":
                raise CheckpointError(f"{path} was written on a big-endian machine; save it on a little-endian one.")
            return members, (pickles[0], archive.read(pickles[0]))
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # all that zipfile raises on damage
        raise CheckpointError(f"{path} is damaged or incomplete ({error}); copy or download it again.") from error


def _views(pairs: list[tuple], path: Path) -> dict[str, _View]:
    """Tensors by name, in the order they have in the state dict."""
    counts = Counter(name for name, _ in pairs if isinstance(name, str))
    if repeated := [name for name, count in counts.items() if count > 1]:
        raise CheckpointError(f"{path} gives several tensors one name: {listed(repeated)}.")
    for _, value in pairs:
        if isinstance(value, Made) and not is_tensor(value):
            raise not_plain(value, path)
    odd = [name for name, value in pairs if not (isinstance(name, str) and is_tensor(value))]
    if odd:
        names = [name if isinstance(name, str) else f"a {type(name).__name__} as a name" for name in odd]
        raise CheckpointError(f"{path} holds entries that are not named tensors: {listed(names)}.")
    return {name: _view(path, name, value) for name, value in pairs}


def _view(path: Path, name: str, value: Made) -> _View:
    try:
        if value.function.name == "_rebuild_parameter":
            value = value.arguments[0]
        storage, offset, shape, strides, _, _, *metadata = value.arguments
        kind, dtype, key, _device, length = storage.id
        sound = isinstance(dtype, Global) and dtype.module == "torch" and (kind, type(key)) == ("storage", str)
        if sound and dtype.name not in STORAGES:
            raise not_plain(Made(dtype, ()), path)
        view = _View(STORAGES[dtype.name], key, length, offset, tuple(shape), tuple(strides))
    except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        if isinstance(error, CheckpointError):
            raise
        sound = False
    if not sound or not is_count(offset) or not is_count(length):
        raise CheckpointError(f"{path} is damaged: its data.pkl describes {name} wrongly.")
    if any(not isinstance(each, Pairs) or each.pairs for each in metadata):  # such as {"neg": True}
        raise CheckpointError(
            f"{path} stores {name} as numbers to be negated or conjugated when they are read; save it with "
            ".resolve_conj().resolve_neg()."
        )
    return view


def _data_start(file: BinaryIO, path: Path, members: dict, folder: str, name: str, view: _View) -> int:
    """Offset in bytes of the storage a tensor lies in."""
    info = members.get(f"{folder}data/{view.key}")
    if info is None:
        raise CheckpointError(f"{path} is incomplete: it lacks data/{view.key}, where {name} should lie.")
    size = file.seek(0, os.SEEK_END)
    file.seek(min(max(info.header_offset, 0), size))
    member = info.orig_filename.encode("utf-8" if info.flag_bits & UTF_8 else "cp437")
    header = file.read(LOCAL_HEADER + len(member))
    if not header.startswith(b"PK\3\4") or not header.endswith(member):
        raise CheckpointError(f"{path} is damaged: it has no data/{view.key} where its directory says.")
    start = info.header_offset + LOCAL_HEADER + sum(struct.unpack("<HH", header[26:LOCAL_HEADER]))
    if info.file_size != view.storage_length * view.dtype.itemsize or start + info.file_size > size:
        raise CheckpointError(f"{path} is damaged or incomplete: data/{view.key} for {name} has a wrong size.")
    return start


def _stored(path: Path, name: str, view: _View, start: int, seen: Identity) -> StoredTensor:
    sound = is_shape(view.shape) and len(view.shape) == len(view.strides)
    sound = sound and all(map(is_count, view.strides))
    if sound and 0 not in view.shape:
        last = sum((length - 1) * stride for length, stride in zip(view.shape, view.strides, strict=True))
        sound = view.storage_offset + last < view.storage_length
    if not sound:
        raise CheckpointError(f"{path} is damaged: {name} reaches beyond its storage.")
    axes = zip(view.shape, view.strides, _row_major(view.shape), strict=True)
    dense = 0 in view.shape or all(length == 1 or stride == expected for length, stride, expected in axes)
    offset = start + view.storage_offset * view.dtype.itemsize
    return StoredTensor(path, view.dtype, view.shape, offset, None if dense else view.strides, seen)


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


class _Storage:
    """Stands for a tensor's storage while a state dict is pickled."""

    def __init__(self, key: str, dtype: torch.dtype, length: int):
        classes = {dtype: name for name, dtype in STORAGES.items()}
        self.persistent_id = ("storage", getattr(torch, classes[dtype]), key, "cpu", length)


class _Tensor:
    """Pickles like a tensor of its own storage."""

    def __init__(self, key: str, tensor: StoredTensor):
        self.key, self.tensor = key, tensor

    def __reduce__(self):
        shape = self.tensor.shape
        storage = _Storage(self.key, self.tensor.dtype, math.prod(shape))
        return torch._utils._rebuild_tensor_v2, (storage, 0, shape, _row_major(shape), False, OrderedDict())


class _StateDictPickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.persistent_id if isinstance(value, _Storage) else None


class TorchWriter:
    """Writes a checkpoint that `torch.load(weights_only=True)` reads, one piece of a tensor at a time.

    Args:
        path: file to create.
        tensors: what will be written, by name and in this order; only types and shapes are looked at.
    """

    def __init__(self, path: Path, tensors: Mapping[str, StoredTensor]):
        self.archive = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)
        self.keys = {name: str(number) for number, name in enumerate(tensors)}
        pickled = io.BytesIO()
        state_dict = OrderedDict((name, _Tensor(self.keys[name], tensor)) for name, tensor in tensors.items())
        _StateDictPickler(pickled, protocol=2).dump(state_dict)
        self.write("data.pkl", [pickled.getvalue()])
        self.write("byteorder", [b"little"])

    def write(self, member: str, pieces: Iterable[bytes | memoryview]) -> None:
        info = zipfile.ZipInfo("archive/" + member)
        # an extra field (4 bytes of its own and padding) after zipfile's 20 bytes of zip64 sizes moves the data
        head = self.archive.fp.tell() + LOCAL_HEADER + len(info.filename) + 20 + 4
        padding = -head % ALIGNMENT
        info.extra = struct.pack("<HH", 0x4246, padding) + b"Z" * padding  # "FB", PyTorch's own mark
        with self.archive.open(info, "w", force_zip64=True) as file:
            for piece in pieces:
                file.write(piece)

    def write_tensor(self, name: str, pieces: Iterable[memoryview]) -> None:
        self.write(f"data/{self.keys[name]}", pieces)

    def __enter__(self) -> "TorchWriter":
        return self

    def __exit__(self, error, *_):
        if error is None:
            self.write("version", [b"3\n"])
        self.archive.close()
