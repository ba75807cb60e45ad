"""CLIP score, Hessel et al. 2021: how well pictures go with their prompts, by CLIP or Chinese-CLIP."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoConfig, AutoModel, AutoProcessor

from ..checkpoint.errors import CheckpointError, first_line
from ..language import say
from .fid import open_picture

KINDS = ("clip", "chinese_clip")  # model types


def require_clip(path: str | os.PathLike) -> None:
    """Stops, before days of painting, where there is no CLIP.

    Raises:
        CheckpointError: there is none, or another model.
    """
    try:
        kind = AutoConfig.from_pretrained(path).model_type
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is not a CLIP that can be loaded ({first_line(error)}).") from error
    if kind not in KINDS:
        raise CheckpointError(f"{path} holds a {kind}, expected one of {', '.join(KINDS)}.")


class ClipScore:
    """A CLIP or Chinese-CLIP of transformers.

    Args:
        path (`str` or `Path`): its folder or Hub repository.
        device (`torch.device`): where to run.

    Raises:
        CheckpointError: there is none.
    """

    def __init__(self, path: str | os.PathLike, device: torch.device):
        require_clip(path)
        try:
            self.processor = AutoProcessor.from_pretrained(path)
            self.model = AutoModel.from_pretrained(path, dtype=torch.float32).to(device).eval()
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{path} is not a CLIP that can be loaded ({first_line(error)}).") from error

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], paths: Sequence[Path], batch_size: int = 32) -> list[float]:
        """The score of each picture with its prompt: 100 · cosine, at least 0."""
        scores = []
        with tqdm(total=len(paths), desc=say("CLIP score", "CLIP 分数"), leave=False, disable=None) as bar:
            for start in range(0, len(paths), batch_size):
                batch = slice(start, start + batch_size)
                inputs = self.processor(
                    text=list(prompts[batch]),
                    images=[open_picture(path) for path in paths[batch]],
                    padding=True,
                    truncation=True,
                    max_length=self.model.config.text_config.max_position_embeddings,
                    return_tensors="pt",
                ).to(self.model.device)
                outputs = self.model(**inputs)
                cosine = torch.cosine_similarity(outputs.image_embeds, outputs.text_embeds)
                scores += (100 * cosine).clamp(min=0).tolist()
                bar.update(len(scores) - start)
        return scores
