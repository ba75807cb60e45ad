"""What a server says: a line for each request, and what its libraries warn of, without ever waiting for a reader."""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from starlette.types import Receive, Scope, Send

from ..language import printable, shortened

_LINES = 1000  # that wait to be printed
_LIBRARIES = ("uvicorn", "asyncio", "viscpm_hf.serving")
_QUIET = ("/health", "/metrics", "/zh/", "/en/")  # probes, and web pages, each of which asks for a hundred files


class Lines(logging.Handler):
    """Prints lines in a thread of its own; what nobody reads in time is dropped. Also a handler for `logging`.

    Args:
        tell: prints a text; may wait, or raise OSError.
    """

    def __init__(self, tell: Callable[[str], None]):
        super().__init__(logging.WARNING)
        self._tell, self._lines = tell, queue.Queue(_LINES)
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)
        self._thread.start()
        self._loggers = {logger: logger.propagate for logger in map(logging.getLogger, _LIBRARIES)}
        for logger in self._loggers:
            logger.addHandler(self)
            logger.propagate = False

    def __call__(self, text: str) -> None:
        """Prints a text, or drops it."""
        with suppress(queue.Full):
            self._lines.put_nowait(text)

    def emit(self, record: logging.LogRecord) -> None:
        self(self.format(record))

    def finish(self, seconds: float = 1.0) -> bool:
        """Prints what is left, and is a handler no more; False if nobody reads it within so many seconds."""
        for logger, propagate in self._loggers.items():
            logger.removeHandler(self)
            logger.propagate = propagate
        with suppress(queue.Full):
            self._lines.put(None, timeout=seconds)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self):
        while (text := self._lines.get()) is not None:
            with suppress(OSError, ValueError):  # nobody reads it any more, or the disk is full: no reason to fail
                self._tell(text)


class RequestLog:
    """A line for each request: method, path, status, seconds; none for a probe or a page that went well.

    Args:
        app: an ASGI application.
        tell: prints a line.
    """

    def __init__(self, app: Callable, tell: Callable[[str], None]):
        self.app, self.tell = app, tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status, started = None, time.perf_counter()

        async def noted(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except asyncio.CancelledError:  # cut off at the very end: uvicorn would log where
            pass
        finally:  # the query of an address may hold a key, and is left out
            path = scope["path"]
            if not path.startswith(_QUIET) or status is None or status >= 400:
                seconds = time.perf_counter() - started
                self.tell(f"{scope['method']} {printable(shortened(path, 200))} {status or '-'} {seconds:.3f} s")
