"""From a budget of memory to a plan: which of memory_plans.py fits the machine at hand."""

import logging
import math
import os
import warnings
from collections.abc import Collection, Iterable, Mapping

import torch
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..checkpoint.files.json_file import quoted
from ..checkpoint.files.sizes import parse_size, shown
from .machine import Machine, is_multiplied_in, this_machine
from .plans import NF4_BLOCK, Plan, default_dtypes, list_plans
from .sizes import Model, read_model
from .timing import with_times

logger = logging.getLogger(__name__)

BUDGET_VARIABLE = "CUDA_MEMORY_CPMBEE_MAX"  # the original's: what the language model may take of the GPU
WORDS = ("int8", "4bit")
STORED = {"int8": torch.int8, "4bit": torch.uint8}  # types of quantized weights in files
LARGE = 10**9  # weights, from which a slow type is worth a word
ALIKE = 1.5  # times as long: what measuring may be wrong by decides nothing, and memory more than a little time


def choose(plans: Iterable[Plan], machine: Machine, budget: int | None, allow_lossy: bool, name: str) -> Plan:
    """The fastest lossless plan that fits.

    Where that has to move weights for every token or step of denoising and loss is allowed, quantized weights that
    need not move are taken instead: the least quantized. Of plans that were measured as about equally fast it is the
    one that takes the least memory.

    Args:
        plans: to choose from, fastest first.
        machine: whose main memory must suffice, too.
        budget: bytes of the device; None for all it has.
        allow_lossy: whether weights may be quantized.
        name: of the model, for messages.

    Raises:
        ValueError: nothing fits; it says how much would.
    """
    plans = list(plans)
    possible = [plan for plan in plans if plan.unmapped <= machine.ram]
    fitting = [plan for plan in plans if fits(plan, machine, budget)]
    lossless, lossy = ([plan for plan in fitting if plan.lossless is exact] for exact in (True, False))
    in_place = [plan for plan in lossy if plan.in_place]
    if allow_lossy and in_place and not any(plan.in_place for plan in lossless):
        return max(in_place, key=lambda plan: plan.peak)
    if lossless or (allow_lossy and lossy):
        return _fastest(lossless or lossy)
    allowed = [plan for plan in possible if plan.lossless or allow_lossy]
    if not allowed:
        needed = min(plan.unmapped for plan in plans)
        raise ValueError(
            f"{name} needs at least {shown(needed)} of main memory, this machine has {shown(machine.ram)}."
        )
    least = min(allowed, key=lambda plan: plan.peak)
    hints = [f"give it {_rounded_up(least.peak)} ({least.title})"]
    if lossy:
        hints.append(f'allow quantized weights with quantization="auto" or --quantization auto ({lossy[0].title})')
    given = shown(_limit(machine, budget))
    raise ValueError(f"{given} of memory is too little for {name}: {', or '.join(hints)}.")


def _limit(machine, budget):
    if budget is not None:
        return budget
    return machine.ram if machine.device == "cpu" else machine.device_memory or math.inf


def fits(plan: Plan, machine: Machine, budget: int | None) -> bool:
    """Whether a plan stays within a budget of the device, None for all it has, and within main memory."""
    return plan.unmapped <= machine.ram and plan.peak <= _limit(machine, budget)


def faster_quantized(plans: Iterable[Plan], machine: Machine, budget: int | None, taken: Plan) -> Plan | None:
    """The fastest plan with quantized weights that fits, if a lossless one is taken and takes twice as long.

    Bandwidth alone says little about it, unless weights have to be moved otherwise.

    Args:
        plans: that there are.
        machine: whose main memory must suffice.
        budget: bytes of the device; None for all it has.
        taken: the plan that is taken.
    """
    quantized = [plan for plan in plans if plan.method in WORDS and fits(plan, machine, budget)]
    if not quantized or not taken.lossless:
        return None
    fastest = min(quantized, key=lambda plan: plan.answer_seconds)
    is_known = fastest.measured or not taken.in_place
    return fastest if is_known and 2 * fastest.answer_seconds < taken.answer_seconds else None


def is_stored_in(model: Model, word: str) -> bool:
    """Whether a model's weights are quantized to `"int8"` or `"4bit"` in its files."""
    return bool(model.quantized) and model.parts["blocks"].dtype == STORED[word]


def of_method(plans: Iterable[Plan], word: str, model: Model, device: str, name: str) -> list[Plan]:
    """The plans with `"int8"` or `"4bit"` weights.

    Args:
        plans: to choose from.
        word: one of the two.
        model: whose plans they are.
        device: type of it, for messages.
        name: of the model, for messages.

    Raises:
        ValueError: there is none.
    """
    found = [plan for plan in plans if plan.method == word]
    if not found:
        if model.quantized:
            raise ValueError(
                f"Got quantization={word!r}, but {name} is stored quantized otherwise, and stays as it is: leave it "
                "out, or give the model that is not quantized."
            )
        raise ValueError(
            f"Got quantization={word!r}, which {name} cannot have on {device}: without CUDA 4bit needs widths that "
            f"are multiples of {NF4_BLOCK}, got {model.widths}."
        )
    return found


def _fastest(plans):
    first = plans[0]
    alike = [plan for plan in plans if plan.measured and plan.in_place == first.in_place]
    alike = [plan for plan in alike if plan.answer_seconds <= ALIKE * first.answer_seconds]
    return min(alike, key=lambda plan: plan.peak) if first.measured else first


def _rounded_up(nbytes):
    return f"{math.ceil(nbytes / 1e8) / 10} GB" if nbytes >= 1e9 else f"{math.ceil(nbytes / 1e7) * 10} MB"


def find_plan(
    model_path: str | os.PathLike,
    device: torch.device,
    memory: str | int | None = None,
    quantization: str | QuantizationConfigMixin | None = None,
    dtype: str | torch.dtype | Mapping | None = None,
    without: Collection[str] = (),
) -> Plan | None:
    """The plan that the arguments of a drop-in class mean; None to load as usual.

    Args:
        model_path (`str` or `Path`): folder or Hub repository.
        device (`torch.device`): where to run.
        memory (`str` or `int`, *optional*): budget; else what the environment says of the language model.
        quantization (*optional*): `"auto"` allows quantized weights, `"int8"` and `"4bit"` ask for them; a
            configuration means that nothing is planned.
        dtype (*optional*): as `list_plans` takes it.
        without: parts that will not be loaded.

    Raises:
        ValueError: nothing fits the budget, or a quantization that the device does not have.
    """
    word = quantization if isinstance(quantization, str) else None
    if word not in (None, "auto", *WORDS) or (memory is not None and quantization is not None and word is None):
        raise ValueError(
            f"Got {quoted(quantization)} as quantization, expected 'auto', 'int8' or '4bit', or without a memory "
            "limit a transformers quantization config such as BitsAndBytesConfig(load_in_4bit=True, "
            'bnb_4bit_quant_type="nf4").'
        )
    dtype = checked_dtype(dtype)
    limit = os.environ.get(BUDGET_VARIABLE) or None if memory is None else memory
    budget = None if limit is None else parse_size(limit, BUDGET_VARIABLE if memory is None else "a memory limit")
    of_language = budget is not None and memory is None
    if budget is not None and device.type != "cuda" and (of_language or device.type != "cpu"):
        warnings.warn(f"The memory limit of {limit} has no effect on {device.type}.", stacklevel=4)
        budget = None
    if budget is None and word in (None, "auto"):
        if os.path.isdir(model_path):  # configurations that are not what the weights need could build without end
            model = read_model(model_path, without)
            if device.type == "cpu" and dtype is None:
                _warn_of_slow_type(model, model_path)
        return None

    model, machine = read_model(_folder(model_path), without), this_machine(device)
    if word in WORDS and is_stored_in(model, word):
        word = None  # that is what it is
        if budget is None:
            return None
    of_language = of_language and budget is not None and word not in WORDS
    if of_language and dtype is None:
        dtype = default_dtypes(model)
    plans = list_plans(model, machine, budget, dtype)
    if word in WORDS:
        plans = of_method(plans, word, model, device.type, str(model_path))
    if of_language:  # it leaves out everything else, as for BMInf
        method = "resident" if model.quantized or model.language_bytes() <= budget else "stream"
        return next(plan for plan in plans if plan.method == method)
    exact = [plan for plan in plans if plan.lossless and plan.in_place and plan.unmapped <= machine.ram]
    if sum(plan.peak <= (budget or machine.ram) for plan in exact) > 1:  # only then seconds decide
        plans = list_plans(model, with_times(machine, model, exact), budget, dtype)
    plan = choose(plans, machine, budget, word is not None, str(model_path))
    logger.info("%s: %s, %s predicted.", model_path, plan.title, shown(plan.peak))
    if not plan.lossless and word == "auto":
        warnings.warn(f"To fit {memory}, weights of {model_path} are quantized: {plan.title}.", stacklevel=4)
    return plan


def _warn_of_slow_type(model, model_path):
    """A word where a large model's stored weights are kept, as they are mapped and lossless, but multiplied slowly."""
    if model.language_parameters >= LARGE and default_dtypes(model)["blocks"] == torch.float16:
        other = fast_dtype(torch.float16)
        if other != torch.float16:
            warnings.warn(
                f"{model_path} is stored in float16, for which this processor has no instructions, so that a token "
                f'takes many times as long: give quantization="int8", or dtype="{str(other).removeprefix("torch.")}" '
                "where there is RAM for it, see `viscpm fit`.",
                stacklevel=5,
            )


def fast_dtype(dtype: torch.dtype) -> torch.dtype:
    """A type that this CPU multiplies in: the given one, else bfloat16, else float32."""
    if dtype not in (torch.float16, torch.bfloat16) or is_multiplied_in(dtype):
        return dtype
    return torch.bfloat16 if is_multiplied_in(torch.bfloat16) else torch.float32


def checked_dtype(dtype: str | torch.dtype | Mapping | None) -> torch.dtype | dict[str, torch.dtype | None] | None:
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
