"""From a budget of memory to a plan: which of memory_plans.py fits the machine at hand."""

import logging
import math
import os
import time
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import torch

from .checkpoint.json_file import quoted
from .checkpoint.sizes import parse_size
from .memory_plans import NF4_BLOCK, Machine, Plan, default_dtypes, list_plans
from .model_size import read_model

logger = logging.getLogger(__name__)

BUDGET_VARIABLE = "CUDA_MEMORY_CPMBEE_MAX"  # the original's: what the language model may take of the GPU
WORDS = ("int8", "4bit")


def shown(nbytes: float) -> str:
    """`4.7 GB` or `386 MB`."""
    unit, word = next((unit for unit in ((1e9, "GB"), (1e6, "MB")) if nbytes >= unit[0]), (1e3, "kB"))
    return f"{nbytes / unit:.{int(unit == 1e9)}f} {word}"


def choose(plans: Iterable[Plan], machine: Machine, budget: int | None, allow_lossy: bool, name: str) -> Plan:
    """The fastest lossless plan that fits.

    Where that has to move weights for every token or step of denoising and loss is allowed, rounded weights that need
    not move are taken instead: those that are rounded least.

    Args:
        plans: to choose from, fastest first.
        machine: whose main memory must suffice, too.
        budget: bytes of the device; None for all it has.
        allow_lossy: whether weights may be rounded.
        name: of the model, for messages.

    Raises:
        ValueError: nothing fits; it says how much would.
    """
    plans = list(plans)
    if budget is None:
        budget = machine.ram if machine.device == "cpu" else machine.device_memory or math.inf
    possible = [plan for plan in plans if plan.unmapped <= machine.ram]
    fitting = [plan for plan in possible if plan.peak <= budget]
    lossless, lossy = ([plan for plan in fitting if plan.lossless is exact] for exact in (True, False))
    in_place = [plan for plan in lossy if plan.in_place]
    if allow_lossy and in_place and not any(plan.in_place for plan in lossless):
        return max(in_place, key=lambda plan: plan.peak)
    if lossless or (allow_lossy and lossy):
        return (lossless or lossy)[0]
    allowed = [plan for plan in possible if plan.lossless or allow_lossy]
    if not allowed:
        needed = min(plan.unmapped for plan in plans)
        raise ValueError(
            f"{name} needs at least {shown(needed)} of main memory, this machine has {shown(machine.ram)}."
        )
    least = min(allowed, key=lambda plan: plan.peak)
    hints = [f"give it {_rounded_up(least.peak)} ({least.title})"]
    if lossy:
        hints.append(f'allow rounded weights with quantization="auto" or --allow-lossy ({lossy[0].title})')
    raise ValueError(f"{shown(budget)} of memory is too little for {name}: {', or '.join(hints)}.")


def _rounded_up(nbytes):
    return f"{math.ceil(nbytes / 1e8) / 10} GB" if nbytes >= 1e9 else f"{math.ceil(nbytes / 1e7) * 10} MB"


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def usable_device(device: torch.device | str | int | None) -> torch.device:
    """The device to run on, CUDA if there is one by default; ValueError if nothing can run there."""
    try:
        device = default_device() if device is None else torch.device(device)
        fits = torch.zeros(1, device=device).tolist() == [0]
    except Exception:  # each kind of device says in its own way that it is not here
        fits = False
    if not fits:
        raise ValueError(
            f"There is no {quoted(str(device))} to run on here: give 'cpu', or 'cuda' where there is a GPU."
        )
    return device


def this_machine(device: torch.device | str, folder: str | os.PathLike | None = None) -> Machine:
    """The machine at hand, with what can be measured of it in a moment.

    Args:
        device: to run on; for a GPU that is not there everything about it is assumed.
        folder: with weight files, to measure the disk and main memory with; these decide nothing but the seconds.
    """
    device = torch.device(device)
    total, measured, slow = None, {}, frozenset()
    if folder is not None:
        measured["disk"] = _disk_speed(Path(folder))
    if device.type == "cuda" and torch.cuda.is_available():
        if (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(f"There is no {device}: this machine has {torch.cuda.device_count()} GPUs.")
        total = torch.cuda.get_device_properties(device).total_memory
        with suppress(RuntimeError):  # no room to measure in
            there = torch.empty(2**28, dtype=torch.uint8, device=device)
            here, locked = torch.ones(2**28, dtype=torch.uint8), torch.empty(2**28, dtype=torch.uint8, pin_memory=True)
            measured["link"] = _speed(lambda: there.copy_(locked), 2**28, device)
            measured["pageable"] = _speed(lambda: there.copy_(here), 2**28, device)
            measured["gpu memory"] = 2 * _speed(lambda: there.clone(), 2**28, device)  # read and written
    elif device.type == "cpu":
        slow = frozenset(dtype for dtype in (torch.float16, torch.bfloat16) if not is_multiplied_in(dtype))
        if folder is not None:
            with suppress(RuntimeError):
                matrix, rows = torch.ones(2**13, 2**13), torch.ones(3, 2**13)
                measured["memory"] = _speed(lambda: torch.nn.functional.linear(rows, matrix), matrix.nbytes)
    return Machine(device.type, physical_memory(), total, {k: v for k, v in measured.items() if v}, slow)


def _speed(work, nbytes, device=None):
    best = float("inf")
    for _ in range(4):  # the first warms up
        start = time.perf_counter()
        work()
        if device is not None:
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return nbytes / best


def _disk_speed(folder, nbytes=2**26):
    """Bytes per second of reading a weight file past the page cache; None where that cannot be done."""
    files = [path for path in folder.rglob("*.safetensors") if path.is_file() and path.stat().st_size >= nbytes]
    if not files or not hasattr(os, "posix_fadvise"):
        return None
    with open(max(files, key=lambda path: path.stat().st_size), "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, nbytes, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        file.read(nbytes)
        return nbytes / (time.perf_counter() - start)


def is_multiplied_in(dtype: torch.dtype) -> bool:
    """Whether the CPU multiplies in this precision, or only torch does, slowly."""
    name = {torch.float16: "_is_mkldnn_fp16_supported", torch.bfloat16: "_is_mkldnn_bf16_supported"}[dtype]
    try:
        return bool(getattr(torch.ops.mkldnn, name)())
    except (AttributeError, RuntimeError):
        return False


def find_plan(model_path, device, memory=None, quantization=None, dtype=None, without=()) -> Plan | None:
    """The plan that the arguments of a drop-in class mean; None to load as usual.

    Args:
        model_path (`str` or `Path`): folder or Hub repository.
        device (`torch.device`): where to run.
        memory (`str` or `int`, *optional*): budget; else what the environment says of the language model.
        quantization (*optional*): `"auto"` allows rounded weights, `"int8"` and `"4bit"` ask for them; a configuration
            means that nothing is planned.
        dtype (*optional*): as `list_plans` takes it.
        without: parts that will not be loaded.

    Raises:
        ValueError: nothing fits the budget, or a quantization that the device does not have.
    """
    word = quantization if isinstance(quantization, str) else None
    if word not in (None, "auto", *WORDS) or (memory is not None and quantization is not None and word is None):
        raise ValueError(
            f"Got {quoted(quantization)} as quantization, expected 'auto', 'int8' or '4bit', or without a memory "
            "limit a transformers quantization config such as BitsAndBytesConfig(load_in_4bit=True)."
        )
    dtype = checked_dtype(dtype)
    limit = os.environ.get(BUDGET_VARIABLE) or None if memory is None else memory
    budget = None if limit is None else parse_size(limit, BUDGET_VARIABLE if memory is None else "a memory limit")
    of_language = budget is not None and memory is None
    if budget is not None and device.type != "cuda" and (of_language or device.type != "cpu"):
        warnings.warn(f"The memory limit of {limit} has no effect on {device.type}.", stacklevel=3)
        budget = None
    if budget is None and word in (None, "auto"):
        if os.path.isdir(model_path):  # configurations that are not what the weights need could build without end
            read_model(model_path, without)
        return None

    model, machine = read_model(_folder(model_path), without), this_machine(device)
    of_language = of_language and budget is not None and word not in WORDS
    if of_language and dtype is None:
        dtype = default_dtypes(model)
    plans = list_plans(model, machine, budget, dtype)
    if word in WORDS:
        plans = [plan for plan in plans if plan.method == word]
        if not plans:
            why = f"without CUDA 4bit needs widths that are multiples of {NF4_BLOCK}, got {model.widths}"
            why = "what is stored quantized stays as it is" if model.quantized else why
            raise ValueError(f"Got quantization={word!r}, which {model_path} cannot have on {device.type}: {why}.")
    if of_language:  # it leaves out everything else, as for BMInf
        method = "resident" if model.quantized or model.language_bytes() <= budget else "stream"
        return next(plan for plan in plans if plan.method == method)
    plan = choose(plans, machine, budget, word is not None, str(model_path))
    logger.info("%s: %s, %s predicted.", model_path, plan.title, shown(plan.peak))
    if not plan.lossless and word == "auto":
        warnings.warn(f"To fit {memory}, weights of {model_path} are rounded: {plan.title}.", stacklevel=3)
    return plan


def checked_dtype(dtype):
    """What `list_plans` takes of what a drop-in class was given."""
    if isinstance(dtype, Mapping):
        return {name: checked_dtype(each) for name, each in dtype.items()}
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is None or dtype == "auto":
        return None
    if not isinstance(found, torch.dtype) or not found.is_floating_point or found.itemsize < 2:
        raise ValueError(f"Got {quoted(dtype)} as dtype, expected a floating-point type such as torch.bfloat16.")
    return found


def _folder(model_path):
    if os.path.isdir(model_path):
        return model_path
    from huggingface_hub import snapshot_download

    return snapshot_download(str(model_path))


def physical_memory() -> int:
    """Bytes of main memory this process may use."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open("/sys/fs/cgroup/memory.max") as file:  # of a container
            return min(total, int(file.read()))
    except (OSError, ValueError):
        return total
