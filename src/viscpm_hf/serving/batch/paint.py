"""Rows with prompts."""

import io
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from PIL.PngImagePlugin import PngInfo

from ... import __version__
from ...checkpoint.files.json_file import quoted
from ...paint import CHINESE
from ...safety import UnsafeContentError
from ..engine import Engine, Prompt
from .rows import Result, text_of


class PaintRows:
    """Paints rows with `prompt`, and perhaps `negative_prompt`, `seed`, `size`, `steps`, `guidance`, `candidates`.

    Args:
        engine (`Engine`): with a Paint.
        seed (`int`): of a row without one, plus the row's number.
        settings (`dict`): of rows that do not say otherwise: `negative_prompt`, `size`, `steps`, `guidance`,
            `candidates`.
        about (`dict`): for the text chunks of every picture, by name.
    """

    def __init__(self, engine: Engine, seed: int, settings: Mapping[str, Any], about: Mapping[str, Any]):
        self.engine, self.seed, self.settings, self.about = engine, seed, settings, about

    async def __call__(self, number: int, fields: Mapping[str, Any]) -> Result:
        fields = {**self.settings, **{name: value for name, value in fields.items() if value is not None}}
        text = text_of(fields, "prompt")
        if text is None or not text.strip():
            raise ValueError("The row has no prompt: give one as a text under prompt.")
        width, height = _size(fields.get("size"))
        prompt = Prompt(
            text,
            text_of(fields, "negative_prompt", ""),
            seed=_number(fields, "seed", 0, 2**64 - 1, (self.seed + number) % 2**64),
            steps=_number(fields, "steps", 1, 1000),
            guidance=_number(fields, "guidance", -1000, 1000, kinds=(int, float)),
            width=width,
            height=height,
            # the ranker, which knows Chinese only, is left out for other prompts
            candidates=_number(fields, "candidates", 1, 64) if CHINESE.search(text) else None,
        )
        try:
            (painted,) = await self.engine.paint(prompt)
        except UnsafeContentError as error:  # which names an argument of the class
            raise ValueError("The prompt checker refused the prompt.") from error
        information = PngInfo()
        about = {name.replace("_", " "): value for name, value in asdict(prompt).items() if value not in (None, "")}
        for name, value in {"Software": f"viscpm-hf {__version__}", **about, **self.about}.items():
            information.add_itxt(name, str(value))  # not tEXt, which has Latin letters only
        data = io.BytesIO()
        painted.image.save(data, "PNG", pnginfo=information)
        blackened = {"blackened": True} if painted.blackened else {}
        return Result({"seed": painted.seed, **blackened}, data.getvalue())


def _number(fields, name, least, most, default=None, kinds=(int,)):
    value = fields.get(name, default)
    if value is not None and (type(value) not in kinds or not least <= value <= most):
        kind = "whole number" if kinds == (int,) else "number"
        raise ValueError(f"Got {name}={quoted(value)}, expected a {kind} from {least} to {most}.")
    return value


def _size(value):
    """Width and height of `"512x512"`, of 512 for a square, or of both in a list."""
    if value is None:
        return None, None
    sides = value if isinstance(value, list | tuple) else re.split("[xX×*]", str(value))
    sides = [str(side).strip() for side in sides]
    if not 1 <= len(sides) <= 2 or not all(re.fullmatch(r"[0-9]{1,6}", side) for side in sides):
        raise ValueError(f'Got size={quoted(value)}, expected width and height in pixels such as "512x512".')
    return int(sides[0]), int(sides[-1])
