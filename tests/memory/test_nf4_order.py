"""Guards 4-bit matrices rearranged by torch: what bitsandbytes makes of them, and the way back as they were."""

import copy

import pytest
import torch

functional = pytest.importorskip("bitsandbytes.functional")
from bitsandbytes.nn import Params4bit  # noqa: E402

from viscpm_hf.memory.nf4_order import rearrange_nf4  # noqa: E402


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
