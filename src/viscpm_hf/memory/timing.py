"""How fast this processor runs a Chat model in each way that a plan may take, measured in a moment and remembered.

Measured are products of a token of each beam and of a prompt with a square matrix of the model's width, from which the
others follow by their weights, and everything beside the products: two blocks whose matrices are taken out answer with
the real search, and a layer of the vision tower runs. Matrices take turns, so that each has left the processor's cache
when it comes again, as in a model. It takes two or three seconds and a third of a gigabyte, and is left out where
matrices are so small that calling a product takes as long as the product: there bytes over bandwidth say enough.
"""

import contextlib
import importlib.metadata
import itertools
import json
import math
import mmap
import os
import platform
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from ..libraries import quiet
from ..remote_code.generation_cpmbee import CpmBeeForCausalLM
from ..remote_code.modeling_beit3 import Beit3VisionConfig, Beit3VisionModel
from ..remote_code.modeling_cpmbee import CpmBeeConfig
from .machine import Machine
from .packing import can_round_head, pack_linears
from .plans import PROMPT_ROWS, TIMES, Plan, Workload
from .rounded_weights import int8_weight, nf4_weight
from .sizes import Model

LEAST_WIDTH = 2048  # of a model's states: below, a product takes less than 0.1 ms a thread
WEIGHTS = 2**24  # of a measured matrix, at most
CYCLE = 2e8  # bytes of matrices; more makes products no slower, even on a processor with 480 MB of cache (Xeon, 2026)
SHARE = 16  # of main memory, at most a part
TOKENS = 8  # written with the blocks that have no matrices
REMEMBERED = 64  # measurements kept for machines, versions and models


def with_times(machine: Machine, model: Model, plans: Iterable[Plan], workload: Workload | None = None) -> Machine:
    """A CPU with measured times for the plans of a Chat model; any other machine as it is.

    What cannot run here (a library is missing, too little memory) has no times, and its plans keep what bytes take.

    Args:
        machine (`Machine`): this one.
        model (`Model`): whose widths decide.
        plans (`list[Plan]`): without times.
        workload (`Workload`, *optional*): for the rows of a product.
    """
    wanted = {plan.kernel for plan in plans if plan.kernel}
    if machine.device != "cpu" or not wanted or model.language_config["hidden_size"] < LEAST_WIDTH:
        return machine
    workload, file = workload or Workload(), _file()
    key, remembered = _key(model, workload), _read(file)
    known = {kernel: times for kernel, times in remembered.get(key, {}).items() if kernel in wanted}
    missing = wanted - set(known)
    if missing and _largest(model) * SHARE <= machine.ram:
        found = measure(model, missing, workload)
        known |= found
        if found and not _is_busy():  # on a busy machine it is measured again the next time
            _write(file, remembered | {key: remembered.get(key, {}) | found})
    return replace(machine, times=known)


def _largest(model):
    """Bytes that measuring takes at once: the matrices and one more before it is packed, or a layer of vision."""
    vision = model.parts["vision_tower"].parameters / model.configs[""]["vision_config"]["num_hidden_layers"]
    return max(4 * vision, CYCLE + 8 * WEIGHTS)


def _is_busy():
    """Whether others want more than a part of this machine."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.75 * (os.cpu_count() or 1)


# Measuring


@torch.no_grad()
def measure(model: Model, kernels: Collection[str], workload: Workload) -> dict[str, dict[str, float]]:
    """Times of each kernel that runs here, by name; see `Machine.times`.

    Args:
        model (`Model`): a Chat.
        kernels: names as `Plan.kernel` has them.
        workload (`Workload`): how many beams and tokens of a prompt there are.
    """
    found, beside = {}, {}
    with quiet("torchao", "torch.utils._pytree", "bitsandbytes.backends.cpu.ops", "transformers"):
        for kernel in sorted(kernels):
            way, name = kernel.split()
            dtype = getattr(torch, name)
            # whatever a library cannot do here: the bytes still say what it takes at least
            with contextlib.suppress(Exception):
                if dtype not in beside:
                    beside[dtype] = _beside_products(model, dtype, workload) | _vision(model, dtype)
                found[kernel] = beside[dtype] | _products(model, way, dtype, workload)
    return found


def _products(model, way, dtype, workload):
    """Seconds for each weight of a matrix, as long as the states are wide."""
    prompt = min(workload.prompt_tokens, PROMPT_ROWS)
    width = model.widths[0]
    found = dict(zip(("token", "prompt"), _per_weight(way, width, dtype, (workload.beams, prompt)), strict=True))
    if way == "4bit":  # whose head is in 8 bits, or as it is in its file
        way = "int8" if can_round_head() else "mapped"
        return found | {"head": _per_weight(way, width, dtype, (workload.beams,))[0]}
    return found | {"head": found["token"]}


def _per_weight(way, width, dtype, rows):
    layers = _layers(way, width, dtype)
    found = []
    for count in rows:
        states = torch.full((1, count, width), 0.01, dtype=dtype)
        weights = width * layers[0](states).shape[-1]
        found.append(_typical(_times([partial(layer, states) for layer in layers])) / weights)
    return found


def _layers(way, width, dtype):
    """Matrices as a plan has them, as many as it takes; all their numbers are the same, which makes no difference."""
    # the 4-bit product is busier with unpacking than with memory, and slow to make
    outputs = max(min(width, WEIGHTS // width // (4 if way == "4bit" else 1)) // 64, 1) * 64
    weight, size = torch.full((outputs, width), 0.01, dtype=dtype), 1 if way == "int8" else dtype.itemsize
    count = 2 if way == "4bit" else max(2, math.ceil(CYCLE / (size * WEIGHTS)))
    if way == "int8":
        weight = int8_weight(weight, dtype)
    elif way == "4bit":
        from bitsandbytes.nn import LinearNF4

        layers = [_nf4(LinearNF4(width, outputs, False, dtype, device="meta"), weight) for _ in range(count)]
        pack_linears(model := nn.ModuleList(layers))
        return list(model)
    model = nn.ModuleList(nn.Linear(width, outputs, bias=False, device="meta") for _ in range(count))
    for layer in model:
        if way == "mapped":  # what comes from files is not in huge pages
            memory = torch.frombuffer(mmap.mmap(-1, weight.nbytes), dtype=dtype)
            each = memory.view(weight.shape).copy_(weight)
        else:
            each = weight.clone() if way == "plain" else weight
        layer.weight = nn.Parameter(each, requires_grad=False)
    if way in ("int8", "packed"):
        pack_linears(model)
    return list(model.eval())


def _nf4(layer, weight):
    layer.weight = nf4_weight(weight, BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=True), layer)
    return layer.eval()


def _times(works: Sequence[Callable], seconds: float = 0.08) -> list[float]:
    """Seconds of calls, one after the other, again and again while there is time; the first of each is not counted.

    Where others work, too, it goes on until the two fastest are alike, three times as long at most.
    """
    times, start = [], time.perf_counter()
    for count in itertools.count(1):
        begin = time.perf_counter()
        works[count % len(works)]()
        end = time.perf_counter()
        if count > len(works):
            times.append(end - begin)
        if len(times) > 1 and end - start > seconds:
            first, second = sorted(times)[:2]
            if second < 1.1 * first or end - start > 3 * seconds:
                return times


def _typical(times):
    """The median of those that nobody else made longer, which are within a quarter of the fastest."""
    return statistics.median(each for each in times if each <= 1.25 * min(times))


class _Taken(nn.Module):
    """In place of a matrix: rows of the right width."""

    def __init__(self, linear):
        super().__init__()
        self.outputs = linear.out_features

    def forward(self, states):
        return states.new_zeros(*states.shape[:-1], self.outputs)


def _beside_products(model, dtype, workload):
    """Seconds of a block without its matrices, and of what a step does beside blocks and head, such as the search."""
    config = CpmBeeConfig(**{**model.language_config, "num_hidden_layers": 2})
    with torch.device("meta"):
        language = CpmBeeForCausalLM._from_config(config, dtype=dtype).eval()
    for name, module in list(language.named_modules()):
        if isinstance(module, nn.Linear):
            language.set_submodule(name, _Taken(module))
    language.to_empty(device="cpu")  # of the embedding no more than a row is ever touched
    for name, parameter in language.named_parameters():
        if "embed_tokens" not in name:
            parameter.fill_(0.01)

    starts, steps = [], []  # of a pass: when it begins, and the seconds of its blocks
    language.register_forward_pre_hook(lambda *_: (starts.append(time.perf_counter()), steps.append([])) and None)
    for layer in language.model.layers:
        layer.register_forward_pre_hook(lambda *_: steps[-1].append(-time.perf_counter()))
        layer.register_forward_hook(lambda *_: steps[-1].append(steps[-1].pop() + time.perf_counter()))
    rows = min(workload.prompt_tokens, PROMPT_ROWS)
    prompt = torch.zeros(1, rows, dtype=torch.long)
    for tokens in (2, TOKENS):  # the first warms up
        starts.clear()
        steps.clear()
        language.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            segment_ids=prompt,
            context_mask=torch.ones_like(prompt),
            segment_rel=prompt[:, :1, None],
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            num_beams=workload.beams,
            repetition_penalty=1.1,
            do_sample=False,
        )
    beside = [end - start - sum(blocks) for start, end, blocks in zip(starts, starts[1:], steps, strict=False)]
    return {
        "layer prompt": min(steps[0]),
        "layer token": _typical([seconds for blocks in steps[1:] for seconds in blocks]),
        "step token": max(_typical(beside[1:]), 1e-9),
        "step prompt": max(beside[0], 1e-9),
    }


def _vision(model, dtype):
    """Seconds of a layer of the vision tower for one picture."""
    config = Beit3VisionConfig(**{**model.configs[""]["vision_config"], "num_hidden_layers": 1})
    with torch.device("meta"):
        tower = Beit3VisionModel._from_config(config, dtype=dtype).eval()
    layer = tower.layers[0].to_empty(device="cpu")
    for parameter in layer.parameters():
        parameter.fill_(0.01)
    picture = config.num_patches + 1
    states = torch.full((1, picture + config.query_num, config.hidden_size), 0.01, dtype=dtype)
    return {"vision": _typical(_times([lambda: layer(states, picture)]))}


# Remembering


def _file():
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "viscpm_hf" / "times.json"
    except RuntimeError:  # nobody knows whose home it is
        return None


def _key(model, workload):
    """What the times depend on: processor, libraries, our own code, the model's widths, rows."""
    name = platform.processor()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    versions = []
    for library in ("torch", "transformers", "torchao", "bitsandbytes"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{library} {importlib.metadata.version(library)}")
    code = zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))
    pages = os.environ.get("THP_MEM_ALLOC_ENABLE", "0")  # huge ones, see cli/app.py
    language, vision = model.language_config, model.configs[""]["vision_config"]
    sizes = {**{k: v for k, v in language.items() if k != "num_hidden_layers"}, "vision": vision["hidden_size"]}
    rows = f"{workload.beams} beams, prompt {min(workload.prompt_tokens, PROMPT_ROWS)}"
    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return "; ".join([name, cores, f"huge pages {pages}", *versions, f"code {code:08x}", json.dumps(sizes), rows])


def _read(file):
    """What is remembered; of a file that is not ours or broken nothing."""
    if file is None or not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {
            key: {kernel: times for kernel, times in kernels.items() if _are_times(times)}
            for key, kernels in content.items()
        }
    except (AttributeError, OSError, RecursionError, ValueError):
        return {}


def _are_times(times):
    return (
        isinstance(times, dict)
        and set(times) == set(TIMES)
        and all(type(value) is float and math.isfinite(value) and 0 < value < 1e4 for value in times.values())
    )


def _write(file, remembered):
    """Leaves the newest measurements in the file, if it can be written."""
    if file is None:
        return
    newest = dict(list(remembered.items())[-REMEMBERED:])
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=".times")
        try:
            with open(descriptor, "w", encoding="utf-8") as new:
                json.dump(newest, new, indent=1)
            os.replace(name, file)
        except OSError:
            os.unlink(name)
            raise
