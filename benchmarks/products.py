"""What rounding a matrix does to the speed of products with it on a CPU: milliseconds, as RESULTS.md has them.

OMP_NUM_THREADS=1 python benchmarks/products.py [--width 4096]
"""

import argparse
import time
from functools import partial

import torch
from bitsandbytes.nn import LinearNF4
from torch import nn
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

from viscpm_hf.memory.packing import pack_linears

ROWS, ROUNDS = (3, 128), 9


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


METHODS = {
    "exact": lambda linear: linear,
    "exact, packed": packed,
    "int8, weights only": partial(rounded, Int8WeightOnlyConfig()),
    "int8": partial(rounded, Int8DynamicActivationInt8WeightConfig()),
    "int8, packed": lambda linear: packed(rounded(Int8DynamicActivationInt8WeightConfig(), linear)),
    "4bit": nf4,
}


@torch.no_grad()
def milliseconds(product: nn.Module, states: torch.Tensor) -> float:
    """Of the fastest of several products, after one that may pack the matrix."""
    product(states)
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        product(states)
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=4096)
    args = parser.parse_args()
    columns = [(dtype, rows) for dtype in (torch.bfloat16, torch.float16) for rows in ROWS]
    print("| | " + " | ".join(f"{rows} rows, {str(dtype).removeprefix('torch.')}" for dtype, rows in columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for name, method in METHODS.items():
        cells = []
        for dtype, rows in columns:
            product = method(nn.Linear(args.width, args.width, bias=False, dtype=dtype))
            cells.append(f"{milliseconds(product, torch.randn(1, rows, args.width, dtype=dtype)):.1f}")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
