"""The program around the HTTP API: the address, what it says, and how it ends."""

import asyncio
import errno
import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from ..language import say
from .connections import BACKLOG, Connection, raise_limit_of_files
from .log import Lines, RequestLog

if TYPE_CHECKING:
    from .engine import Engine

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
_LAST_STEP = 20.0  # seconds for a model to come to the end of a step that nobody waits for


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket at an address, before a model is loaded in vain; it listens once the server is ready.

    Args:
        host: a name or an address of this machine; of several the first of IPv4.
        port: 0 for any that is free.

    Raises:
        ValueError: there is no such address here, or somebody else is at the port.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError, ValueError) as error:  # UnicodeError: no name of a host; ValueError: NUL in it
        raise ValueError(
            f"Got {host!r} as --host, which is no address or name of this machine: give one such as 127.0.0.1."
        ) from error
    family, *_, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    _listening(family, address).close()  # two that do not listen yet may be bound to one port
    return _bound(family, address)


def _listening(family, address):
    probe = _bound(family, address)
    try:
        probe.listen()
    except OSError as error:
        probe.close()
        raise _unusable(address, error) from error
    return probe


def _bound(family, address):
    # with the protocol, or asyncio leaves Nagle's algorithm on: each answer would come 40 ms later
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # a server can be started again at once; elsewhere it would share the port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise _unusable(address, error) from error
    return listening


def _unusable(address, error):
    host, port = address[:2]
    if error.errno == errno.EADDRINUSE:
        return ValueError(f"Port {port} of {host} is in use: stop what uses it, or give another --port.")
    if error.errno == errno.EADDRNOTAVAIL:
        return ValueError(f"Got {host!r} as --host, which is no address of this machine: give one such as 127.0.0.1.")
    return ValueError(f"Port {port} of {host} cannot be used ({error.strerror}): give another --host or --port.")


def is_loopback(listening: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    return ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback


def url_of(listening: socket.socket) -> str:
    """Where it is reached."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn; what a signal does is our business, since it would kill the process with it again at the end."""

    def __init__(self, config, ready):
        super().__init__(config)
        self._ready = ready

    @contextmanager
    def capture_signals(self):
        yield

    async def startup(self, sockets=None):
        await super().startup(sockets)
        self._ready()


def run(
    app: Callable,
    engine: "Engine",
    listening: socket.socket,
    timeout: float,
    banner: Callable[[], str],
    tell: Callable[[str], None],
) -> int:
    """Serves until a signal comes, then finishes what is under way; new requests are refused meanwhile.

    Args:
        app: the ASGI application.
        engine: what it stands on; closed at the end.
        listening: see `bound_socket`.
        timeout: seconds to finish in; who is not answered by then is cut off.
        banner: what is said once requests are taken.
        tell: prints a line; it may wait for a reader, which then nothing else does.

    Returns:
        The exit code: 0 after SIGTERM, as systemd and Kubernetes expect, 130 after Ctrl-C; a second Ctrl-C ends the
        process at once.

    Raises:
        ValueError: somebody else has taken the port meanwhile.
    """
    lines = Lines(tell)
    signals: list[int] = []
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        asyncio.run(_serve(RequestLog(app, lines), engine, listening, timeout, banner, lines, signals))
    except OSError as error:
        raise _unusable(listening.getsockname(), error) from error
    finally:
        finished = _close(engine)
        finished &= lines.finish()
        for number, handler in before.items():
            signal.signal(number, handler)
    code = {signal.SIGTERM: 0}.get(signals[0], 128 + signals[0]) if signals else 1
    if not finished:  # Python could crash if it ended beside a model that still works, or wait for a reader
        os._exit(code)
    return code


async def _serve(app, engine, listening, timeout, banner, tell, signals):
    # h11 and no websockets, whatever is installed besides; proxies close their connections first, after 60 s
    most = raise_limit_of_files()
    protocol = type("Connection", (Connection,), {"most": most})
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        backlog=BACKLOG,
    )
    server = _Server(config, lambda: tell(banner()))
    loop, asked = asyncio.get_running_loop(), asyncio.Event()

    def stop(signum, frame):
        if signals and signum == signal.SIGINT:
            os._exit(130)  # whatever hangs: nothing is half-written
        signals.append(signum)
        loop.call_soon_threadsafe(asked.set)

    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, stop)
    serving, asking = loop.create_task(server.serve([listening])), loop.create_task(asked.wait())
    await asyncio.wait((serving, asking), return_when=asyncio.FIRST_COMPLETED)
    asking.cancel()
    if not serving.done():
        end = loop.time() + timeout
        engine.drain()
        tell(
            say(
                f"Stopping: what is under way is finished, for at most {timeout:g} s; Ctrl-C stops at once.",
                f"正在停止：先处理完手头的请求，最多 {timeout:g} 秒；再按 Ctrl-C 立即停止。",
            )
        )
        while any(batcher.alive for batcher in engine.batchers.values()) and loop.time() < end and not serving.done():
            await asyncio.sleep(0.02)
        config.timeout_graceful_shutdown = max(1.0, end - loop.time())  # for those who read their answers slowly
        server.should_exit = True
    await serving


def _close(engine):
    """Stops the models; False if one does not come to the end of a step."""
    closing = threading.Thread(target=engine.close, daemon=True)
    closing.start()
    closing.join(_LAST_STEP)
    return not closing.is_alive()
