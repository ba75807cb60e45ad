"""Comparing a converted repository with its checkpoint, byte for byte."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ..language import say
from .files.source import open_checkpoint
from .files.stored import StoredTensor, opened
from .files.weights import pieces_as, progress_bar, target_dtype
from .layout.keys import check_family, match
from .layout.prefixes import without_prefixes
from .repo import CONVERSION, family_of, read_json, read_repo, require_original_weights


@dataclass
class ComponentResult:
    """How one part of a model compares.

    Args:
        tensors: compared or missing.
        nbytes: in the checkpoint.
        differences: a phrase for each tensor that is not as it should be.
    """

    tensors: int = 0
    nbytes: int = 0
    differences: list[str] = field(default_factory=list)


def verify(checkpoint: str | Path, repo: str | Path, progress: bool = True) -> dict[str, ComponentResult]:
    """Compares every tensor of a checkpoint with the repository made from it.

    A repository converted with `--dtype` must hold the cast of every tensor, otherwise exactly its bytes.

    Args:
        checkpoint: the original.
        repo: the converted repository.
        progress: whether to show a progress bar on a terminal.

    Returns:
        Result by part of the model; tensors the model does not use are the part `unused`, and what only the repository
        has is the part `surplus`.

    Raises:
        CheckpointError: one of the two cannot be read or changes meanwhile, or they are of different kinds.
    """
    checkpoint, repo = Path(checkpoint), Path(repo)
    require_original_weights(repo)
    family = family_of(repo)
    source, _ = without_prefixes(open_checkpoint(checkpoint))
    check_family(family, source, checkpoint, repo)
    found = match(family, source, checkpoint)
    converted = read_repo(repo, family)
    cast = target_dtype(str(read_json(repo, CONVERSION).get("dtype", "keep")))
    results: dict[str, ComponentResult] = {}
    with progress_bar(sum(tensor.nbytes for tensor in source.values()), progress) as bar:
        for name, tensor in source.items():
            result = results.setdefault(found.components.get(name, "unused"), ComponentResult())
            dtype = cast if cast is not None and tensor.dtype.is_floating_point else tensor.dtype
            copy = converted.pop(found.names.get(name, name), None)
            difference = say("is missing", "缺失") if copy is None else _difference(name, tensor, dtype, copy)
            if difference:
                result.differences.append(f"{name} {difference}")
            result.tensors += 1
            result.nbytes += tensor.nbytes
            bar.update(tensor.nbytes)
    if converted:
        surplus = [f"{name} {say('is not in the checkpoint', '不在检查点中')}" for name in converted]
        nbytes = sum(tensor.nbytes for tensor in converted.values())
        results["surplus"] = ComponentResult(len(converted), nbytes, surplus)
    return results


def _difference(name: str, tensor: StoredTensor, dtype: torch.dtype, copy: StoredTensor) -> str | None:
    if (copy.dtype, copy.shape) != (dtype, tensor.shape):
        got, wanted = f"{copy.dtype} {list(copy.shape)}", f"{dtype} {list(tensor.shape)}"
        return say(f"is {got} instead of {wanted}", f"是 {got}，应为 {wanted}")
    with opened(copy) as file:
        file.seek(copy.offset)
        for piece in pieces_as(name, tensor, dtype):
            if not np.array_equal(np.frombuffer(piece, np.uint8), np.frombuffer(file.read(len(piece)), np.uint8)):
                return say("has other values", "的数值不同")
