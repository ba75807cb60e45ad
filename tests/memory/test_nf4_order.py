"""Guards 4-bit matrices rearranged by torch: what bitsandbytes makes of them, and the way back as they were."""

import copy

import pytest
import torch

functional = pytest.importorskip("bitsandbytes.functional")
from bitsandbytes.nn import LinearNF4, Params4bit  # noqa: E402

from viscpm_hf.memory import nf4_order  # noqa: E402
from viscpm_hf.memory.nf4_order import rearrange_nf4  # noqa: E402
from viscpm_hf.memory.packing import pack_linears  # noqa: E402


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("shape", [(32, 64), (96, 192), (2048, 320)])
def test_it_is_what_bitsandbytes_makes(shape, nested):
    torch.manual_seed(0)
    options = {"requires_grad": False, "compress_statistics": nested, "quant_type": "nf4"}
    weight = Params4bit(torch.randn(shape, dtype=torch.float16), **options).to("cpu")
    stored, state = weight.data.clone(), copy.deepcopy(weight.quant_state)
    expected, wanted = functional._convert_weight_packed_for_cpu(weight.data, copy.deepcopy(state))
    rearrange_nf4(weight)
    found = weight.quant_state
    assert torch.equal(weight.data, expected) and torch.equal(found.absmax, wanted.absmax)
    assert vars(found).keys() == vars(wanted).keys()
    for name, value in vars(wanted).items():
        ours = getattr(found, name)
        same = torch.equal(ours, value) if isinstance(value, torch.Tensor) else ours == value
        assert same, name
    assert torch.equal(functional._convert_weight_packed_for_cpu_inverse(weight.data, found)[0], stored)


def test_an_order_of_another_bitsandbytes_is_noticed(monkeypatch):
    assert nf4_order.is_order_known.__wrapped__()
    monkeypatch.setattr(nf4_order, "_in_tiles", lambda pairs: pairs.contiguous())
    assert not nf4_order.is_order_known.__wrapped__()


@torch.no_grad()
@pytest.mark.parametrize("shape", [(32, 64), (96, 192), (2080, 320)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_products_of_many_rows_are_those_of_the_unpacked_weights(shape, dtype, monkeypatch):
    torch.manual_seed(0)
    exact = torch.nn.Linear(*shape[::-1], bias=False, dtype=dtype)
    layer = LinearNF4(*shape[::-1], bias=False, compute_dtype=dtype)
    layer.load_state_dict(exact.state_dict())
    layer = layer.to("cpu").eval()
    weight = functional.dequantize_4bit(layer.weight.data, copy.deepcopy(layer.weight.quant_state)).float()
    model = torch.nn.Sequential(layer)
    pack_linears(model)
    assert type(model[0]).__name__ == "PackedLinear4bit"
    states = torch.randn(2, 70, shape[1], dtype=dtype)
    wanted = states.bfloat16().float() @ weight.T
    many, few = model(states), torch.cat([model(part) for part in states.split(10, dim=1)], 1)
    for found in (many, few):
        assert found.dtype == dtype and found.shape == wanted.shape
        assert (found.float() - wanted).norm() < 0.01 * wanted.norm()  # scales and products are in bfloat16
    monkeypatch.setattr("viscpm_hf.memory.packing.is_order_known", lambda: False)
    torch.testing.assert_close(model(states).float(), few.float(), rtol=0.02, atol=0.02)
