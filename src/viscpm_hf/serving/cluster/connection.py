"""Ray: the cluster that `RAY_ADDRESS` names, else one of this process's own."""

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from ...libraries import quiet

ADDRESS = os.environ.get("RAY_ADDRESS") or "local"


@contextmanager
def connected(processes: int, forwards: bool = False) -> Iterator[None]:
    """Connects to Ray, or starts one, which only this machine can reach and which ends with this process.

    Args:
        processes: with a model, which are to have a place each in a Ray that is started.
        forwards: whether what such processes print comes to this one's stderr.

    Raises:
        OSError: Ray does not start, or there is no such cluster.
    """
    options: dict[str, Any] = {"address": ADDRESS}
    if ADDRESS == "local":
        # as many as there are, or more: that they share this machine is what was asked for
        options |= {"num_cpus": max(os.cpu_count() or 1, processes), "include_dashboard": False}
        if "RAY_AUTH_TOKEN_PATH" not in os.environ:  # else Ray would keep one in the home directory
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    terminate = signal.getsignal(signal.SIGTERM)
    with quiet("ray.serve", "ray.data"):  # what they say is in the logs of the cluster
        try:
            ray.init(**options, logging_level="ERROR", log_to_driver=forwards)
        except SystemExit as stop:  # of Ray's own handler
            raise SystemExit(128 + signal.SIGTERM) from stop
        except Exception as error:  # Ray has many kinds for it
            what = "start" if ADDRESS == "local" else f"find the cluster at {ADDRESS}"
            raise OSError(f"Ray could not {what}: {str(error).strip() or type(error).__name__}") from error
        finally:
            signal.signal(signal.SIGTERM, terminate)
        try:
            yield
        finally:
            ray.shutdown()
