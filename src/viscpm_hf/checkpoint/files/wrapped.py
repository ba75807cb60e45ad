"""What training programs put around a checkpoint: dicts of other things."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

from ..errors import CheckpointError, listed, pasted
from .pickled import Global, Made, Pairs

TENSOR_MAKERS = {("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter")}
NEWER_TENSOR_MAKER = ("torch._utils", "_rebuild_tensor_v3")  # for types that came after the storage classes
DEPTH = 3  # of dicts in dicts that are looked into
FEW = 10  # times fewer tensors than in a state dict may lie beside it, such as a loss or a generator's state
FRAGMENTS = "frozen_param_fragments"  # DeepSpeed has the frozen ones a second time, or of ZeRO-3 slices of them
MAX_KEY = 200  # characters of a key on the way to the state dict


def is_tensor(value: object) -> bool:
    """Whether unpickling would make a tensor of it."""
    return isinstance(value, Made) and _name(value.function) in TENSOR_MAKERS


def find_state_dict(value: object, path: Path) -> tuple[list[tuple], str]:
    """The state dict a checkpoint holds, by itself or in dicts of other things such as `{"model": …, "epoch": 3}`.

    Args:
        value: what the pickle describes.
        path: for messages.

    Returns:
        Names and values, and the keys it lies under, with dots between them.

    Raises:
        CheckpointError: there is none, or it is not clear which one is meant.
    """
    if isinstance(value, Made):
        raise not_plain(value, path)
    if not isinstance(value, Pairs):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected a state dict of names and tensors.")
    _refuse_parts(value, path)
    inner = list(_inner(value, (), set()))
    if not inner or max(_tensors(found) for _, found in inner) < FEW * _tensors(value):
        return value.pairs, ""
    if len(inner) > 1:
        where = listed((f"{'.'.join(keys)!r} ({_tensors(found)} tensors)" for keys, found in inner), 5)
        raise CheckpointError(f"{path} holds several state dicts, {where}; {_alone(path, inner[0][0])}")
    ((keys, found),) = inner
    return found.pairs, ".".join(keys)


def not_plain(value: Made, path: Path) -> CheckpointError:
    """The error for something in the place of a tensor, or of all of them."""
    while isinstance(value.function, Made):
        value = value.function
    if _name(value.function) == NEWER_TENSOR_MAKER:
        return CheckpointError(
            f"{path} holds numbers in a type that no release has, such as float8_e4m3fn; give the checkpoint it was "
            "made from, or save it anew in bfloat16."
        )
    return CheckpointError(
        f"{path} holds more than names and tensors: loading it would need {'.'.join(_name(value.function))[:200]}; "
        "nothing was executed, and only checkpoints of plain tensors can be converted."
    )


def _name(function) -> tuple[str, str]:
    return (function.module, function.name) if isinstance(function, Global) else ("something", "computed")


def _tensors(value: Pairs) -> int:
    return sum(is_tensor(item) for _, item in value.pairs)


def _inner(value: Pairs, above: tuple[str, ...], seen: set[int]) -> Iterator[tuple[tuple[str, ...], Pairs]]:
    """Dicts in a dict that hold mostly tensors, and their keys; an optimizer's are not meant."""
    for key, item in value.pairs:
        if not isinstance(key, str) or not isinstance(item, Pairs) or id(item) in seen:
            continue
        seen.add(id(item))
        if len(key) > MAX_KEY or "optim" in key or key == FRAGMENTS or len(above) == DEPTH:
            continue
        if 2 * _tensors(item) > len(item.pairs):
            yield (*above, key), item
        else:
            yield from _inner(item, (*above, key), seen)


def _alone(path: Path, keys: tuple[str, ...]) -> str:
    inside = "".join(f"[{json.dumps(key)}]" for key in keys)
    code = f'import sys, torch; torch.save(torch.load(sys.argv[1], "cpu", weights_only=True){inside}, "w.bin")'
    return f"save one alone, for instance: python -c {shlex.quote(code)} {pasted(path)}"


def _refuse_parts(value: Pairs, path: Path) -> None:
    """Says what a file of a training program is if the weights lie elsewhere."""
    values = {key: item for key, item in value.pairs if isinstance(key, str)}
    if {"optimizer_state_dict", "ds_version"} <= values.keys():
        raise CheckpointError(
            f"{path} is the optimizer's part of a DeepSpeed checkpoint; give mp_rank_00_model_states.pt beside it, or "
            "what the script zero_to_fp32.py there makes."
        )
    if {"state", "param_groups"} <= values.keys():
        raise CheckpointError(f"{path} is an optimizer's state; give the file with the model's weights.")
    parts = values.get("mp_world_size", 1)
    if isinstance(parts, int) and 1 < parts < 10**6:
        raise CheckpointError(
            f"{path} is one of {parts} parts of a DeepSpeed checkpoint, each with a slice of the tensors; join them "
            "and give the whole."
        )
