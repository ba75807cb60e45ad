"""What `viscpm quantize` is given, checked before hours of work begin."""

import os
import random
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.errors import CheckpointError, first_line, listed
from ..checkpoint.files.disk import Identity, identity, open_regular, read_small, require_unchanged
from ..checkpoint.files.json_file import named, quoted, read_json_file
from ..checkpoint.files.sizes import shown
from ..checkpoint.repo import INDEX, OPTIONAL_PAINT_PARTS, PAINT_PARTS, UNUSED, read_json
from ..remote_code.modeling_cpmbee import CpmBeeModel
from ..remote_code.tokenization_cpmbee import CpmBeeTokenizer
from .machine import default_device, physical_memory

BATCH = 8  # prompts that are computed at once
MOST_PROMPTS, MOST_TOKENS = 10_000, 512  # of a prompt; both far beyond what the fit gains by

# of parts that are no models: one of these files; a model has config.json
CONFIGS = {
    "tokenizer": ("tokenizer_config.json",),
    "scheduler": ("scheduler_config.json",),
    "feature_extractor": ("preprocessor_config.json",),
    "prompt_checker_tokenizer": ("tokenizer_config.json", "tokenizer.json", "vocab.txt"),
    "ranker_processor": ("processor_config.json", "preprocessor_config.json"),
}
WEIGHTS = (".safetensors", ".bin")


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
    return _loaded(CpmBeeTokenizer, model_path / "tokenizer", model_path / "tokenizer")


def load_exact(folder: Path, original: Path) -> CpmBeeModel:
    """The exact language model, mapped from its files; CheckpointError if it does not load or lacks weights.

    Args:
        folder: to load from.
        original: what `folder` is a copy of, for messages.
    """
    model, found = load_model(folder, original)
    if lacking := [*found["missing_keys"], *found["mismatched_keys"]]:
        raise CheckpointError(f"{original} lacks {listed(lacking)}; convert the checkpoint again.")
    return model.eval()


def load_model(folder: Path, original: Path, **options: Any) -> tuple[CpmBeeModel, dict]:
    """A language model and what is to be said of its loading; arguments and errors as for `load_exact`."""
    return _loaded(CpmBeeModel, folder, original, dtype="auto", output_loading_info=True, **options)


def _loaded(kind, folder, original, **options):
    try:
        return kind.from_pretrained(folder, **options)
    except (ImportError, MemoryError, torch.OutOfMemoryError):  # not the folder's fault
        raise
    except Exception as error:  # whatever the libraries make of odd files
        raise CheckpointError(
            f"{original} does not load ({first_line(error)}); convert the checkpoint again."
        ) from error


def identities(folder: Path) -> dict[Path, Identity]:
    """The files of a repository that are copied, also where a link leads unless back; none in hidden folders.

    What only the way back to the original checkpoint needs is left out.

    Raises:
        CheckpointError: something there is neither a folder nor a regular file.
    """
    found = {}
    for path in _files(folder):
        if path != folder / UNUSED:
            with open_regular(path) as file:
                found[path] = identity(file)
    return found


def _files(folder, above=()):
    real = folder.resolve()
    for path in sorted(folder.iterdir()) if real not in above else ():
        if not path.is_dir():
            yield path
        elif not path.name.startswith("."):  # such as .git
            yield from _files(path, (*above, real))


def copy_unchanged(path: Path, target: Path, seen: Identity) -> None:
    """Copies a file, not its mode: what is read-only there is to be changed here.

    Raises:
        CheckpointError: the file is not what was seen, or changes meanwhile.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_regular(path) as file, open(target, "xb") as copy:
        require_unchanged(file, path, seen)
        shutil.copyfileobj(file, copy, 16 << 20)
        require_unchanged(file, path, seen)


def require_parts(folder: Path, files: Collection[Path]) -> None:
    """CheckpointError for a Paint repository that lacks the configuration or the weights of a part it names."""
    index = read_json(folder, INDEX)
    for part in (*PAINT_PARTS, *OPTIONAL_PAINT_PARTS):
        if index.get(part, [None])[0] is None:
            continue
        wanted = CONFIGS.get(part, ("config.json",))
        there = [folder / part / name for name in wanted if folder / part / name in files]
        if not there:
            raise CheckpointError(f"{folder} has no {part}/{wanted[0]}; convert the checkpoint again.")
        if there[0].name.endswith("config.json"):
            read_json_file(there[0])
        if part not in CONFIGS and not any(path.parent == folder / part and path.suffix in WEIGHTS for path in files):
            raise CheckpointError(f"{folder / part} has no weight files; convert the checkpoint again.")


def require_moderate(
    prompts: Sequence[str], tokenizer: CpmBeeTokenizer, language: Mapping, device: torch.device
) -> None:
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
