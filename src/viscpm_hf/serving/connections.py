"""Connections that never become a request: closed in time, and never so many that no other can be accepted."""

import asyncio
import resource

from uvicorn.protocols.http.h11_impl import H11Protocol

_HEADER_SECONDS = 20.0  # for the head of a request, from the connection's or its first byte on
_MOST = 16_384
BACKLOG = 128  # connections that may wait, and that asyncio accepts before it asks whether there are too many
_OTHER_FILES = 64 + BACKLOG  # open ones of this process that are no connections, or too many


def raise_limit_of_files() -> int:
    """Takes what the system allows of open files, within reason; how many connections there may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST + _OTHER_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST + _OTHER_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return _MOST if soft == resource.RLIM_INFINITY else max(1, min(_MOST, soft - _OTHER_FILES))


class Connection(H11Protocol):
    """uvicorn's, with a deadline for the head of a request, and refused at once if there are too many.

    `most` is set on a subclass by who knows the limit.
    """

    most = _MOST
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.abort()
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self):
        """Starts the clock while no request has come whole, stops it once one has."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(_HEADER_SECONDS, self._close_unless_busy)

    def _unwatch(self):
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close_unless_busy(self):
        self._deadline = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
