"""The JSON of a request: each name once in an object, and no endless numbers."""

import json
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute

from .errors import ApiError

_DIGITS = 100  # of an integer: the time grows with their square


class JsonRoute(APIRoute):
    """Of an application whose bodies are read here."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As FastAPI's, which leaves the reading to the request."""
        handle = super().get_route_handler()

        async def read(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return read


class _JsonRequest(Request):
    async def json(self) -> Any:
        body = await self.body()
        # a thread lets others have their turn between the steps, but costs a small body as much as reading it
        return _read(body) if len(body) < 2**20 else await run_in_threadpool(_read, body)


def _read(body):
    return json.loads(body, object_pairs_hook=_object, parse_int=_integer)


def _object(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):  # which of them counts, programs do not agree on
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ApiError(400, f"Got {twice} more than once in one object, expected it once.", "invalid_value", twice)
    return found


def _integer(digits):
    if len(digits) > _DIGITS:
        raise ApiError(400, f"Got a number of {len(digits)} digits, expected at most {_DIGITS}.", "invalid_json")
    return int(digits)
