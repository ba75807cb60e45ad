"""4-bit matrices in the order in which bitsandbytes multiplies with them on a CPU, and what is in it unpacked again.

It takes them apart into 32-bit numbers and puts them together again, at a layer's first use: 0.13 s for 42 million
numbers, which at the released size is most of what loading 4-bit weights takes. Here it is a tenth of that.

Its product unpacks the matrix for every few rows, which is as fast as memory for a token and slow for a prompt: for
many rows it is unpacked once and multiplied in bfloat16, some outputs at a time.
"""

import functools
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from bitsandbytes.nn import Params4bit

TILE = 32  # rows; each byte holds a number of the first 16 and, in its upper half, one of the others
PIECE = 2**18  # bytes at a time, which stay in the processor's cache
OUTPUTS = 1024  # unpacked at once
MANY = 64  # rows, from which unpacking first is faster


@functools.cache
def is_order_known() -> bool:
    """Whether the bitsandbytes that is installed rearranges a weight as it is done here; another one may not."""
    from bitsandbytes.nn import LinearNF4

    layer = LinearNF4(64, TILE, bias=False, compute_dtype=torch.bfloat16)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        layer.weight.data.normal_()
        layer = layer.to("cpu").eval()
        weight = layer.weight.__deepcopy__({})
        layer(torch.zeros(1, 64, dtype=torch.bfloat16))
    if not getattr(layer.weight.quant_state, "packing_format_for_cpu", False):
        return False
    rearrange_nf4(weight)
    states = layer.weight.quant_state, weight.quant_state
    same = vars(states[0]).keys() == vars(states[1]).keys() and torch.equal(states[0].absmax, states[1].absmax)
    return same and torch.equal(layer.weight.data, weight.data)


def multiply_nf4(states: torch.Tensor, weight: "Params4bit") -> torch.Tensor:
    """The product of many rows `(rows, in_features)` with a rearranged weight, `(rows, out_features)` in bfloat16."""
    from bitsandbytes.functional import QuantState, dequantize_4bit

    state, states = weight.quant_state, states.bfloat16()
    outputs, width = state.shape
    results = torch.empty(len(states), outputs, dtype=torch.bfloat16)
    for start in range(0, outputs, OUTPUTS):
        count = min(OUTPUTS, outputs - start)
        packed = in_rows(weight.data[start : start + count])
        absmax = state.absmax[:, start : start + count].T.float().contiguous()
        form = {"blocksize": state.blocksize, "quant_type": state.quant_type, "dtype": torch.bfloat16}
        exact = dequantize_4bit(packed, QuantState(absmax, shape=(count, width), code=state.code, **form))
        results[:, start : start + count] = torch.nn.functional.linear(states, exact)
    return results


def in_rows(tiles: torch.Tensor) -> torch.Tensor:
    """Bytes as bitsandbytes stores them, `(outputs * width / 2, 1)`, of `(outputs, width / 2)` in tiles."""
    outputs, width = tiles.shape
    pairs = tiles.reshape(-1).view(torch.int16).view(outputs // TILE, width, TILE // 2).transpose(1, 2).contiguous()
    rows = torch.empty(outputs // TILE, 2, TILE // 2, width, dtype=torch.uint8)
    rows[:, 0].copy_(((pairs & 0xF) << 4) | ((pairs >> 8) & 0xF))
    rows[:, 1].copy_((pairs & 0xF0) | ((pairs >> 12) & 0xF))
    return rows.view(-1, 1)


def rearrange_nf4(weight: "Params4bit") -> None:
    """What a layer of bitsandbytes does with its weight when it is first used on a CPU.

    Args:
        weight: of NF4 in bytes, with as many rows as a multiple of 32; changed in place.
    """
    from bitsandbytes.functional import dequantize_blockwise

    state = weight.quant_state
    rows, width = state.shape
    state.original_dtype, state.original_nested = state.dtype, state.nested
    state.original_qshape = weight.data.shape
    if state.nested:
        state.absmax, state.nested = dequantize_blockwise(state.absmax, state.state2) + state.offset, False
        del state.state2
    state.absmax = state.absmax.view(rows, -1).T.bfloat16().contiguous()
    state.dtype, state.packing_format_for_cpu = torch.bfloat16, True
    weight.data = _in_tiles(weight.data.view(rows // TILE, 2, TILE // 2, width // 2)).view(rows, width // 2)


def _in_tiles(pairs):
    """Bytes `(tiles, width / 2, 16, 2)` of what is stored `(tiles, 2, 16, width / 2)`, two inputs in each byte."""
    tiles, _, side, width = pairs.shape
    ordered = torch.empty(tiles, width, side, dtype=torch.int16)  # both inputs of a pair of rows
    step = max(PIECE // (2 * side * width), 1)
    for upper_and_lower, target in zip(pairs.split(step), ordered.split(step), strict=True):
        first, second = upper_and_lower.unbind(1)
        even, odd = (first >> 4) | (second & 0xF0), (first & 0xF) | (second << 4)
        target.copy_(torch.stack((even, odd), -1).view(torch.int16).squeeze(-1).transpose(1, 2))
    return ordered.view(torch.uint8)
