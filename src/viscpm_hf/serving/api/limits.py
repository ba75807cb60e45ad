"""Size and time of requests, and the key: judged before anything is read into a form.

Plain ASGI: what Starlette calls BaseHTTPMiddleware would keep hang-ups from the routes.
"""

import asyncio
import hmac
import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError, quoted

# All are read and judged at one go, while nobody else is served: this many take some 10 ms. A conversation that the
# model can read has 3000 tokens.
_VALUES = 10_000
_ESCAPES = 1_000_000  # backslashes: each is copied by itself; line breaks and slashes in base64 are some
_HELD = 8  # bodies of the largest size, of all requests that are there
_LINGER = 2.0  # seconds to read on after a refusal: who is cut off while sending does not see it
OPEN = ("/health", "/health/live", "/docs", "/openapi.json")  # need no key


class Limits:
    """Reads the whole body before the application sees anything of it, if it is small and comes fast.

    The application finds `request.state.deadline`, by the loop's clock: one for all that the request takes.

    Args:
        app: what it protects.
        max_body (`int`, bytes): that the body may have.
        timeout (`float`, *optional*, seconds): from the request's head to the end of its answer.
    """

    def __init__(self, app: ASGIApp, max_body: int, timeout: float | None):
        self.app, self.max_body, self.timeout = app, max_body, timeout
        self._held = 0  # bytes of all bodies that are there

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        deadline = None if self.timeout is None else asyncio.get_running_loop().time() + self.timeout
        size = 0

        def take(more: int) -> None:
            nonlocal size
            size += more
            self._held += more
            if size > self.max_body:
                raise self._too_large()
            if self._held > _HELD * self.max_body:
                text = "Too many large requests are there: try again later."
                raise ApiError(429, text, "queue_full", headers={"Retry-After": "5"})

        try:
            try:
                body = await self._body(scope, receive, take, deadline)
            except ApiError as error:
                await refuse(error, scope, receive, send)
                return
            if body is None:
                return
            # a thread lets others have their turn between the steps
            if error := _too_many(body) if size < 2**20 else await asyncio.to_thread(_too_many, body):
                await error.response(scope, receive, send)
                return
            parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
            del body

            async def read() -> Message:
                return parts.pop() if parts else await receive()

            state = {**scope.get("state", {}), "deadline": deadline}
            await self.app({**scope, "state": state}, read, send)
        finally:
            self._held -= size

    async def _body(self, scope, receive, take, deadline):
        """The body; None if the client hung up."""
        for name, value in scope["headers"]:
            if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
                text = (
                    f"Got Content-Encoding {quoted(value.decode('latin-1'))}, expected a body without: leave it out."
                )
                raise ApiError(415, text, "unsupported_media_type")
        length = dict(scope["headers"]).get(b"content-length", b"")
        if length.isdigit() and int(length[:20]) > self.max_body:
            raise self._too_large()
        body = bytearray()  # not a list: there may be a chunk for each byte
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    chunk = message.get("body", b"")
                    take(len(chunk))
                    body += chunk
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            raise ApiError(408, f"The request did not come within {self.timeout:g} seconds.", "slow_request") from None

    def _too_large(self):
        most = f"{self.max_body / 2**20:.3g} MiB"
        return ApiError(413, f"The request is larger than {most}: send a smaller picture.", "request_too_large")


def _too_many(body):
    signs = sum(body.count(sign) for sign in (b",", b"[", b"{"))
    if signs <= _VALUES and body.count(b"\\") <= _ESCAPES:
        return None
    what = f"{_VALUES} commas and brackets" if signs > _VALUES else f"{_ESCAPES} backslashes"
    return ApiError(400, f"Got a body of more than {what}: send less.", "too_many_values")


class Key:
    """Lets in who has the key.

    Args:
        app: what it protects.
        api_key (`str`): that is to come as `Authorization: Bearer`.
    """

    def __init__(self, app: ASGIApp, api_key: str):
        self.app, self._key = app, api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].removeprefix(scope.get("root_path", "")) not in OPEN:
            scheme, _, given = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._key):
                got = "a wrong API key" if given else "no API key"
                error = ApiError(
                    401,
                    f"Got {got}, expected it as 'Authorization: Bearer KEY'.",
                    "invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
                await refuse(error, scope, receive, send)
                return
        await self.app(scope, receive, send)


class Heads:
    """Answers HEAD as GET, without a body; takes whole addresses for paths, as HTTP wants it of every server."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith("/"):
            scope = {**scope, "path": re.sub(r"^https?://[^/]*", "", scope["path"], flags=re.IGNORECASE) or "/"}
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self.app({**scope, "method": "GET"}, receive, send_head)


async def refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answers before the body has come: at once, but reads on for some seconds before it closes the connection."""

    async def send_all_but_the_end(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"].append((b"connection", b"close"))
        await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

    await error.response(scope, receive, send_all_but_the_end)
    try:
        async with asyncio.timeout(_LINGER):
            while (message := await receive())["type"] != "http.disconnect" and message.get("more_body"):
                pass
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})
