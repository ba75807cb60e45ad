"""Ray: the cluster that `RAY_ADDRESS` names, else one of this process's own."""

import math
import os
import re
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray

from ...libraries import quiet
from . import RayGoneError

ADDRESS = os.environ.get("RAY_ADDRESS") or "local"
_PERIOD = 1.0  # seconds between two looks
_PATIENCE = 40.0  # seconds without a word of its head, for which Ray itself waits 60 and then ends this process
_CONNECT = 10.0  # seconds for a connection to it


class Watch:
    """Looks whether Ray is there; once it is not, this process gets SIGTERM.

    Attributes:
        gone (`bool`): whether it was so.
        when_gone (`Callable`): is called before, in another thread.
    """

    def __init__(self):
        self.gone, self.when_gone = False, _nothing
        own = ray.get_runtime_context().get_node_id()
        (node,) = (node for node in ray.nodes() if node["NodeID"] == own)
        self._here = node["NodeManagerAddress"], node["NodeManagerPort"]
        self._heard, self._ended = time.monotonic(), threading.Event()
        self._threads = [
            threading.Thread(target=work, name="Ray", daemon=True) for work in (self._listen, self._watch)
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Looks no more."""
        self._ended.set()
        for thread in self._threads:
            thread.join(_PERIOD)

    def is_over(self) -> bool:
        """Whether nobody is there any more on this machine, for which Ray would end this process after 15 s."""
        try:
            socket.create_connection(self._here, _CONNECT).close()
        except ConnectionRefusedError:
            self.gone = True
        except OSError:  # perhaps it is only slow
            pass
        return self.gone

    def _listen(self):
        with suppress(Exception):  # this process has left it meanwhile
            while not self._ended.wait(_PERIOD):
                # does not return without the head; without machines nothing can be started anew
                is_there = any(node["Alive"] for node in ray.nodes())
                self._heard = time.monotonic() if is_there and not self.is_over() else -math.inf

    def _watch(self):
        while not self._ended.wait(_PERIOD):
            if time.monotonic() - self._heard > _PATIENCE:
                self.gone = True
                self.when_gone()
                os.kill(os.getpid(), signal.SIGTERM)
                return


def _nothing() -> None:
    pass


@contextmanager
def connected(processes: int) -> Iterator[Watch]:
    """Connects to Ray, or starts one, which only this machine can reach and which ends with this process.

    Args:
        processes: with a model, which are to have a place each in a Ray that is started.

    Raises:
        ValueError: `RAY_ADDRESS` is no address.
        OSError: Ray does not start, or there is no such cluster.
        RayGoneError: at the end, or on SIGTERM, if it was so.
    """
    options: dict[str, Any] = {"address": ADDRESS}
    if ADDRESS == "local":
        # as many as there are, or more: that they share this machine is what was asked for
        options |= {"num_cpus": max(os.cpu_count() or 1, processes), "include_dashboard": False}
        if "RAY_AUTH_TOKEN_PATH" not in os.environ:  # else Ray would keep one in the home directory
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    elif ADDRESS != "auto":
        _check_address()
    terminate = signal.getsignal(signal.SIGTERM)
    with quiet("ray.serve", "ray.data"):  # what they say is in the logs of the cluster
        try:
            with _silent_stderr():
                ray.init(**options, logging_level="ERROR", log_to_driver=False)
        except SystemExit as stop:  # of Ray's own handler
            raise SystemExit(128 + signal.SIGTERM) from stop
        except Exception as error:  # Ray has many kinds for it
            what = "start" if ADDRESS == "local" else f"find the cluster of RAY_ADDRESS={ADDRESS}"
            raise OSError(f"Ray could not {what}: {str(error).strip() or type(error).__name__}") from error
        finally:
            signal.signal(signal.SIGTERM, terminate)
        watch = Watch()
        try:
            yield watch
        except (SystemExit, GeneratorExit):
            if not watch.gone:
                raise
        except Exception:  # of Ray, which has met it first
            if not watch.is_over():
                raise
        finally:
            watch.end()
            ray.shutdown()
        if watch.gone:
            raise RayGoneError


def _check_address():
    """Whether somebody is there, for whom Ray would wait for minutes."""
    host, _, port = ADDRESS.rpartition(":")
    if not re.fullmatch(r"[^\s/]+", host) or not re.fullmatch("[0-9]{1,5}", port):
        raise ValueError(f"Got RAY_ADDRESS={ADDRESS}, expected an address such as 10.0.0.1:6379, auto or local.")
    if host in ("127.0.0.1", "localhost") and os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER") != "0":
        host = ray.util.get_node_ip_address()  # as Ray does
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise OSError(
            f"Ray could not find the cluster of RAY_ADDRESS={ADDRESS}: {error}. Start one with `ray start --head`, or "
            "unset RAY_ADDRESS."
        ) from error


@contextmanager
def _silent_stderr():
    """Where Ray would say, below Python, that its log level is set."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)
