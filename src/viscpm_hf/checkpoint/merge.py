"""From a converted repository and a LoRA adapter to a repository without one."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from . import repo
from .adapter import Adapter, load, read_adapter
from .errors import CheckpointError
from .files.json_file import read_json_file
from .files.safetensors_file import read_safetensors, read_weights
from .files.sizes import parse_size
from .files.staging import refuse_existing, require_space, staged
from .files.stored import StoredTensor, read_pieces
from .files.weights import WeightFile, shards, target_dtype, total_bytes, write_index, write_weights

STEM = "model"
SPARE = 64 << 20  # bytes for everything in a repository that is not a weight
NOT_COPIED = (
    *(f"{STEM}.safetensors*", f"{STEM}-*.safetensors", repo.UNUSED, "*.bin", "*.pt", "*.pth", ".*"),
    *("checkpoint-*", "runs", "trainer_state.json", "finetune.json", "left_out.jsonl", "answers.jsonl"),
)
CARD = """
## Fine-tuned

A LoRA, `{}`, was merged into these weights with `viscpm merge`: what is said above of the original's weights does not
hold for them.

这些权重由 `viscpm merge` 合并了 LoRA `{}`，上文关于原版权重的说明对其不再适用。
"""


def merge_adapter(
    model: str | Path,
    adapter: str | Path,
    output: str | Path,
    *,
    dtype: str = "keep",
    max_shard_size: str | int = "5GB",
    progress: bool = True,
) -> Path:
    """Writes a repository whose weights are those of another with a LoRA added to them.

    The sums are computed in float32 and stored in the type that the weight has; one matrix is in memory at a time.

    Args:
        model: converted VisCPM-Chat or CPM-Bee, not quantized: of a QLoRA what its 4-bit weights were made of.
        adapter: folder of a peft adapter, or a Hub repository.
        output: folder to create; it appears only when complete.
        dtype: of the weights, `"keep"` for what each has; `"float16"`, `"bfloat16"` or `"float32"`.
        max_shard_size: of one weight file.
        progress: whether to show a progress bar on a terminal.

    Returns:
        The folder.

    Raises:
        CheckpointError: one sentence that says what is wrong; nothing is left behind.
    """
    model, output = Path(model), Path(output)
    cast, limit = target_dtype(dtype), parse_size(max_shard_size, "the size of a shard")
    refuse_existing(output)
    if repo.kind_of(model) == repo.PAINT.model_type:
        raise CheckpointError(
            f"{model} is a VisCPM-Paint, whose LoRA the pipeline merges: pipe.load_lora_weights(…), pipe.fuse_lora(), "
            "pipe.unload_lora_weights(), pipe.save_pretrained(…)."
        )
    if repo.is_quantized(model):
        raise CheckpointError(
            f"{model} is quantized, and nothing can be added to quantized weights: give what it was made of."
        )
    opened = read_adapter(adapter)
    tensors = read_weights(model, STEM)
    opened.check({name: tensor.shape for name, tensor in tensors.items()}, model)
    changed = {(tensor.path, tensor.offset): name for name, tensor in tensors.items() if name in set(opened.names)}
    sources = {
        # what the reader gives for it is cast already, once
        name: replace(tensor, dtype=cast or tensor.dtype) if name in set(opened.names) else tensor
        for name, tensor in tensors.items()
    }

    def read(tensor: StoredTensor) -> Iterator[memoryview]:
        name = changed.get((tensor.path, tensor.offset))
        if name is None:
            yield from read_pieces(tensor)
        else:
            merged = opened.merged(name, load(tensors[name]), tensor.dtype)
            yield memoryview(merged.view(torch.uint8).flatten().numpy())

    files = shards(sources, STEM, cast, limit)
    unused = read_safetensors(model / repo.UNUSED) if (model / repo.UNUSED).exists() else {}
    rest = [WeightFile(repo.UNUSED, unused, cast)] if unused else []
    require_space(output.absolute().parent, total_bytes(files + rest) + SPARE)
    with staged(output) as folder:
        folder.mkdir()
        copy_rest(model, folder)
        write_weights(folder, files + rest, progress, read)
        if len(files) > 1:
            write_index(folder, STEM, files)
        _describe(folder, opened, cast, dtype)
    return output


def copy_rest(model: Path, folder: Path, but: Sequence[str] = NOT_COPIED) -> None:
    """Copies a repository but its weights, and but what a training run leaves beside its result.

    Args:
        model: of the repository.
        folder: that exists; it may be within the other.
        but: patterns of names that are left out at the root.
    """
    ignored, aside = shutil.ignore_patterns(*but), folder.resolve()

    def ignore(place, names):
        own = {name for name in names if (Path(place) / name).resolve() == aside}
        return own | (ignored(place, names) if Path(place) == model else set())

    shutil.copytree(model, folder, ignore=ignore, dirs_exist_ok=True)


def _describe(folder: Path, adapter: Adapter, cast: torch.dtype | None, dtype: str) -> None:
    """What card, config.json and conversion.json say of the merger."""
    card = folder / repo.CARD
    if card.exists():
        with open(card, "a", encoding="utf-8") as file:
            name = adapter.path.name.replace("`", "'")
            file.write(CARD.format(name, name))
    report = repo.read_json(folder, repo.CONVERSION)
    if report:
        with open(adapter.file, "rb") as file:
            merged = {"adapter": adapter.path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        report |= {"merged": [*report.get("merged", []), merged]} | ({"dtype": dtype} if cast else {})
        (folder / repo.CONVERSION).write_bytes(repo.report_text(report))
    if cast is not None:
        config = read_json_file(folder / "config.json") | {"dtype": dtype}
        (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
