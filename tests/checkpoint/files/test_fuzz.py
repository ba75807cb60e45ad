"""Guards reading files against whatever hypothesis makes of them: one sentence or the tensors, in bounded time."""

import json
import os
import pickletools
import resource
import signal
import struct
import tempfile
import zipfile
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from viscpm_hf.checkpoint import CheckpointError  # noqa: E402
from viscpm_hf.checkpoint.files.json_file import load_json  # noqa: E402
from viscpm_hf.checkpoint.files.source import open_checkpoint  # noqa: E402
from viscpm_hf.checkpoint.files.stored import StoredTensor, read_pieces  # noqa: E402
from viscpm_hf.checkpoint.layout.prefixes import without_prefixes  # noqa: E402

hypothesis.configuration.set_hypothesis_home_dir(Path(tempfile.gettempdir(), "hypothesis"))  # not in the checkout
fuzzed = settings(
    max_examples=150,
    deadline=timedelta(seconds=20),
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(autouse=True)
def limits():
    """A gigabyte beyond what the process has, and two minutes for all examples of a test."""

    def hangs(signum, frame):
        raise TimeoutError("an example takes too long")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30), before[1]))
    handler = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, handler)
    resource.setrlimit(resource.RLIMIT_AS, before)


def check(path):
    """The file's tensors, all read, or None if it was refused in a sentence."""
    os.utime(path, (0, 0))
    try:
        tensors = open_checkpoint(path)
        for tensor in tensors.values():
            assert sum(map(len, read_pieces(tensor))) == tensor.nbytes
        return tensors
    except CheckpointError as error:
        assert str(error).isprintable() and len(str(error)) < 2000
    return None


TUPLES = b"(X\3\0\0\0lolt" + b"q\1" + b"0(h\1h\1tq\1" * 40
SOUND = [
    b"}", b"]", b")", b"(", b"N", b"\x88", b"s", b"u", b"a", b"e", b"t", b"\x85", b"\x86", b"\x87", b"0", b"1", b"2",
    b"d",
    b"l", b"q\1", b"q\2", b"h\1", b"h\2", b"r\0\0\0\x08", b"\x94", b"R", b"b", b"\x81", b"\x92", b"\x93", b"o", b"Q",
    b"K\0", b"K\1", b"K\3", b"J\xff\xff\xff\xff", b"\x8a\x20" + b"\x7f" * 32, b"X\1\0\0\0a", b"X\1\0\0\0000",
    b"X\7\0\0\0storage", b"X\3\0\0\0cpu", b"X\4\0\0\0x\xed\xa0\x80", b"G" + bytes(8), TUPLES,
    b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch\nFloatStorage\n", b"cos\nsystem\n", b"ccollections\nOrderedDict\n)R", b"(ios\nsystem\n", b"\x82\1",
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0000X\3\0\0\0cpuK\3tQ"
    b"K\0K\3\x85K\1\x85\x89}tR",
    b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0000X\3\0\0\0cpuK\3tQ", b"\x8f", b"\x91", b"\x90",
]  # fmt: skip
CODES = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]


@fuzzed
@given(
    steps=st.lists(st.one_of(st.sampled_from(SOUND), st.sampled_from(CODES), st.binary(max_size=6)), max_size=60),
    start=st.sampled_from([b"\x80\2", b"\x80\2}", b"\x80\2}X\1\0\0\0a", b"\x80\4\x95" + bytes(8), b""]),
    end=st.sampled_from([b".", b"s.", b"us.", b""]),
)
def test_pickles(folder, steps, start, end):
    with zipfile.ZipFile(folder / "a.bin", "w") as file:
        file.writestr("a/data.pkl", start + b"".join(steps) + end)
        file.writestr("a/data/0", bytes(12))
    check(folder / "a.bin")


@pytest.fixture(scope="module")
def sound(folder):
    """A small checkpoint of torch.save, in a few hundred bytes."""
    torch.save({"a": torch.arange(6.0).reshape(2, 3).t(), "b": torch.ones(2, dtype=torch.int8)}, folder / "sound.bin")
    return (folder / "sound.bin").read_bytes()


NUMBERS = [0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


def changed(data, changes):
    """Bytes with numbers written over them, cut out or put in at some places, counted from a mark of the format."""
    data = bytearray(data)
    for place, kind, number, width in changes:
        at = place % max(len(data), 1)
        match kind:
            case "write":
                data[at : at + width] = struct.pack("<Q", number)[:width]
            case "insert":
                data[at:at] = struct.pack("<Q", number)[:width]
            case "cut":
                del data[at : at + 1 + number % 300]
            case "copy":
                data[at:at] = data[number % len(data) :][:50] if data else b""
    return bytes(data)


changes = st.lists(
    st.tuples(
        st.integers(0, 10**6),
        st.sampled_from(["write", "write", "insert", "cut", "copy"]),
        st.sampled_from(NUMBERS),
        st.sampled_from([1, 2, 4, 8]),
    ),
    min_size=1,
    max_size=4,
)


@fuzzed
@given(changes=changes, tail=st.booleans())
def test_zip_files(folder, sound, changes, tail):
    if tail:  # the directory, where the numbers are
        start = sound.index(b"PK\1\2")
        data = sound[:start] + changed(sound[start:], changes)
    else:
        data = changed(sound, changes)
    (folder / "b.bin").write_bytes(data)
    check(folder / "b.bin")


numbers = st.one_of(st.sampled_from(NUMBERS), st.integers(-1, 40), st.floats(), st.booleans())
anything = st.recursive(
    st.one_of(st.none(), numbers, st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=8,
)
entries = st.one_of(
    st.fixed_dictionaries(
        {
            "dtype": st.one_of(st.sampled_from(["F32", "U8", "BF16", "F8_E4M3", "I64"]), anything),
            "shape": st.one_of(st.lists(st.integers(0, 5), max_size=3), st.lists(numbers, max_size=40), anything),
            "data_offsets": st.one_of(st.tuples(st.integers(0, 40), st.integers(0, 40)), st.lists(numbers), anything),
        }
    ),
    st.integers(0, 9).map(lambda n: {"dtype": "F32", "shape": [n], "data_offsets": [0, 4 * n]}),
    anything,
)
names = st.one_of(st.sampled_from(["a", "b", "__metadata__"]), st.text(st.characters(), max_size=6))


@fuzzed
@given(
    header=st.dictionaries(names, entries, max_size=4),
    size=st.integers(0, 64),
    length=st.sampled_from([None, *NUMBERS]),
)
def test_headers(folder, header, size, length):
    text = json.dumps(header, ensure_ascii=len(header) % 2 == 0).encode("utf-8", "surrogatepass")
    start = struct.pack("<Q", len(text) if length is None else length)
    (folder / "a.safetensors").write_bytes(start + text + bytes(size))
    check(folder / "a.safetensors")


@fuzzed
@given(changes=changes)
def test_safetensors_files(folder, changes):
    (folder / "b.safetensors").write_bytes(changed(save({"a": torch.ones(3), "b": torch.ones(2, 2).half()}), changes))
    check(folder / "b.safetensors")


@fuzzed
@given(
    weight_map=st.one_of(
        st.dictionaries(
            names, st.one_of(st.sampled_from(["s.bin", "s.safetensors", "../fuzz0/s.bin", ".", ""]), names)
        ),
        anything,
    ),
    other=st.dictionaries(st.text(max_size=5), anything, max_size=2),
)
def test_indices(folder, sound, weight_map, other):
    (folder / "s.bin").write_bytes(sound)
    (folder / "s.safetensors").write_bytes(save({"c": torch.ones(2)}))
    text = json.dumps({**other, "weight_map": weight_map})
    (folder / "a.index.json").write_text(text)
    check(folder / "a.index.json")


@fuzzed
@given(text=st.one_of(st.binary(max_size=40), anything.map(lambda value: json.dumps(value).encode())))
def test_json(text):
    try:
        assert isinstance(load_json(text, "this"), dict)
    except CheckpointError as error:
        assert str(error).isprintable()


@fuzzed
@given(st.data())
def test_strides(folder, data):
    """What is read of a view is what PyTorch sees in it."""
    axes = data.draw(st.integers(0, 5))
    shape = data.draw(st.tuples(*[st.integers(1, 6)] * axes))
    strides = data.draw(st.tuples(*[st.integers(0, 30)] * axes))
    offset = data.draw(st.integers(0, 5))
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    storage = torch.arange(last + 1 + data.draw(st.integers(0, 3)), dtype=torch.int32)
    view = storage.as_strided(shape, strides, offset)
    torch.save({"a": view}, folder / "c.bin")
    os.utime(folder / "c.bin", (0, 0))
    (tensor,) = open_checkpoint(folder / "c.bin").values()
    assert tensor.shape == shape
    found = np.frombuffer(b"".join(map(bytes, read_pieces(tensor))), np.int32)
    assert found.tolist() == view.contiguous().flatten().tolist()


parts = st.sampled_from(
    ["module", "_orig_mod", "llm", "model", "encoder", "vpm", "weight", "", "a", "_fsdp_wrapped_module"]
)


@fuzzed
@given(st.sets(st.lists(parts, min_size=1, max_size=6).map(".".join), max_size=6))
def test_prefixes(names):
    """However names look, none is lost, and where nothing is known of them they stay."""
    tensors = {name: StoredTensor(Path(name), torch.float32, (1,), 0) for name in sorted(names)}
    found, removed = without_prefixes(tensors)
    assert [tensor.path for tensor in found.values()] == [tensor.path for tensor in tensors.values()]
    assert all(str(tensor.path).endswith(name.rpartition(".")[2]) for name, tensor in found.items())
    assert removed or found == tensors
    assert without_prefixes(found)[0] == found


@fuzzed
@given(st.binary(max_size=400))
def test_any_bytes(folder, data):
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.write(data)
        file.flush()
        check(Path(file.name))
