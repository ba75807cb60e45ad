"""From an original VisCPM-Chat checkpoint to a Hub repository."""

from pathlib import Path

import torch

from ..remote_code.configuration_viscpm_chat import VisCPMChatConfig
from ..remote_code.image_processing_viscpm_chat import VisCPMChatImageProcessor
from ..remote_code.processing_viscpm_chat import VisCPMChatProcessor
from . import repo
from .cards import write_card
from .errors import CheckpointError
from .job import Job, dtype_name
from .layout import configs
from .layout.keys import CHAT
from .parts import chat_safety_checker

VARIANTS = ("v1.1", "balance", "zhplus")  # of VisCPM-Chat, as published


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
    job = Job(checkpoint, vocab, output, dtype, max_shard_size)
    job.fit(CHAT)
    language = configs.llm_config(job.match.sizes, job.tokenizer, llm_config, scale_down_proj_input=True)
    vision = configs.vision_config(job.match.sizes, vision_config)
    config = VisCPMChatConfig(text_config=language, vision_config=vision, image_token_id=language.unk_token_id)
    processor = VisCPMChatProcessor(
        VisCPMChatImageProcessor(size=vision.image_size), job.tokenizer, query_num=vision.query_num
    )
    if safety_checker is not None:
        job.parts = [chat_safety_checker(str(safety_checker))]

    def write_rest(folder: Path, dtype: torch.dtype) -> None:
        processor.save_pretrained(folder)
        repo.write_config(folder, config, repo.CHAT_AUTO_MAP, dtype)
        repo.write_generation_config(folder, language, repo.CHAT_GENERATION)
        repo.copy_code(folder, repo.CHAT_CODE)
        name = f"VisCPM-Chat {variant}" if variant else "VisCPM-Chat"
        write_card(folder, "viscpm_chat.md", name=name, dtype=dtype_name(dtype), source=job.checkpoint.name)

    return job.run(write_rest, progress, variant=variant)
