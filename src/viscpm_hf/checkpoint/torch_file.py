"""PyTorch's zip checkpoints, read without executing their pickle and written without holding their tensors."""

import io
import math
import pickle
import struct
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from .errors import CheckpointError, listed
from .stored import StoredTensor

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


@dataclass
class _View:
    """A tensor as the pickle describes it: a view of a storage, which is a member of the archive."""

    dtype: torch.dtype
    key: str
    storage_length: int
    storage_offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _NamedTensors(OrderedDict):
    """Remembers which names were given twice."""

    def __setitem__(self, name, value):
        if name in self:
            self.__dict__.setdefault("repeated", []).append(name)
        super().__setitem__(name, value)


class _Names(pickle.Unpickler):
    """Reads the pickle of a state dict as data: whatever it names becomes one of the inert stand-ins below.

    `torch.load(weights_only=True)` would be as safe, but it tells neither where in the file a storage lies nor that a
    name came twice.
    """

    def __init__(self, file, path: Path):
        super().__init__(file)
        self.path = path
        self.views = 0

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return _NamedTensors
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._view
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return self._parameter
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise CheckpointError(
            f"{self.path} holds more than names and tensors: loading it would need {module}.{name}; "
            "nothing was executed, and only checkpoints of plain tensors can be converted."
        )

    def persistent_load(self, saved_id):
        kind, dtype, key, _device, length = saved_id
        if kind != "storage" or not isinstance(dtype, torch.dtype) or type(length) is not int:
            raise ValueError(f"{saved_id} is not a storage")
        return dtype, key, length

    def _view(self, storage, offset, shape, strides, *_):
        self.views += 1
        return _View(*storage, offset, tuple(shape), tuple(strides))

    def _parameter(self, view, *_):
        return view


def read_torch(path: Path) -> dict[str, StoredTensor]:
    """Names and places of the tensors in a `.bin` or `.pt` file of today's zip format.

    Raises:
        CheckpointError: the file is damaged, or holds anything but names and tensors. Nothing in it is executed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            twice = [name for name, count in Counter(info.filename for info in infos).items() if count > 1]
            members = {info.filename: info for info in infos}
            pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
            if twice or len(pickles) != 1:
                what = f"holds {listed(twice)} twice" if twice else "has no data.pkl in it"
                raise CheckpointError(f"{path} is a zip file but not a PyTorch checkpoint: it {what}.")
            compressed = [name for name in members if members[name].compress_type != zipfile.ZIP_STORED]
            if compressed:
                raise CheckpointError(
                    f"{path} has compressed members ({listed(compressed, 3)}), which PyTorch does not write; "
                    "unpack it if it was zipped for transport."
                )
            folder = pickles[0].removesuffix("data.pkl")
            if folder + "byteorder" in members and archive.read(folder + "byteorder") != b"little":
                raise CheckpointError(f"{path} was written on a big-endian machine; save it on a little-endian one.")
            names = _Names(io.BytesIO(archive.read(pickles[0])), path)
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, EOFError, ValueError, RuntimeError, OSError, struct.error) as error:
        # all that zipfile raises on damage
        raise CheckpointError(f"{path} is damaged or incomplete ({error}); copy or download it again.") from error
    views = _state_dict(names)
    with open(path, "rb") as file:
        places = {view.key: _data_start(file, members, folder, name, view) for name, view in views.items()}
    return {name: _stored(path, name, view, places[view.key]) for name, view in views.items()}


def _state_dict(names: _Names) -> dict[str, _View]:
    path = names.path
    try:
        value = names.load()
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle fails in any way
        raise CheckpointError(f"{path} is damaged: its data.pkl cannot be read ({error}).") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected a state dict of names and tensors.")
    inner = {key: item for key, item in value.items() if isinstance(item, dict)}
    if inner:
        key = max(inner, key=lambda key: len(inner[key]))
        raise CheckpointError(
            f"{path} holds more than a state dict, which seems to lie under {key!r}; save it alone: "
            f"torch.save(torch.load({str(path)!r}, 'cpu', mmap=True)[{key!r}], 'weights.bin')"
        )
    odd = [key for key, item in value.items() if not (isinstance(key, str) and isinstance(item, _View))]
    if odd:
        raise CheckpointError(f"{path} holds entries that are not named tensors: {listed(odd)}.")
    repeated = getattr(value, "repeated", [])
    # in a plain dict the second of two equal names replaces the first, whose tensor is then missing in the count
    if repeated or names.views > len({id(view) for view in value.values()}):
        raise CheckpointError(f"{path} gives several tensors one name: {listed(repeated) or 'see its data.pkl'}.")
    return value


def _data_start(file, members, folder: str, name: str, view: _View) -> int:
    """Offset in bytes of the storage a tensor lies in."""
    info = members.get(f"{folder}data/{view.key}")
    if info is None:
        raise CheckpointError(f"{file.name} is incomplete: it lacks data/{view.key}, where {name} should lie.")
    file.seek(max(info.header_offset, 0))
    header = file.read(LOCAL_HEADER + len(info.orig_filename))
    if not header.startswith(b"PK\3\4") or not header.endswith(info.orig_filename.encode()):
        raise CheckpointError(f"{file.name} is damaged: it has no data/{view.key} where its directory says.")
    start = info.header_offset + LOCAL_HEADER + sum(struct.unpack("<HH", header[26:LOCAL_HEADER]))
    if info.file_size != view.storage_length * view.dtype.itemsize or start + info.file_size > file.seek(0, 2):
        raise CheckpointError(f"{file.name} is damaged or incomplete: data/{view.key} for {name} has a wrong size.")
    return start


def _stored(path: Path, name: str, view: _View, start: int) -> StoredTensor:
    numbers = [view.storage_offset, *view.shape, *view.strides]
    sound = all(type(number) is int and number >= 0 for number in numbers) and len(view.shape) == len(view.strides)
    if sound and 0 not in view.shape:
        last = sum((length - 1) * stride for length, stride in zip(view.shape, view.strides, strict=True))
        sound = view.storage_offset + last < view.storage_length
    if not sound:
        raise CheckpointError(f"{path} is damaged: {name} reaches beyond its storage.")
    axes = zip(view.shape, view.strides, _row_major(view.shape), strict=True)
    dense = 0 in view.shape or all(length == 1 or stride == expected for length, stride, expected in axes)
    offset = start + view.storage_offset * view.dtype.itemsize
    return StoredTensor(path, view.dtype, view.shape, offset, None if dense else view.strides)


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

    def write(self, member: str, pieces: Iterable[bytes | memoryview]):
        info = zipfile.ZipInfo("archive/" + member)
        # an extra field (4 bytes of its own and padding) after zipfile's 20 bytes of zip64 sizes moves the data
        head = self.archive.fp.tell() + LOCAL_HEADER + len(info.filename) + 20 + 4
        padding = -head % ALIGNMENT
        info.extra = struct.pack("<HH", 0x4246, padding) + b"Z" * padding  # "FB", PyTorch's own mark
        with self.archive.open(info, "w", force_zip64=True) as file:
            for piece in pieces:
                file.write(piece)

    def write_tensor(self, name: str, pieces: Iterable[memoryview]):
        self.write(f"data/{self.keys[name]}", pieces)

    def __enter__(self) -> "TorchWriter":
        return self

    def __exit__(self, error, *_):
        if error is None:
            self.write("version", [b"3\n"])
        self.archive.close()
