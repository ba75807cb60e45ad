"""Who has hung up is not answered."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from .errors import ApiError

T = TypeVar("T")
logger = logging.getLogger(__name__)
_STALLED = 30.0  # seconds that a client may read nothing: its answer, and its picture, take room meanwhile


async def running(request: Request, coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, which is cancelled at the request's deadline, and when the client hangs up.

    Args:
        request (`Request`): whose body has been read.
        coroutine: what works for it.

    Raises:
        ApiError: if the client hung up; nobody will read it.
        TimeoutError: past the deadline.
    """

    async def hung_up():
        while (await request.receive())["type"] != "http.disconnect":
            pass

    work, watch = asyncio.ensure_future(coroutine), asyncio.ensure_future(hung_up())
    try:
        async with asyncio.timeout_at(request.state.deadline):
            await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise ApiError(499, "The client hung up.")
    finally:
        work.cancel()
        watch.cancel()
        await asyncio.gather(work, watch, return_exceptions=True)


class EventStream(StreamingResponse):
    """Server-sent events.

    Args:
        events (`AsyncGenerator`): of texts.
        source (`AsyncGenerator`): that they are made of; both are closed whatever happens.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str], source: AsyncGenerator[Any]):
        # proxies must neither keep nor gather them
        super().__init__(events, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_soon(message: Message) -> None:
            async with asyncio.timeout(_STALLED):
                await send(message)

        async with aclosing(self._source), aclosing(self.body_iterator):
            try:
                await super().__call__(scope, receive, send_soon)
            except TimeoutError:
                logger.warning("A client did not read its answer for %g seconds, and is left.", _STALLED)
