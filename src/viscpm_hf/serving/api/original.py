"""`POST /viscpm`: the original's endpoint."""

from contextlib import nullcontext
from typing import Annotated

from fastapi import Body, FastAPI, Request
from pydantic import BaseModel, Field

from ..engine import Engine, Question
from .errors import check_model
from .examples import ORIGINAL
from .hangups import running
from .messages import MOST_CHARACTERS, Strict, text
from .pictures import Pictures


class OriginalRequest(Strict):
    """A question about a picture."""

    image: str | None = Field(
        None,
        json_schema_extra={"minLength": 1},
        description="A picture file in base64; without it the model talks without one.",
    )
    question: text(max_length=MOST_CHARACTERS)
    context: text(max_length=MOST_CHARACTERS) | None = Field(
        None,
        description="Earlier turns, as the last answer gave them; with them send the picture again.",
    )


class OriginalResponse(BaseModel):
    """The answer."""

    answer: str = Field(description="As the original decodes it: special tokens literally, `<` doubled.")
    context: str = Field(description="For the next question.")


def add_to(app: FastAPI, engine: Engine, name: str | None, pictures: Pictures) -> None:
    """Adds the route; `name` is None if Chat is not served."""

    @app.post("/viscpm", summary="Answers a question as the original's server does", tags=["Original"])
    async def ask(
        request: Request, asked: Annotated[OriginalRequest, Body(openapi_examples=ORIGINAL)]
    ) -> OriginalResponse:
        """Three beams and the original's settings. The oldest turns of a context that is too long are left out."""
        check_model(None, name, "VisCPM-Chat")

        async def work():
            opened = nullcontext() if asked.image is None else pictures.from_base64(asked.image, "image")
            async with opened as image:
                return await engine.answer(Question(asked.question, image, asked.context or ""))

        (answer,) = await running(request, work())
        return OriginalResponse(answer=answer.answer, context=answer.context)
