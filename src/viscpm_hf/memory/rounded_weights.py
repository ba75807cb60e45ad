"""A matrix's weights in 8 or 4 bits, in the forms and with the very numbers of torchao and bitsandbytes.

Both libraries round a whole matrix at once, through several copies of it in float32 and wider, for which the system
has to find memory: that takes several times as long as the arithmetic. Pieces of it stay in the processor's cache.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from .plans import NF4_BLOCK

if TYPE_CHECKING:
    from bitsandbytes.nn import Params4bit

PIECE = 2**17  # weights at a time: half a megabyte of float32, which malloc reuses rather than asks the system for


def int8_weight(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A weight as torchao's `Int8DynamicActivationInt8WeightConfig` rounds it, a scale for each row.

    Args:
        weight: of a linear layer, `(out_features, in_features)`, in any floating-point type.
        dtype: of what it will multiply.

    Returns:
        torchao's `Int8Tensor` of the same shape.
    """
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    weight = weight.detach()
    form = nn.Linear(weight.shape[1], 1, bias=False, dtype=dtype)
    quantize_(form, Int8DynamicActivationInt8WeightConfig())
    form_class, (names, rest) = type(form.weight.data), form.weight.data.__tensor_flatten__()
    form.weight = None  # torchao ties a layer to itself, which would keep it
    scale = torch.empty(len(weight), 1, dtype=torch.float32)
    rounded = torch.empty(weight.shape, dtype=torch.int8)
    for rows, numbers, each in zip(_pieces(weight), _pieces(rounded), scale.split(_rows(weight)), strict=True):
        part = rows.float()  # of which the extremes are found seven times as fast
        largest = torch.maximum(-part.amin(1, keepdim=True), part.amax(1, keepdim=True)).to(weight.dtype)
        each.copy_(largest / 127.5).clamp_(min=torch.finfo(torch.float32).eps)
        numbers.copy_((part * (1 / each)).round_().clamp_(-128, 127))
    tensors = {"qdata": rounded, "scale": scale, "zero_point": torch.zeros(scale.shape, dtype=torch.int8)}
    return form_class.__tensor_unflatten__({name: tensors[name] for name in names}, rest, None, None)


def nf4_weight(weight: torch.Tensor, config: BitsAndBytesConfig, module: nn.Module | None = None) -> "Params4bit":
    """A weight as bitsandbytes rounds it to NF4 on a CPU.

    Args:
        weight: of a linear layer, `(out_features, in_features)`, in any floating-point type; `in_features` a multiple
            of 64.
        config: with `bnb_4bit_use_double_quant`: whether the blocks' scales are rounded, too.
        module: the `Linear4bit` that it is for.
    """
    import bitsandbytes.functional as bnb
    from bitsandbytes.nn import Params4bit

    weight = weight.detach()
    code = bnb.get_4bit_type("nf4", device="cpu")
    bounds = ((code[1:] + code[:-1]) / 2).tolist()
    data = torch.empty(weight.numel() // 2, 1, dtype=torch.uint8)
    absmax = torch.empty(weight.numel() // NF4_BLOCK, dtype=torch.float32)
    rows = _rows(weight)
    halves = (rows * weight.shape[1] // 2, rows * weight.shape[1] // NF4_BLOCK)
    for piece, packed, most in zip(_pieces(weight), data.split(halves[0]), absmax.split(halves[1]), strict=True):
        blocks = piece.reshape(-1, NF4_BLOCK).float()
        torch.amax(blocks.abs(), dim=1, out=most)
        blocks = blocks * (1 / most.clamp(min=1e-38))[:, None]  # bitsandbytes' own bound
        numbers, above = torch.zeros(blocks.shape, dtype=torch.uint8), torch.empty(blocks.shape, dtype=torch.bool)
        for bound in bounds:  # a search of each weight takes twice as long
            numbers += torch.gt(blocks, bound, out=above).view(torch.uint8)
        numbers = numbers.view(-1, 2)
        packed.copy_((numbers[:, :1] << 4) | numbers[:, 1:])
    state = {"shape": weight.shape, "code": code, "blocksize": NF4_BLOCK, "quant_type": "nf4", "dtype": weight.dtype}
    if config.bnb_4bit_use_double_quant:
        state["offset"] = absmax.mean()
        absmax, state["state2"] = bnb.quantize_blockwise(absmax - state["offset"], blocksize=256)
    stats = bnb.QuantState(absmax=absmax, **state).as_dict(packed=True)
    return Params4bit.from_prequantized(data, stats, requires_grad=False, device="cpu", module=module)


def _rows(weight):
    return max(PIECE // weight.shape[1], 1)


def _pieces(weight):
    return weight.split(_rows(weight))
