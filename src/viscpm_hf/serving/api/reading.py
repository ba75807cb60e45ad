"""The JSON of a request: each name once, and not so many values that reading them would hold up others."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from .errors import ApiError

# All are read and judged at one go, while nobody else is served: this many take some 10 ms. A conversation that the
# model can read has 3000 tokens.
_VALUES = 10_000
_ESCAPES = 1_000_000  # backslashes: each is copied by itself; line breaks and slashes in base64 are some


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
        signs = sum(body.count(sign) for sign in (b",", b"[", b"{"))
        if signs > _VALUES or body.count(b"\\") > _ESCAPES:
            what = f"{_VALUES} commas and brackets" if signs > _VALUES else f"{_ESCAPES} backslashes"
            raise ApiError(400, f"Got a body of more than {what}: send less.", "too_many_values")
        return json.loads(body, object_pairs_hook=_object)


def _object(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):  # which of them counts, programs do not agree on
        names = [name for name, _ in pairs]
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise ApiError(400, f"Got {twice} more than once in one object, expected it once.", "invalid_value", twice)
    return found
