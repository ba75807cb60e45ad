"""Trains for a given time on whatever device is there: a learner that draws its own batches and returns a loss.

Everything a step needs lies on the device, so that on a GPU whole steps are replayed as a CUDA graph: models so small
would otherwise wait for Python.
"""

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from ...finetuning import parameter_groups

SAVE_SECONDS = 60
WARM_UP_STEPS = 100
LAST_RATE = 0.02  # of the learning rate, at the end
SPEEDS = ("graph", "compile", "eager")
COMPILE_SECONDS = 40  # what takes longer does not pay
_LOOK_EVERY = 25  # steps; a look at the loss waits for the device


class Average:
    """Exponential moving average of a module's parameters, which forgets its beginning."""

    def __init__(self, module: nn.Module, decay: float = 0.999):
        self.module, self.decay, self.updates = module, decay, 0
        self.values = [parameter.detach().clone() for parameter in module.parameters()]

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.module.parameters()], 1 - keep)

    @contextmanager
    def in_place(self) -> Iterator[nn.Module]:
        """The module has its averaged values inside of the block."""
        kept = [parameter.detach().clone() for parameter in self.module.parameters()]
        self.copy(self.values)
        try:
            yield self.module
        finally:
            self.copy(kept)

    @torch.no_grad()
    def copy(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self.module.parameters(), values, strict=True):
            parameter.copy_(value)


def train_for(
    learner: nn.Module,
    seconds: float,
    rates: dict[str, float],
    file: Path,
    *,
    seed: int = 0,
    decay: float | None = None,
    weight_decay: float = 0.01,
    speed: str = "graph",
    compiled: Callable[[], None] | None = None,
    at_save: Callable[[], None] | None = None,
    apart: Sequence[nn.Module] = (),
    show_seconds: float = 10,
) -> nn.Module:
    """Trains a learner in place until its time is up, from the state in a file if there is one.

    Args:
        learner (`nn.Module`): `learner()` returns a scalar loss; it draws its batch with torch's generator. What the
            loss is made of may lie in a tensor `learner.loss_parts`, which is printed.
        seconds (`float`): of training, those before an interruption counted in.
        rates (`dict[str, float]`): highest learning rates of AdamW, see `parameter_groups`; they fall with the time
            that is left.
        file (`Path`): of the state, written once a minute and at the end.
        seed (`int`, defaults to 0): of the batches.
        decay (`float`, *optional*): the result is a moving average of the parameters with this decay.
        weight_decay (`float`, defaults to 0.01): of matrices.
        speed (`str`, defaults to `"graph"`): on a GPU `"graph"` replays steps, `"compile"` compiles them before, and
            `"eager"` does neither.
        compiled (`Callable`, *optional*): compiles what is worth it, in place.
        at_save (`Callable`, *optional*): called after each save but the last, with the average in place.
        apart (`Sequence[nn.Module]`, *optional*): parts whose gradients are clipped each by themselves, so that they
            learn as if alone; by default all together.
        show_seconds (`float`, defaults to 10): between two lines about the loss.

    Returns:
        the learner, in evaluation mode.
    """
    parameters = [p for p in learner.parameters() if p.requires_grad]
    clipped = [[p for p in part.parameters() if p.requires_grad] for part in apart] or [parameters]
    device, name = parameters[0].device, file.stem
    on_gpu = device.type == "cuda"
    groups = parameter_groups(learner, rates, weight_decay)
    for group in groups:
        group["highest"] = group["lr"]
        if on_gpu:
            group["lr"] = torch.tensor(group["lr"], device=device)
    optimizer = torch.optim.AdamW(
        groups,
        betas=(0.9, 0.98),
        fused=True,
        capturable=on_gpu,
    )
    average = Average(learner, decay) if decay else None
    step, before = 0, 0.0
    if file.exists():
        state = torch.load(file, map_location=device, weights_only=True)
        learner.load_state_dict(state["learner"])
        if "optimizer" in state:
            optimizer.load_state_dict(state["optimizer"])
        if average and "average" in state:
            average.values, average.updates = state["average"], state["updates"]
        step, before, seconds = state["step"], state["elapsed"], state.get("seconds", seconds)
    torch.manual_seed(seed * 1_000_003 + step)
    learner.train()
    losses = torch.zeros(2, device=device)  # sum and number since the last look

    def one_step():
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            loss = learner()
        loss.backward()
        for each in clipped:
            torch.nn.utils.clip_grad_norm_(each, 1.0, foreach=True)
        optimizer.step()
        losses.add_(torch.stack([loss.detach().float(), torch.ones_like(losses[0])]))

    def save(finished: bool):
        state = {"learner": learner.state_dict(), "step": step, "elapsed": elapsed, "seconds": seconds}
        if not finished:
            state["optimizer"] = optimizer.state_dict()
            if average:
                state |= {"average": average.values, "updates": average.updates}
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, file.with_suffix(".partial"))
        file.with_suffix(".partial").replace(file)

    kept = [*parameters, *(average.values if average else ())]
    good, caution = [each.detach().clone() for each in kept], 1.0
    run, start = None, time.perf_counter()
    elapsed = saved = shown = before
    if on_gpu and speed == "compile" and compiled and elapsed < seconds:
        compiled()
    first_step = step
    while elapsed < seconds:
        done = elapsed / seconds
        falling = LAST_RATE + (1 - LAST_RATE) * (1 - max(0.0, (done - 0.3) / 0.7)) ** 1.5
        now = caution * falling * min(1.0, (step + 1) / WARM_UP_STEPS, done * 20 + 0.05)
        for group in optimizer.param_groups:
            if on_gpu:
                group["lr"].fill_(group["highest"] * now)
            else:
                group["lr"] = group["highest"] * now
        if run is None and step == first_step + 3:
            run = _captured(one_step, optimizer) if on_gpu and speed != "eager" else None
            if run is None:
                run = _eager(one_step, optimizer)
        if run:
            run()
        else:  # the first ones settle what libraries decide once
            _warm_up(one_step, optimizer, on_gpu, speed == "compile" and step == first_step)
        step += 1
        if average:
            average.update()
        if step % _LOOK_EVERY == 0 or not on_gpu:
            if on_gpu:
                torch.cuda.synchronize()
            elapsed = before + time.perf_counter() - start
            if elapsed - shown > show_seconds or elapsed >= seconds:
                total, number = losses.tolist()
                losses.zero_()
                speed_now = (step - first_step) / (elapsed - before)
                parts = getattr(learner, "loss_parts", None)  # of the last step
                of = "" if parts is None else f" (last {', '.join(f'{part:.3f}' for part in parts.tolist())})"
                print(
                    f"{name}: {elapsed:.0f} of {seconds:.0f} s, step {step} ({speed_now:.1f}/s), "
                    f"loss {total / max(number, 1):.4f}{of}",
                    file=sys.stderr,
                    flush=True,
                )
                shown = elapsed
                if math.isfinite(total):
                    torch._foreach_copy_(good, [each.detach() for each in kept])
                else:  # in place, as a graph knows its tensors by their addresses
                    caution /= 2
                    print(f"{name}: back to the last good state, slower", file=sys.stderr, flush=True)
                    with torch.no_grad():
                        torch._foreach_copy_(kept, good)
                        for moments in optimizer.state.values():
                            torch._foreach_zero_(list(moments.values()))
            if elapsed - saved > SAVE_SECONDS and elapsed < seconds:
                save(finished=False)
                saved = elapsed
                if at_save:
                    with average.in_place() if average else _nothing():
                        learner.eval()
                        at_save()
                        learner.train()
    if before < seconds:
        if average:
            average.copy(average.values)
        save(finished=True)
    optimizer.zero_grad(set_to_none=True)  # gradients would keep the graph's memory
    return learner.eval()


@contextmanager
def _nothing():
    yield


def _eager(one_step: Callable, optimizer: torch.optim.Optimizer) -> Callable:
    def run():
        one_step()
        optimizer.zero_grad(set_to_none=True)

    return run


def _warm_up(one_step: Callable, optimizer: torch.optim.Optimizer, on_gpu: bool, compiling: bool) -> None:
    run = _eager(one_step, optimizer)
    if not on_gpu:
        return run()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        if not compiling:
            run()
        else:
            try:
                with _at_most(COMPILE_SECONDS):
                    run()
            except Exception as error:  # whatever a compiler says: it goes without
                print(f"not compiled: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr, flush=True)
                torch.compiler.set_stance("force_eager")
                optimizer.zero_grad(set_to_none=True)
                run()
    torch.cuda.current_stream().wait_stream(stream)
    return None


def _captured(one_step: Callable, optimizer: torch.optim.Optimizer) -> Callable | None:
    """Replays a step, or `None` where it cannot be captured."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            one_step()
    except Exception as error:  # the step goes without
        print(f"no CUDA graph: {type(error).__name__}: {str(error)[:300]}", file=sys.stderr, flush=True)
        torch.cuda.synchronize()
        optimizer.zero_grad(set_to_none=True)
        return None
    return graph.replay


@contextmanager
def _at_most(seconds: int):
    def stop(number, frame):
        raise TimeoutError(f"more than {seconds} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
