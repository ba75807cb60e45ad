"""What rounding a matrix does to the speed of products with it on a CPU: milliseconds, as RESULTS.md has them.

    THP_MEM_ALLOC_ENABLE=1 python benchmarks/products.py [--width 4096] [--methods "int8, packed" ...]

Each product is with another copy of the matrix, 600 MB of them, so that they come from memory as in a model. The last
three rows are ways to use 4 bits that nothing here takes.
"""

import argparse
import ctypes
import time
from functools import partial

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from bitsandbytes.nn import LinearNF4
from torch import nn
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

from viscpm_hf.memory.packing import pack_linears

ROWS, ROUNDS, NBYTES, GROUP = (1, 3, 128, 600), 5, 600e6, 64


def rounded(config, linear: nn.Linear) -> nn.Module:
    quantize_(linear, config)
    return linear


def nf4(linear: nn.Linear) -> nn.Module:
    width, dtype = linear.in_features, linear.weight.dtype
    packed = LinearNF4(width, width, bias=False, compute_dtype=dtype)
    packed.load_state_dict(linear.state_dict())
    return packed.to("cpu", dtype).eval()


def packed(linear: nn.Module) -> nn.Module:
    model = nn.Sequential(linear)
    pack_linears(model)
    return model


def nf4_unpacked(linear: nn.Linear):
    """bitsandbytes' 4 bits, unpacked to the type of the rows for each product."""
    weight, state = quantize_4bit(linear.weight.detach(), quant_type="nf4")
    return lambda rows: nn.functional.linear(rows, dequantize_4bit(weight, state))


def torch_int4(linear: nn.Linear):
    """torch's own 4-bit product, a scale and a zero for each 64 weights of a row; the numbers are made up."""
    width = linear.in_features
    numbers = torch.randint(16, (width, width), dtype=torch.int32)
    weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(numbers, 1)
    scales = torch.rand(width // GROUP, width, 2, dtype=linear.weight.dtype)
    return lambda rows: torch.ops.aten._weight_int4pack_mm_for_cpu(rows[0], weight, GROUP, scales)


def int4_to_int8(linear: nn.Linear):
    """4-bit weights unpacked to 8 bits with integer scales of groups, piece by piece, for products of 8-bit rows.

    The numbers are made up; they lie in the order that oneDNN has packed, whichever that is.
    """
    width, height = linear.in_features, 256
    operators = torch.ops.onednn
    packed = operators.qlinear_prepack(torch.zeros(height, width, dtype=torch.int8), None)
    address, count = torch.ops.mkldnn.data_ptr(packed), height * width
    memory = torch.frombuffer((ctypes.c_uint8 * count).from_address(address), dtype=torch.uint8)
    low, high = memory.view(2, -1, 16, 256)
    pieces = torch.randint(256, (width // height, *low.shape), dtype=torch.uint8)
    scales = torch.randint(1, 9, (2, len(low), 1, 256), dtype=torch.uint8)
    scale, zero = torch.rand(height), torch.zeros(height, dtype=torch.int32)

    def product(rows):
        most = rows[0].abs().amax(-1, keepdim=True).float()
        states = (rows[0] * (127 / most)).round_().to(torch.int8)
        results = []
        for piece in pieces:
            torch.bitwise_and(piece, 15, out=low).mul_(scales[0])
            torch.bitwise_right_shift(piece, 4, out=high).mul_(scales[1])
            args = (scale, zero, None, 1.0, 0, torch.float32, "none", [], "")
            results.append(operators.qlinear_pointwise(states, 1.0, 0, packed, *args))
        return torch.cat(results, -1).mul_(most).to(rows.dtype)

    return product


METHODS = {
    "exact": lambda linear: linear,
    "exact, packed": packed,
    "int8, weights only": partial(rounded, Int8WeightOnlyConfig()),
    "int8": partial(rounded, Int8DynamicActivationInt8WeightConfig()),
    "int8, packed": lambda linear: packed(rounded(Int8DynamicActivationInt8WeightConfig(), linear)),
    "4bit": nf4,
    "4bit, unpacked for each product": nf4_unpacked,
    "4 bits by torch": torch_int4,
    "4 bits unpacked to 8, rows of 8 bits": int4_to_int8,
}
BYTES = {"exact": 2, "int8": 1}  # of a weight; 4 bits take half of one


@torch.no_grad()
def milliseconds(products: list, rows: torch.Tensor) -> float:
    """Of one of the products, in the fastest of several rounds after one that may pack the matrices."""
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        for product in products:
            product(rows)
        times.append((time.perf_counter() - start) / len(products))
    return 1000 * min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float16"])
    args = parser.parse_args()
    columns = [(getattr(torch, dtype), rows) for dtype in args.dtypes for rows in ROWS]
    print("| | " + " | ".join(f"{rows} rows, {str(dtype).removeprefix('torch.')}" for dtype, rows in columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for name in args.methods:
        each = BYTES.get(name.split(",")[0], 0.5)
        count = max(int(NBYTES / (each * args.width**2)), 1)
        cells, products, before = [], [], None
        for dtype, rows in columns:
            if dtype != before:
                products = []  # frees the last ones first
                linear = nn.Linear(args.width, args.width, bias=False, dtype=dtype)
                for _ in range(count):
                    copy = nn.Linear(args.width, args.width, bias=False, device="meta")
                    copy.weight = nn.Parameter(linear.weight.detach().clone(), requires_grad=False)
                    products.append(METHODS[name](copy))
                before = dtype
            slow = rows >= 128 and name.startswith(("4", "int8, weights"))
            states = torch.randn(1, rows, args.width, dtype=dtype)
            cells.append(f"{milliseconds(products[:4] if slow else products, states):.2f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
