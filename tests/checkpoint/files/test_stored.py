"""Guards reading tensors in pieces: any strides, little memory, the hash of what was read, and no change unnoticed."""

import hashlib
import os
import shutil

import pytest
import torch
from safetensors.torch import save_file

from viscpm_hf.checkpoint import CheckpointError, export_original, verify
from viscpm_hf.checkpoint.files import stored
from viscpm_hf.checkpoint.files.hashing import Digests
from viscpm_hf.checkpoint.files.source import open_checkpoint, open_source
from viscpm_hf.checkpoint.files.stored import read_pieces
from viscpm_hf.checkpoint.files.torch_file import read_torch

EIGHT_AXES = torch.arange(2 * 3 * 2 * 2 * 3 * 2 * 2 * 2, dtype=torch.int16).reshape(2, 3, 2, 2, 3, 2, 2, 2)


@pytest.mark.parametrize("block", [64, 1 << 20])
@pytest.mark.parametrize("gap", [1, 100, 1 << 20])
def test_any_strides(tmp_path, monkeypatch, block, gap):
    """Blocks and gaps of any size, so that tensors are put together out of one read and of many."""
    monkeypatch.setattr(stored, "BLOCK", block)
    monkeypatch.setattr(stored, "GAP", gap)
    torch.manual_seed(0)
    matrix = torch.randn(37, 53)
    tensors = {
        "transposed": matrix.t(),
        "every third": matrix[:, ::3],
        "last column": matrix[:, -1],
        "corner": matrix[30:, 50:].t(),
        "expanded": matrix[:3, 5].unsqueeze(1).expand(3, 20),
        "expanded first": matrix[3].expand(4, 53),
        "permuted": EIGHT_AXES.permute(7, 0, 6, 1, 5, 2, 4, 3),
        "permuted part": EIGHT_AXES[1, ::2].permute(3, 6, 0, 5, 1, 4, 2)[:, 1:],
        "overlapping": matrix.flatten().as_strided((20, 30), (1, 2)),
        "bytes": torch.arange(99, dtype=torch.uint8).reshape(9, 11).t(),
    }
    torch.save(tensors, tmp_path / "a.bin")
    for name, tensor in open_checkpoint(tmp_path / "a.bin").items():
        assert tensor.strides is not None
        pieces = [bytes(piece) for piece in read_pieces(tensor)]
        assert all(len(piece) <= block for piece in pieces), name
        assert b"".join(pieces) == tensors[name].contiguous().numpy().tobytes(), name


def test_strided_tensors_take_little_memory(tmp_path, child, memory_growth):
    torch.save({"a": torch.zeros(8_000, 6_000, dtype=torch.float16).t()}, tmp_path / "a.bin")
    tensor = open_checkpoint(tmp_path / "a.bin")["a"]

    def read_it():
        for _ in read_pieces(tensor):
            pass

    assert child(lambda: int(memory_growth(read_it) > 60e6)).code() == 0


def test_digests_are_of_the_files_whatever_is_read_in_which_order(tmp_path):
    torch.manual_seed(0)
    base = torch.randn(700, 900)
    torch.save(
        {"b": base[100:], "a": base, "t": base.t(), "c": torch.randn(5), "part": base.flatten()[9:99]},
        tmp_path / "a.bin",
    )
    save_file({str(number): torch.randn(number, 1000) for number in range(300, 304)}, tmp_path / "b.safetensors")
    for order in ("as it is", "backwards", "twice", "nothing"):
        tensors = [
            *open_checkpoint(tmp_path / "a.bin").values(),
            *open_checkpoint(tmp_path / "b.safetensors").values(),
        ]
        reading = {"as it is": tensors, "backwards": tensors[::-1], "twice": tensors * 2, "nothing": []}[order]
        with Digests({tensor.path: tensor.identity for tensor in tensors}) as digests:
            for tensor in reading:
                data = b"".join(bytes(piece) for piece in digests.read_pieces(tensor))
                assert data == b"".join(bytes(piece) for piece in read_pieces(tensor))
            found = digests.finish()
        for path in tmp_path.iterdir():
            assert found[path] == hashlib.sha256(path.read_bytes()).hexdigest(), order


def test_other_tensors_are_only_read(tmp_path):
    save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors")
    (tensor,) = open_checkpoint(tmp_path / "a.safetensors").values()
    with Digests({}) as digests:
        assert b"".join(map(bytes, digests.read_pieces(tensor))) == bytes(12) and digests.finish() == {}


def write_inside(path):
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"changed!")


def replace(path):
    other = path.with_name("other")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    other.write_bytes(data)
    os.replace(other, path)


CHANGES = {
    "write": write_inside,
    "replace": replace,
    "truncate": lambda path: os.truncate(path, path.stat().st_size // 2),
    "grow": lambda path: os.truncate(path, path.stat().st_size + 1),
    "touch": lambda path: os.utime(path),
    "remove": lambda path: path.unlink(),
}


@pytest.fixture
def meanwhile(monkeypatch):
    """Calls a function when something is read of a tensor for the n-th time."""

    def set_up(change, count):
        real, calls = stored._read_into, []

        def read_into(*arguments):
            calls.append(arguments)
            if len(calls) == count:
                change()
            return real(*arguments)

        monkeypatch.setattr(stored, "_read_into", read_into)

    return set_up


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("count", [1, 60, 130])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_checkpoint_that_changes_while_it_is_converted(
    convert, weights, tmp_path, meanwhile, kind, count, transposed
):
    (tmp_path / "in").mkdir()
    if transposed:
        weights = {
            name: tensor.t().contiguous().t() if tensor.dim() == 2 else tensor for name, tensor in weights.items()
        }
    torch.save(weights, tmp_path / "in" / "a.bin")
    meanwhile(lambda: CHANGES[kind](tmp_path / "in" / "a.bin"), count)
    with pytest.raises(CheckpointError, match="was changed or replaced while|became shorter while|There is no file"):
        convert(tmp_path / "in" / "a.bin")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("which", ["checkpoint", "repository"])
def test_what_changes_while_it_is_verified(chat_checkpoint, chat_repo, tmp_path, meanwhile, kind, which):
    checkpoint = shutil.copy(chat_checkpoint / "pytorch_model.plain.bin", tmp_path / "a.bin")
    repo = shutil.copytree(chat_repo, tmp_path / "repo")
    meanwhile(lambda: CHANGES[kind](checkpoint if which == "checkpoint" else repo / "model.safetensors"), 5)
    with pytest.raises(CheckpointError, match="was changed or replaced while|became shorter while|There is no file"):
        verify(checkpoint, repo, progress=False)


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("name", ["a.bin", "a.safetensors"])
def test_a_repository_that_changes_while_it_is_exported(chat_repo, tmp_path, meanwhile, kind, name):
    repo = shutil.copytree(chat_repo, tmp_path / "repo")
    meanwhile(lambda: CHANGES[kind](repo / "model.safetensors"), 5)
    with pytest.raises(CheckpointError, match="was changed or replaced while|became shorter while|There is no file"):
        export_original(repo, tmp_path / name, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["repo"]


def test_a_checkpoint_that_changes_between_looking_and_copying(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "a.bin")
    (tensor,) = open_checkpoint(tmp_path / "a.bin").values()
    write_inside(tmp_path / "a.bin")
    with pytest.raises(CheckpointError, match="was changed or replaced while"):
        list(read_pieces(tensor))


def test_tensors_that_are_mostly_the_same_bytes_are_refused(tmp_path):
    """A few bytes can be called a tensor of any size, or any number of large tensors."""
    torch.save({"a": torch.zeros(1).expand(1, 500_000_000)}, tmp_path / "a.bin")
    with pytest.raises(CheckpointError, match=r"describes 2 GB of tensors that share .*contiguous"):
        read_torch(tmp_path / "a.bin")
    whole = torch.zeros(1_000_000)
    torch.save({str(number): whole[number:] for number in range(10)}, tmp_path / "b.bin")
    with pytest.raises(CheckpointError, match="describes 0.04 GB of tensors"):
        open_source(tmp_path / "b.bin")
    torch.save({str(number): whole.flatten() for number in range(3)}, tmp_path / "tied.bin")
    assert len(open_checkpoint(tmp_path / "tied.bin")) == 3
