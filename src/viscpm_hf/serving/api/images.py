"""`/v1/images/generations`: Paint, as OpenAI's clients ask for pictures."""

import asyncio
import base64
import io
import math
import re
import time
from typing import Annotated, Literal

import torch
from fastapi import Body, FastAPI, Request
from pydantic import AfterValidator, BaseModel, Field, WithJsonSchema

from ..engine import Engine, Painted, Prompt
from .errors import ApiError, check_model, quoted
from .examples import PAINT
from .hangups import running
from .messages import Strict, Text, integer, only, text

_LARGER = 16  # times the model's own size: more takes hours, and no model has learned it


_SIZE = r"^(auto|[0-9]{1,6}x[0-9]{1,6})$"
# the model has learned captions; what it cross-attends to grows with the text in each step
_CHARACTERS = 1000


def _spelled(size: str) -> str:
    if not re.fullmatch(_SIZE, size):
        raise ValueError(f"got {quoted(size)}, expected 'auto' or WIDTHxHEIGHT such as '512x512'")
    return size


class ImagesRequest(Strict):
    """A prompt. Fields of OpenAI's that have no meaning here may have the values that ask for nothing."""

    prompt: text(min_length=1, max_length=_CHARACTERS) = Field(description="What to paint, in Chinese or English.")
    model: str | None = Field(None, description="The id of the model, as `/v1/models` has it.")
    n: integer(ge=1, le=10) = Field(None, description="How many pictures; 1 by default.")
    size: Annotated[str, AfterValidator(_spelled), WithJsonSchema({"type": "string", "pattern": _SIZE})] | None = (
        Field(None, description="`WIDTHxHEIGHT` in pixels; the model's by default.")
    )
    response_format: only("b64_json") = Field(None, description="No pictures are kept for a `url`.")
    seed: integer(ge=0, le=2**64 - 1) = Field(
        None, description="Of the first picture, the next has the next; by lot by default."
    )
    negative_prompt: text(max_length=_CHARACTERS) | None = Field(None, description="What not to paint.")
    steps: integer(ge=1, le=1000) = Field(None, description="Of denoising; 50 by default.")
    guidance: Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)] | None = Field(
        None, description="How closely to follow the prompt; 7.5 by default, 4 for the tiny model."
    )
    # not supported
    background: only("auto", "opaque") = None
    complexity: only() = None
    frame_count: only() = None
    frame_duration_ms: only() = None
    moderation: only("auto") = None
    output_compression: only() = None
    output_format: only("png") = None
    partial_images: only(0) = None
    quality: only("auto", "standard") = None
    stream: only(False) = None
    style: only() = None
    svg: only() = None
    # without effect on pictures
    user: Text | None = None
    safety_identifier: Text | None = None


class Picture(BaseModel):
    """A picture."""

    b64_json: str = Field(description="A PNG in base64.")
    seed: int = Field(description="That paints it again.")
    blackened: Literal[True] | None = Field(None, description="If the safety checker replaced it by a black one.")
    reason: str | None = Field(None, description="Why it is black.")


class ImagesResponse(BaseModel):
    """Pictures, as OpenAI's clients read them."""

    created: int = Field(description="In seconds since 1970.")
    data: list[Picture]
    output_format: Literal["png"] = "png"
    size: str


def add_to(app: FastAPI, engine: Engine, name: str | None, max_pixels: int) -> None:
    """Adds the route.

    Args:
        app (`FastAPI`).
        engine (`Engine`): whose Paint paints.
        name (`str`, *optional*): under which it is served, None if there is none.
        max_pixels (`int`): that a picture may have; nor may it have more than 16 times those of the model's own size.
    """

    @app.post("/v1/images/generations", summary="Paints a prompt", tags=["OpenAI"], response_model_exclude_none=True)
    async def generate_images(
        request: Request, body: Annotated[ImagesRequest, Body(openapi_examples=PAINT)]
    ) -> ImagesResponse:
        """As OpenAI's route of this name, with `seed`, `negative_prompt`, `steps` and `guidance`; PNG in base64."""
        check_model(body.model, name, "VisCPM-Paint")
        if not body.prompt.strip():
            raise ApiError(400, "Got an empty prompt: say what to paint.", "invalid_value", "prompt")
        width, height = _size(body.size, engine.facts, max_pixels)
        prompt = Prompt(
            body.prompt,
            body.negative_prompt or "",
            n=body.n or 1,
            seed=body.seed,
            steps=body.steps,
            guidance=body.guidance,
            width=width,
            height=height,
        )

        async def work():
            painted = await engine.paint(prompt)
            return painted, await asyncio.to_thread(lambda: [_picture(one) for one in painted])

        try:
            painted, data = await running(request, work())
        except torch.OutOfMemoryError as error:
            if width is None:  # then it is no fault of the client
                raise
            raise ApiError(
                400, f"Got size {body.size}, which does not fit into memory: ask for less.", "invalid_size", "size"
            ) from error
        size = "x".join(map(str, painted[0].image.size))
        return ImagesResponse(created=int(time.time()), data=data, size=size)


def _size(text, facts, max_pixels):
    """Width and height, None for the model's own."""
    if text in (None, "auto"):
        return None, None
    factor = facts.factor
    most = max(min(max_pixels, _LARGER * facts.width * facts.height), factor**2)
    sides = [int(side) for side in re.findall(r"\d+", text)]
    if all(side and side % factor == 0 for side in sides) and math.prod(sides) <= most:
        return sides
    scale = min(1.0, math.sqrt(most / max(1, math.prod(sides))))
    near = [max(round(side * scale / factor), 1) * factor for side in sides]
    while math.prod(near) > most:
        near[near.index(max(near))] -= factor
    raise ApiError(
        400,
        f"Got size {text}, expected multiples of {factor} and at most {most} pixels, such as {near[0]}x{near[1]}.",
        "invalid_size",
        "size",
    )


def _picture(painted: Painted) -> Picture:
    data = io.BytesIO()
    painted.image.save(data, "PNG")
    black = {"blackened": True, "reason": "The safety checker replaced the picture."} if painted.blackened else {}
    return Picture(b64_json=base64.b64encode(data.getvalue()).decode(), seed=painted.seed, **black)
