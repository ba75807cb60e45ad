"""The machine at hand: what it has, what runs there, how fast it is."""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..checkpoint.files.json_file import quoted

ASSUMED = {"memory": 15e9, "gpu memory": 400e9, "link": 12e9, "pageable": 5e9, "disk": 1e9}  # bytes per second


@dataclass(frozen=True)
class Machine:
    """What a plan runs on.

    Args:
        device: `"cuda"` or `"cpu"`.
        ram: bytes of main memory.
        device_memory: bytes of the GPU; None if there is none to look at.
        measured: bytes per second of what was measured: `memory` (a CPU's, while multiplying), `gpu memory`, `link`
            (page-locked main memory to GPU), `pageable` (other main memory to GPU), `disk`. The others are assumed.
        slow_dtypes: precisions the CPU has no instructions for.
        times: of a CPU, what timing.py has measured for a model, by `Plan.kernel` and names as in `plans.TIMES`.
    """

    device: str
    ram: int
    device_memory: int | None = None
    measured: Mapping[str, float] = field(default_factory=dict)
    slow_dtypes: frozenset[torch.dtype] = frozenset()
    times: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def speed(self, name: str) -> float:
        """Bytes per second, within what can be, whatever a busy machine measures.

        Nothing is faster than what its bytes go through, and copying to the GPU by way of page-locked memory takes the
        processor no longer than a few copies.
        """
        speed = self.measured.get(name, ASSUMED[name])
        through = {"disk": "memory" if self.device == "cpu" else "pageable", "pageable": "link", "link": "gpu memory"}
        if name not in through:
            return speed
        most = self.speed(through[name])
        return min(max(speed, most / 4 if name == "pageable" else 0), most)


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


def physical_memory() -> int:
    """Bytes of main memory this process may use."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open("/sys/fs/cgroup/memory.max") as file:  # of a container
            return min(total, int(file.read()))
    except (OSError, ValueError):
        return total
