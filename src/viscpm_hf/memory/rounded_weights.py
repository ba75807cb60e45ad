"""A matrix's weights rounded to 8 or 4 bits by torchao and bitsandbytes, some rows at a time.

Both libraries round a whole matrix at once, through several float32 copies of it that the system has to find memory
for: that takes longer than the arithmetic. Pieces of it stay in the processor's cache, and give the same numbers.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import BitsAndBytesConfig

if TYPE_CHECKING:
    from bitsandbytes.nn import Params4bit

PIECE = 2**20  # weights at a time: 4 MB of float32


def int8_weight(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A weight as torchao's `Int8DynamicActivationInt8WeightConfig` rounds it, a scale for each row.

    Args:
        weight: of a linear layer, `(out_features, in_features)`, in any floating-point type.
        dtype: of what it will multiply.

    Returns:
        torchao's `Int8Tensor` of the same shape.
    """
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    pieces = []
    for rows in _pieces(weight):
        linear = nn.Linear(*rows.shape[::-1], bias=False, device="meta")
        linear.weight = nn.Parameter(rows, requires_grad=False)
        quantize_(linear, Int8DynamicActivationInt8WeightConfig())
        pieces.append(linear.weight.data)
        linear.weight = None  # torchao ties a layer to itself, which would keep it
    names, rest = pieces[0].__tensor_flatten__()
    tensors = {name: torch.cat([getattr(piece, name) for piece in pieces]) for name in names}
    return type(pieces[0]).__tensor_unflatten__(tensors, {**rest, "dtype": dtype}, None, None)


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

    pieces = [bnb.quantize_4bit(rows, quant_type=config.bnb_4bit_quant_type) for rows in _pieces(weight)]
    state = pieces[0][1]
    state.shape, absmax = weight.shape, torch.cat([piece.absmax for _, piece in pieces])
    if config.bnb_4bit_use_double_quant:
        state.nested, state.offset = True, absmax.mean()
        absmax, state.state2 = bnb.quantize_blockwise(absmax - state.offset, blocksize=256)
    state.absmax = absmax
    data, stats = torch.cat([packed for packed, _ in pieces]), state.as_dict(packed=True)
    return Params4bit.from_prequantized(data, stats, requires_grad=False, device="cpu", module=module)


def _pieces(weight):
    return weight.detach().split(max(PIECE // weight.shape[1], 1))
