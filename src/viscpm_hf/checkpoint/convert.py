"""From an original checkpoint to a Hub repository."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from ..remote_code.configuration_viscpm_chat import VisCPMChatConfig
from ..remote_code.image_processing_viscpm_chat import VisCPMChatImageProcessor
from ..remote_code.processing_viscpm_chat import VisCPMChatProcessor
from ..remote_code.tokenization_cpmbee import CpmBeeTokenizer
from . import configs, repo
from .errors import CheckpointError
from .hashing import background_sha256
from .hub import copy_safety_checker
from .keys import CHAT, PLAIN_CPMBEE, Family, Match, check_family, match
from .source import open_checkpoint
from .staging import refuse_existing, require_space, staged
from .stored import StoredTensor
from .weights import WeightFile, shards, size_in_bytes, target_dtype, total_bytes, write_index, write_weights

VARIANTS = ("v1.1", "balance", "zhplus")  # of VisCPM-Chat, as published
SPARE = 64 << 20  # bytes for everything in a repository that is not a weight


def convert_chat(
    checkpoint: str | Path,
    vocab: str | Path,
    output: str | Path,
    *,
    llm_config: str | Path | None = None,
    vision_config: str | Path | None = None,
    dtype: str = "keep",
    max_shard_size: str | int = "5GB",
    variant: str | None = None,
    safety_checker: str | Path | None = None,
    progress: bool = True,
) -> Path:
    """Converts an original VisCPM-Chat checkpoint to a repository for `from_pretrained`.

    Args:
        checkpoint: `.bin`, `.pt` or safetensors file with the original's names.
        vocab: the vocabulary file of CPM-Bee the checkpoint was trained with.
        output: folder to create; it appears only when complete.
        llm_config: the original's JSON for the language model, if it is not the published one.
        vision_config: JSON with torchscale's `EncoderConfig` names and `query_num`, likewise.
        dtype: `"keep"` leaves every byte as it is; or `"float16"`, `"bfloat16"`, `"float32"`.
        max_shard_size: of one weight file, such as `"5GB"`.
        variant: `"v1.1"`, `"balance"` or `"zhplus"`, for the model card.
        safety_checker: folder or Hub repository of an image safety checker to put in.
        progress: whether to show a progress bar on a terminal.

    Returns:
        The folder.

    Raises:
        CheckpointError: one sentence that says what is wrong; nothing is left behind.
    """
    if variant is not None and variant not in VARIANTS:
        raise CheckpointError(f"Got variant {variant!r}, expected one of {', '.join(VARIANTS)}.")
    job = _Job(CHAT, checkpoint, vocab, output, dtype, max_shard_size)
    language = configs.llm_config(job.match.sizes, job.tokenizer, llm_config, scale_down_proj_input=True)
    vision = configs.vision_config(job.match.sizes, vision_config)
    config = VisCPMChatConfig(text_config=language, vision_config=vision, image_token_id=language.unk_token_id)
    processor = VisCPMChatProcessor(
        VisCPMChatImageProcessor(size=vision.image_size), job.tokenizer, query_num=vision.query_num
    )

    def write_rest(folder: Path, dtype: torch.dtype) -> None:
        processor.save_pretrained(folder)
        repo.write_config(folder, config, language, repo.CHAT_AUTO_MAP, repo.CHAT_GENERATION, dtype)
        repo.copy_code(folder, repo.CHAT_CODE)
        if safety_checker is not None:
            copy_safety_checker(str(safety_checker), folder / "safety_checker")
        name = f"VisCPM-Chat {variant}" if variant else "VisCPM-Chat"
        repo.write_card(folder, "viscpm_chat.md", name=name, dtype=_name(dtype), source=job.checkpoint.name)

    return job.run(write_rest, progress, variant=variant)


def convert_cpmbee(
    checkpoint: str | Path,
    vocab: str | Path,
    output: str | Path,
    *,
    llm_config: str | Path | None = None,
    dtype: str = "keep",
    max_shard_size: str | int = "5GB",
    progress: bool = True,
) -> Path:
    """Converts an original CPM-Bee checkpoint, a text model; arguments, result and errors as in [`convert_chat`]."""
    job = _Job(PLAIN_CPMBEE, checkpoint, vocab, output, dtype, max_shard_size)
    config = configs.llm_config(job.match.sizes, job.tokenizer, llm_config, scale_down_proj_input=False)

    def write_rest(folder: Path, dtype: torch.dtype) -> None:
        job.tokenizer.save_pretrained(folder)
        repo.write_config(folder, config, config, repo.CPMBEE_AUTO_MAP, repo.CPMBEE_GENERATION, dtype)
        repo.copy_code(folder, repo.CPMBEE_CODE)
        repo.write_card(folder, "cpmbee.md", dtype=_name(dtype), source=job.checkpoint.name)

    return job.run(write_rest, progress)


class _Job:
    """A conversion: everything is checked when it is made, everything is written when it runs."""

    def __init__(self, family: Family, checkpoint, vocab, output, dtype: str, max_shard_size):
        self.family, self.checkpoint, self.output = family, Path(checkpoint), Path(output)
        self.dtype, limit = target_dtype(dtype), size_in_bytes(max_shard_size)
        refuse_existing(self.output)
        self.tensors = open_checkpoint(self.checkpoint)
        check_family(family, self.tensors, self.checkpoint)
        self.match = match(family, self.tensors, self.checkpoint)
        self.tokenizer = _tokenizer(Path(vocab))
        by_offset = sorted(self.tensors, key=lambda name: self.tensors[name].offset)
        names = self.match.names
        used = {names[name]: self.tensors[name] for name in by_offset if name in names}
        self.files = shards(used, "model", self.dtype, limit)
        unused = {name: self.tensors[name] for name in by_offset if name not in names}
        self.extra = [WeightFile(repo.UNUSED, unused)] if unused else []
        require_space(self.output.absolute().parent, total_bytes(self.files + self.extra, self.dtype) + SPARE)

    def run(self, write_rest: Callable[[Path, torch.dtype], None], progress: bool, **fields) -> Path:
        dtype = self.dtype or _most_common_dtype(self.tensors, self.match)
        with staged(self.output) as folder, background_sha256(self.checkpoint) as sha256:
            folder.mkdir()
            write_rest(folder, dtype)
            write_weights(folder, self.files + self.extra, self.dtype, progress)
            if len(self.files) > 1:
                write_index(folder, "model", self.files, self.dtype)
            fields = {"family": self.family.name, "dtype": _name(self.dtype) if self.dtype else "keep", **fields}
            repo.write_report(folder, self.checkpoint, sha256.result(), self.tensors, self.match, **fields)
        return self.output


def _tokenizer(vocab: Path) -> CpmBeeTokenizer:
    if not vocab.is_file():
        raise CheckpointError(f"There is no file {vocab}; give --vocab the vocabulary file of CPM-Bee.")
    try:
        return CpmBeeTokenizer(vocab_file=str(vocab))
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def _most_common_dtype(tensors: Mapping[str, StoredTensor], found: Match) -> torch.dtype:
    """The type most of the language model's bytes have."""
    bytes_of = {}
    for name, component in found.components.items():
        if component == "language_model":
            bytes_of[tensors[name].dtype] = bytes_of.get(tensors[name].dtype, 0) + tensors[name].nbytes
    return max(bytes_of, key=bytes_of.get)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
