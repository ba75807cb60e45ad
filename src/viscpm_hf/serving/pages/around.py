"""Around the pages, what gradio leaves out."""

import asyncio
import base64
import hmac

from fastapi.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..api.limits import Limits
from ..engine import Engine
from .common import head_of
from .texts import LANGUAGES, Words


class AroundPages:
    """One password for all pages, limits, a beginning of the HTML head, an end for tabs that are open.

    Files are limited by gradio, which writes them to the disk as they come; all else that pages get is limited here.

    Args:
        app: with the pages at `/en/…` and `/zh/…`; others are let through.
        engine (`Engine`): that they stand on.
        max_body (`int`, bytes): that a request may have.
        password (`str`, *optional*): which people must give.
    """

    def __init__(self, app: ASGIApp, engine: Engine, max_body: int, password: str | None):
        self.app, self.engine, self.limited = app, engine, Limits(app, max_body, engine.timeout)
        self.password = None if password is None else password.encode()
        self.heads = {language: head_of(Words(language)).encode() for language in LANGUAGES}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _, language, *rest = [*scope.get("path", "").split("/"), "", ""]
        if scope["type"] != "http" or language not in self.heads:
            await self.app(scope, receive, send)
        elif self.password is not None and not self._knows_password(scope):
            # by any name; browsers ask for it, once for all pages
            refusal = Response("401", 401, {"WWW-Authenticate": 'Basic realm="VisCPM", charset="UTF-8"'})
            await refusal(scope, receive, send)
        elif rest[1:3] == ["gradio_api", "upload"]:
            await self.app(scope, receive, send)
        elif rest[1:3] == ["gradio_api", "heartbeat"]:
            await self.app(scope, self._until_the_end(receive), send)
        elif scope["method"] == "GET" and rest[1] == "":  # the page itself
            plain = [header for header in scope["headers"] if header[0] != b"accept-encoding"]
            await self.app({**scope, "headers": plain}, receive, _Inserting(send, self.heads[language]))
        else:
            await self.limited(scope, receive, send)

    def _knows_password(self, scope):
        scheme, _, given = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
        try:
            found = base64.b64decode(given).partition(b":")[2] if scheme.lower() == b"basic" else b""
        except ValueError:  # of base64
            return False
        return hmac.compare_digest(found, self.password)

    def _until_the_end(self, receive):
        """A tab that is open would keep the server from stopping: it is taken for closed."""

        async def read() -> Message:
            message = asyncio.ensure_future(receive())
            try:
                while not (await asyncio.wait({message}, timeout=0.5))[0]:
                    if not self.engine.ready:
                        return {"type": "http.disconnect"}
                return message.result()
            finally:
                message.cancel()

        return read


class _Inserting:
    """Sends HTML on with something at the beginning of its head."""

    def __init__(self, send, head):
        self.send, self.head, self.start, self.body = send, head, None, b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = message
            return
        if message["type"] != "http.response.body":  # of a test client
            await self.send(message)
            return
        self.body += message.get("body", b"")
        if message.get("more_body"):
            return
        body = self.body.replace(b"<head>", b"<head>" + self.head, 1)
        headers = [header for header in self.start["headers"] if header[0].lower() != b"content-length"]
        await self.send({**self.start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await self.send({**message, "body": body})
