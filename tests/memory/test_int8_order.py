"""Guards 8-bit matrices packed by torch: byte for byte what oneDNN packs, and nothing kept when they are gone."""

import ctypes
import gc

import pytest
import torch

from viscpm_hf.memory import int8_order
from viscpm_hf.memory.int8_order import packed_int8

if not torch.cpu._is_vnni_supported():
    pytest.skip("nothing is packed for this CPU", allow_module_level=True)


def matrix(shape, seed=0):
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(seed))


def stored(packed):
    return ctypes.string_at(torch.ops.mkldnn.data_ptr(packed), torch.ops.mkldnn._nbytes(packed))


@pytest.mark.parametrize("shape", [(64, 64), (128, 320), (640, 64), (40, 96), (64, 72), (1597, 192)])
def test_bytes_and_products_are_onednns(shape):
    """Also of shapes that are no whole tiles, which stay with oneDNN."""
    kept = [packed_int8(matrix(shape))]
    assert (shape in int8_order._known) == (shape[0] % 64 == shape[1] % 64 == 0)
    for weight in (matrix(shape, 1), torch.full(shape, -128, dtype=torch.int8), matrix(shape[::-1], 2).T):
        expected = torch.ops.onednn.qlinear_prepack(weight.contiguous(), None)
        kept.append(packed_int8(weight))
        assert stored(kept[-1]) == stored(expected)
        assert torch.equal(kept[-1].to_dense(), expected.to_dense())
        rows, scale = matrix((3, shape[1]), 3), torch.ones(shape[0])
        zero = torch.zeros(shape[0], dtype=torch.int32)
        product = torch.ops.onednn.qlinear_pointwise
        found, wanted = (
            product(rows, 1.0, 0, each, scale, zero, None, 1.0, 0, torch.float32, "none", [], "")
            for each in (kept[-1], expected)
        )
        assert torch.equal(found, wanted)
    del expected
    kept.clear()
    gc.collect()
    assert shape not in int8_order._known


def test_another_order_is_left_to_onednn(monkeypatch):
    """As another version or another CPU may have it."""
    monkeypatch.setattr(int8_order, "_in_tiles", lambda weight: torch.zeros(2, 2, 16, 64, dtype=torch.int32))
    kept = [packed_int8(matrix((128, 128), seed)) for seed in range(2)]
    assert (128, 128) not in int8_order._known
    assert stored(kept[1]) == stored(torch.ops.onednn.qlinear_prepack(matrix((128, 128), 1), None))
