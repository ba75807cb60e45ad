"""From an original CPM-Bee checkpoint, a text model, to a Hub repository."""

from pathlib import Path

import torch

from . import repo
from .cards import write_card
from .job import Job, dtype_name
from .layout import configs
from .layout.keys import PLAIN_CPMBEE


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
    """Converts an original CPM-Bee checkpoint, a text model; arguments, result and errors as in `convert_chat`."""
    job = Job(checkpoint, vocab, output, dtype, max_shard_size)
    job.fit(PLAIN_CPMBEE)
    config = configs.llm_config(job.match.sizes, job.tokenizer, llm_config, scale_down_proj_input=False)

    def write_rest(folder: Path, dtype: torch.dtype) -> None:
        job.tokenizer.save_pretrained(folder)
        repo.write_config(folder, config, repo.CPMBEE_AUTO_MAP, dtype)
        repo.write_generation_config(folder, config, repo.CPMBEE_GENERATION)
        repo.copy_code(folder, repo.CPMBEE_CODE)
        write_card(folder, "cpmbee.md", dtype=dtype_name(dtype), source=job.checkpoint.name)

    return job.run(write_rest, progress)
