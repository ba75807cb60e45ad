"""`POST /v1/chat/completions`: OpenAI's API for talking about a picture."""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import Body, FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from ...chat import ChatAnswer
from ..engine import AnswerPiece, Engine, Question, Sampling
from .errors import ApiError, check_model, error_of
from .examples import CHAT
from .hangups import EventStream, running
from .messages import ChatRequest
from .pictures import Pictures

logger = logging.getLogger(__name__)

_LINES = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})


class Answer(BaseModel):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """One answer."""

    index: int
    message: Answer
    logprobs: None = None
    finish_reason: Literal["stop", "length"] = Field(
        description="`stop` at its end or a stop text, `length` where it was cut off."
    )


class Usage(BaseModel):
    """Numbers of tokens; the picture counts in the prompt."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatResponse(BaseModel):
    """One or more answers, the best first."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="Seconds since 1970.")
    model: str
    choices: list[Choice]
    usage: Usage


def add_to(app: FastAPI, engine: Engine, name: str | None, pictures: Pictures) -> None:
    """Adds the route.

    Args:
        name (`str`, *optional*): under which Chat is served, None if it is not.
    """

    @app.post(
        "/v1/chat/completions",
        summary="Answers a question about a picture",
        response_model=ChatResponse,
        responses={200: {"content": {"text/event-stream": {}}, "description": "The answer, or its pieces"}},
        tags=["OpenAI"],
    )
    async def complete(
        request: Request, chat: Annotated[ChatRequest, Body(openapi_examples=CHAT)]
    ) -> ChatResponse | Response:
        """As OpenAI's route of this name. What cannot be honoured is refused by name, nothing is ignored.

        Without `temperature` and `top_p` the answer is the original's beam search; streamed, greedy search.
        """
        check_model(chat.model, name, "VisCPM-Chat")
        sampling = _sampling(chat, engine)
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}
        if chat.stream:
            return await _stream(request, chat, engine, pictures, sampling, head)

        async def work():
            async with _question(chat, pictures, sampling) as question:
                return await engine.answer(question)

        answers = await running(request, work())
        choices = [
            Choice(index=number, message=Answer(content=answer.text), finish_reason=answer.finish_reason)
            for number, answer in enumerate(answers)
        ]
        return ChatResponse(choices=choices, usage=_usage(answers), **head)


def _sampling(chat: ChatRequest, engine: Engine) -> Sampling:
    """How the answers are chosen.

    Raises:
        ApiError: for more answers than there are that way.
    """
    n = chat.n or 1
    sampling = Sampling(
        max_tokens=chat.max_tokens or chat.max_completion_tokens,
        temperature=chat.temperature,
        top_p=chat.top_p,
        seed=chat.seed,
        n=n,
        stop=tuple(chat.stop or ()),
    )
    if sampling.samples:
        most, kind = engine.max_batch, "with sampling"
    elif chat.stream or chat.temperature == 0:
        most, kind = 1, "from greedy search: set temperature or top_p"
    else:
        most, kind = engine.facts.beams, "from its beams: set temperature or top_p"
    if n > most:
        raise ApiError(400, f"Got {n} as n, expected at most {most} {kind}.", "invalid_value", "n")
    return sampling


@asynccontextmanager
async def _question(chat: ChatRequest, pictures: Pictures, sampling: Sampling) -> AsyncIterator[Question]:
    """The last turn, with those before as its context: what the processor makes of such messages."""
    *earlier, last = [message.text for message in chat.messages]
    turns = tuple(zip(earlier[::2], earlier[1::2], strict=True))
    async with AsyncExitStack() as stack:
        image = None
        for number, message in enumerate(chat.messages):
            for part, url in message.images.items():
                param = f"messages[{number}].content[{part}].image_url.url"
                image = await stack.enter_async_context(pictures.from_url(url, param))
        yield Question(last, image, turns=turns, sampling=sampling, shortens=False)


def _usage(answers: list[ChatAnswer]) -> Usage:
    prompt, completion = answers[0].prompt_tokens, sum(answer.completion_tokens for answer in answers)
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


async def _stream(
    request: Request, chat: ChatRequest, engine: Engine, pictures: Pictures, sampling: Sampling, head: dict[str, Any]
) -> EventStream:
    """Server-sent events, once there is a first piece: what fails before it still has a status of its own."""

    async def pieces():
        async with (
            _question(chat, pictures, sampling) as question,
            aclosing(engine.stream_answer(question)) as answers,
        ):
            async for piece in answers:
                yield piece

    stream = pieces()
    try:
        first = await running(request, anext(stream))
    except BaseException:
        await stream.aclose()
        raise
    with_usage = bool(chat.stream_options and chat.stream_options.include_usage)
    events = _events(first, stream, sampling.n, with_usage, head, request.state.deadline)
    return EventStream(events, stream)


async def _events(first, rest, n, with_usage, head, deadline) -> AsyncIterator[str]:
    def chunk(choices, **more):
        more = {"usage": None, **more} if with_usage else more
        return _event({**head, "object": "chat.completion.chunk", "choices": choices, **more})

    for number in range(n):
        yield chunk([_choice(number, {"role": "assistant", "content": ""})])
    piece = first
    try:
        while isinstance(piece, AnswerPiece):
            yield chunk([_choice(piece.number, {"content": piece.text})])
            async with asyncio.timeout_at(deadline):
                piece = await anext(rest)
    except Exception as error:
        told = error_of(error)
        if told.status_code == 500:
            logger.error("A streamed answer failed", exc_info=error)
        yield _event(told.body)
        return
    for number, answer in enumerate(piece):
        yield chunk([_choice(number, {}, answer.finish_reason)])
    if with_usage:
        yield chunk([], usage=_usage(piece).model_dump())
    yield "data: [DONE]\n\n"


def _choice(number, delta, finish_reason=None):
    return {"index": number, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _event(content) -> str:
    # readers that split at every kind of line break are common
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':')).translate(_LINES)}\n\n"
