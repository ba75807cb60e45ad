"""Rows with questions."""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from ...safety import UnsafeContentError
from ..engine import Engine, Question, Sampling
from .rows import ANSWER, Result, text_of

_MOST = 100_000  # more would be tokenized for minutes, while other rows wait; the model reads 3000 tokens


class ChatRows:
    """Answers rows with `question` (or LLaVA's `text`), and perhaps `image` and `context`.

    Args:
        engine (`Engine`): with a Chat.
        open_picture (`Callable`): a file's picture; ValueError if it is none.
        images (`Path`): folder that names of pictures are relative to.
        sampling (`Sampling`): for all; with a seed, each row has its own, which is the seed plus the row's number.
    """

    def __init__(
        self,
        engine: Engine,
        open_picture: Callable[[str | os.PathLike], Image.Image],
        images: Path,
        sampling: Sampling,
    ):
        self.engine, self.open_picture, self.images, self.sampling = engine, open_picture, images, sampling

    async def __call__(self, number: int, fields: Mapping[str, Any]) -> Result:
        question = text_of(fields, "question", text_of(fields, "text"))
        if question is None or not question.strip():
            raise ValueError("The row has no question: give one as a text under question.")
        context, image = text_of(fields, "context", ""), text_of(fields, "image")
        if (length := len(question) + len(context)) > _MOST:
            raise ValueError(f"Got {length} characters as question and context, expected at most {_MOST}.")
        if image is not None and not image.strip():
            raise ValueError("Got an empty image: give a file's name, or leave it out.")
        picture = None if image is None else await asyncio.to_thread(self.open_picture, self.images / image)
        seed = self.sampling.seed
        sampling = self.sampling if seed is None else replace(self.sampling, seed=(seed + number) % 2**64)
        try:
            (answer,) = await self.engine.answer(Question(question, picture, context, sampling))
        except UnsafeContentError as error:  # which names an argument of the class
            raise ValueError("The image safety checker refused the picture.") from error
        except ValueError as error:  # so may this one
            raise ValueError(str(error).partition(", or raise max_length")[0]) from error
        return Result({name: getattr(answer, name) for name in ANSWER})
