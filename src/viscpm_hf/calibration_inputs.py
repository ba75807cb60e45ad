"""What `viscpm quantize` is given, checked before hours of work begin."""

import os
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from .checkpoint.errors import CheckpointError, listed
from .checkpoint.files_on_disk import read_small
from .checkpoint.hub import first_line
from .checkpoint.json_file import named, quoted
from .memory import default_device, physical_memory, shown
from .remote_code.modeling_cpmbee import CpmBeeModel
from .remote_code.tokenization_cpmbee import CpmBeeTokenizer

BATCH = 8  # prompts that are computed at once
MOST_PROMPTS, MOST_TOKENS = 10_000, 512  # of a prompt; both far beyond what the fit gains by


def read_prompts(path: str | os.PathLike, count: int) -> list[str]:
    """Lines drawn from a text file, the same at every call.

    Args:
        path: of a text in UTF-8, with a prompt on each line.
        count: how many to draw; all if there are fewer.

    Raises:
        CheckpointError: it is no such file, or `count` is out of range.
    """
    if not 1 <= count <= MOST_PROMPTS:
        raise CheckpointError(f"Got --samples {quoted(count)}, expected from 1 to {MOST_PROMPTS}.")
    try:
        lines = read_small(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not a text in UTF-8; give one with a prompt on each line.") from error
    prompts = [line for line in lines if line.strip()]
    return random.Random(0).sample(prompts, min(count, len(prompts)))


def encoded(tokenizer: CpmBeeTokenizer, text: str) -> dict:
    """A prompt as the pipeline puts it."""
    return tokenizer.encode_data({"caption": tokenizer.escape(text), "objects": ""})


def chosen_device(device: torch.device | str | None) -> torch.device:
    """The device to compute on, CUDA if there is one by default; CheckpointError if it is not here."""
    with suppress(RuntimeError):  # torch knows no such device
        device = torch.device(device or default_device())
    kind = getattr(device, "type", None)
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        raise CheckpointError(
            f"There is no {named(str(device))} to compute on here; give cpu, or cuda where there is a GPU."
        )
    return device


def load_tokenizer(model_path: Path) -> CpmBeeTokenizer:
    """The tokenizer of a Paint repository; CheckpointError if it does not load."""
    return _loaded(CpmBeeTokenizer, model_path / "tokenizer")


def load_exact(model_path: Path) -> CpmBeeModel:
    """The exact language model, mapped from its files; CheckpointError if it does not load or lacks weights."""
    model, found = _loaded(CpmBeeModel, model_path / "text_encoder", dtype="auto", output_loading_info=True)
    if lacking := [*found["missing_keys"], *found["mismatched_keys"]]:
        raise CheckpointError(f"{model_path}/text_encoder lacks {listed(lacking)}; convert the checkpoint again.")
    return model.eval()


def _loaded(kind, folder, **options):
    try:
        return kind.from_pretrained(folder, **options)
    except Exception as error:  # whatever the libraries make of odd files
        raise CheckpointError(
            f"{folder} does not load ({first_line(error)}); convert the checkpoint again."
        ) from error


def require_moderate(prompts: Sequence[str], tokenizer: CpmBeeTokenizer, language: Mapping, device: torch.device):
    """CheckpointError for prompts that are longer than captions are, or more than there is memory for.

    Args:
        prompts: to fit to.
        tokenizer: of the model.
        language: sizes of the model.
        device: to compute on.
    """
    lengths = []
    for text in prompts:
        shortened = text[: 50 * MOST_TOKENS]  # of which as many tokens would be long words indeed
        lengths.append(len(encoded(tokenizer, shortened)["input_ids"]))
        if lengths[-1] > MOST_TOKENS or shortened != text:
            raise CheckpointError(
                f"Got a prompt of {len(text)} characters, {quoted(text)}, expected at most {MOST_TOKENS} tokens; "
                "shorten it or leave it out."
            )
    needed = 0
    for start in range(0, len(lengths), BATCH):
        batch = lengths[start : start + BATCH]
        # the states of both models and of one block on the way; the bias of attention
        row = 4 * max(batch) * (3 * language["hidden_size"] + language["num_attention_heads"] * max(batch))
        needed += (len(batch) + 1) * row
    there = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else physical_memory()
    if needed > there:
        raise CheckpointError(
            f"{len(prompts)} prompts of up to {max(lengths)} tokens need {shown(needed)} of memory, {device} has "
            f"{shown(there)}; give fewer or shorter ones."
        )
