"""Guards the safetensors format: the safetensors library reads our files, whatever mixture of types they hold."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from viscpm_hf.checkpoint import CheckpointError
from viscpm_hf.checkpoint.files.safetensors_file import layout, read_safetensors
from viscpm_hf.checkpoint.files.stored import read_pieces
from viscpm_hf.checkpoint.files.weights import WeightFile, write_weights


def test_odd_sizes_and_mixed_types_are_aligned_and_readable(tmp_path):
    torch.manual_seed(0)
    tensors = {
        f"{number} {dtype}": torch.randn(number).to(dtype)
        for number in (1, 3, 7)
        for dtype in (
            torch.float16,
            torch.float64,
            torch.uint8,
            torch.bfloat16,
            torch.float32,
            torch.int64,
            torch.bool,
        )
    }
    tensors |= {"scalar": torch.tensor(1.5), "empty": torch.empty(0, 3)}
    save_file(tensors, tmp_path / "theirs.safetensors")
    source = read_safetensors(tmp_path / "theirs.safetensors")
    write_weights(tmp_path, [WeightFile("ours.safetensors", source)], progress=False)
    ours, places = load_file(tmp_path / "ours.safetensors"), read_safetensors(tmp_path / "ours.safetensors")
    assert ours.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert ours[name].dtype == tensor.dtype and torch.equal(ours[name], tensor)
        assert places[name].offset % tensor.dtype.itemsize == 0
    length = int.from_bytes((tmp_path / "ours.safetensors").read_bytes()[:8], "little")
    assert length % 8 == 0


def test_pieces_are_small_and_complete(tmp_path):
    tensor = torch.randn(700, 900)
    save_file({"a": tensor}, tmp_path / "a.safetensors")
    pieces = [bytes(piece) for piece in read_pieces(read_safetensors(tmp_path / "a.safetensors")["a"])]
    assert len(pieces) > 5 and b"".join(pieces) == tensor.numpy().tobytes()


def raw(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def place(start, end):
    return {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
            "twice: a",
        ),
        (b'{"a": ', "not valid JSON"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "describes a wrongly"),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, "describes a wrongly"),
        ({"a": {"dtype": "F32", "shape": [1]}}, "describes a wrongly"),
        ({"a": [1]}, "describes a wrongly"),
        ({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}, "ends before a"),
        ({"a": place(0, 3), "b": place(2, 4)}, "same bytes to several tensors before b"),
        ({"a": place(0, 3), "b": place(2, 4), "c": place(4, 4)}, "same bytes to several tensors before b"),
        ({"b": place(0, 2), "a": place(3, 4)}, "leaves bytes out before a"),
        ({"a": place(1, 4)}, "leaves bytes out before a"),
        ({"a": place(0, 3)}, "goes on after its last tensor"),
        ({"a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}, "stores a as F8_E4M3"),
    ],
)
def test_wrong_headers_are_refused(tmp_path, header, message):
    with pytest.raises(CheckpointError, match=message):
        read_safetensors(raw(tmp_path / "a.safetensors", header, b"1234"))


def test_layout_has_no_gaps():
    header, places = layout({"a": (torch.float16, (3,)), "b": (torch.float32, (2, 2)), "c": (torch.float16, ())})
    assert (places["b"], places["a"], places["c"]) == (len(header), len(header) + 16, len(header) + 22)
