"""Guards reading PyTorch's zip files: every tensor's bytes are found as torch.load finds them, nothing is executed."""

import collections
import io
import os
import pickle
import random
import zipfile

import pytest
import torch

from viscpm_hf.checkpoint import CheckpointError
from viscpm_hf.checkpoint.files.source import open_checkpoint
from viscpm_hf.checkpoint.files.stored import read_pieces
from viscpm_hf.checkpoint.files.torch_file import TorchWriter, _StateDictPickler, _Tensor


def read(path):
    """The file's tensors through our reader."""
    found = {}
    for name, tensor in open_checkpoint(path).items():
        data = b"".join(bytes(piece) for piece in read_pieces(tensor))
        assert len(data) == tensor.nbytes
        numbers = torch.frombuffer(bytearray(data), dtype=tensor.dtype) if data else torch.empty(0, dtype=tensor.dtype)
        found[name] = numbers.reshape(tensor.shape)
    return found


def assert_same(ours, theirs):
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype and ours[name].shape == tensor.shape
        mine, other = (value.contiguous().reshape(-1).view(torch.uint8) for value in (ours[name], tensor))
        assert torch.equal(mine, other), name


def test_reads_what_torch_load_reads(tmp_path, weights):
    torch.manual_seed(0)
    base = torch.randn(60, 50)
    state_dict = {
        **weights,
        **{str(dtype): torch.randn(7, 3).to(dtype) for dtype in (torch.float64, torch.float16, torch.bfloat16)},
        "int": torch.arange(5),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(3.0),
        "empty": torch.empty(0, 4),
        "shared": base,
        "view": base[10:20, :],
        "columns": base[:, 5:9],
        "transposed": base.t(),
        "every third": base.flatten()[1::3],
        "expanded": base[0].expand(4, 50),
        "unit axis": base[:, 3:4].as_strided((60, 1), (50, 7)),
        "large and strided": torch.randn(500, 700).half().t(),
    }
    torch.save(state_dict, tmp_path / "a.bin")
    assert_same(read(tmp_path / "a.bin"), torch.load(tmp_path / "a.bin", weights_only=True))


def test_reads_a_modules_state_dict_parameters_and_other_protocols(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    for number, (value, options) in enumerate(
        [
            (module.state_dict(), {}),  # an OrderedDict with `_metadata`
            (dict(module.named_parameters()), {}),
            (module.state_dict(), {"pickle_protocol": 4}),
        ]
    ):
        path = tmp_path / f"{number}.pt"
        torch.save(value, path, **options)
        assert_same(read(path), {name: tensor.detach() for name, tensor in value.items()})


def test_a_negated_view_is_refused(tmp_path):
    """Its storage holds the numbers with the other sign."""
    numbers = torch.complex(torch.zeros(3), torch.ones(3)).conj().imag
    assert numbers.is_neg()
    torch.save({"a": numbers}, tmp_path / "a.bin")
    with pytest.raises(CheckpointError, match=r"stores a as numbers to be negated .* save it with .*resolve_neg"):
        open_checkpoint(tmp_path / "a.bin")
    torch.save({"a": numbers.resolve_neg()}, tmp_path / "b.bin")
    assert_same(read(tmp_path / "b.bin"), {"a": -torch.ones(3)})


def test_tensors_saved_from_a_gpu_are_read(tmp_path, monkeypatch):
    torch.save({"a": torch.arange(6.0)}, tmp_path / "cpu.bin")
    with zipfile.ZipFile(tmp_path / "cpu.bin") as old, zipfile.ZipFile(tmp_path / "gpu.bin", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):
                assert b"X\3\0\0\0cpu" in data
                data = data.replace(b"X\3\0\0\0cpu", b"X\6\0\0\0cuda:0")
            new.writestr(name, data)
    assert torch.equal(read(tmp_path / "gpu.bin")["a"], torch.arange(6.0))


def test_written_files_are_read_by_torch_and_by_zip_tools(tmp_path, weights):
    torch.save({**weights, "scalar": torch.tensor(2.0), "empty": torch.empty(0)}, tmp_path / "a.bin")
    tensors = open_checkpoint(tmp_path / "a.bin")
    with TorchWriter(tmp_path / "b.bin", tensors) as writer:
        for name in reversed(tensors):
            writer.write_tensor(name, read_pieces(tensors[name]))
    expected = torch.load(tmp_path / "a.bin", weights_only=True)
    for options in ({}, {"mmap": True}):
        assert_same(torch.load(tmp_path / "b.bin", weights_only=True, **options), expected)
    assert_same(read(tmp_path / "b.bin"), expected)
    with zipfile.ZipFile(tmp_path / "b.bin") as archive:
        assert archive.testzip() is None
    assert all(tensor.offset % 64 == 0 for tensor in open_checkpoint(tmp_path / "b.bin").values())


def archive_of(path, pickled, **members):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        for name, data in members.items():
            archive.writestr(f"a/data/{name}", data)


class _Repeating(dict):
    """Pickles every item twice."""

    def __init__(self, kind, items):
        self.kind, self.pairs = kind, items

    def __reduce__(self):
        return self.kind, (), None, None, iter([pair for pair in self.pairs for _ in range(2)])


def test_repeated_names_are_refused(tmp_path, chat_checkpoint):
    tensor = next(iter(open_checkpoint(chat_checkpoint / "pytorch_model.plain.bin").values()))
    items = [("twice", _Tensor("0", tensor))]
    pickled = io.BytesIO()
    _StateDictPickler(pickled, 2).dump(_Repeating(collections.OrderedDict, items))
    archive_of(tmp_path / "ordered.bin", pickled.getvalue())
    with pytest.raises(CheckpointError, match="several tensors one name: twice"):
        open_checkpoint(tmp_path / "ordered.bin")

    # the same in a plain dict, whose opcodes nobody can listen to: {"twice": tensor, "twice": other}
    pickled = io.BytesIO()
    first, second = _Tensor("0", tensor), _Tensor("0", tensor)
    _StateDictPickler(pickled, 2).dump({"twice": first, "third": second})
    repeated = pickled.getvalue().replace(b"X\5\0\0\0third", b"X\5\0\0\0twice")
    assert repeated != pickled.getvalue()
    archive_of(tmp_path / "plain.bin", repeated)
    with pytest.raises(CheckpointError, match="several tensors one name"):
        open_checkpoint(tmp_path / "plain.bin")


class _Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [eval, exec, print, __import__, getattr, torch.load, pickle.loads])
def test_no_function_is_called(tmp_path, function):
    archive_of(tmp_path / "evil.bin", pickle.dumps({"a": _Evil(function, "raise SystemExit")}, 2))
    with pytest.raises(CheckpointError, match=f"{function.__name__}; nothing was executed"):
        open_checkpoint(tmp_path / "evil.bin")


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_damage_anywhere_is_a_checkpoint_error_or_harmless(tmp_path, chat_checkpoint, golden, suffix):
    from safetensors.torch import save

    rng = random.Random(0)
    sound = save(golden("chat_weights.safetensors"))
    if suffix == "bin":
        sound = (chat_checkpoint / "pytorch_model.plain.bin").read_bytes()
    where = [*range(20000), *range(len(sound) - 15000, len(sound))]  # the pickle or header, the zip's directory
    path, refused = tmp_path / "damaged", 0
    for _ in range(250):
        damaged = bytearray(sound)
        match rng.randrange(3):
            case 0:
                del damaged[rng.randrange(len(sound)) :]
            case 1:
                start = rng.randrange(len(sound))
                del damaged[start : start + rng.randrange(1, 5000)]
            case 2:
                for _ in range(rng.choice([1, 2, 5])):
                    damaged[rng.choice(where)] = rng.randrange(256)
        path.write_bytes(damaged)
        os.utime(path, (0, 0))  # a file just written is waited for until its file system's clock has moved
        try:
            read(path)
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 150
