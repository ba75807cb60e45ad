"""Replicas behind the HTTP server of this process: what `viscpm serve --ray` starts and stops."""

import asyncio
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
from ray import serve

from ..engine import Engine
from ..replicas import Replicas
from .connection import ADDRESS, connected
from .remote import RemoteEngine, Replica, facts_of


def replicas_of(
    kind: str,
    load: Callable[..., Engine],
    replicas: Replicas,
    gpus: float = 0.0,
    threads: int | None = None,
    *,
    max_batch: int = 8,
    max_queue: int = 64,
    timeout: float = 120.0,
) -> serve.Application:
    """A model's replicas, for Ray.

    Args:
        kind: `"chat"` or `"paint"`.
        load: makes an [`Engine`] of a model with such `max_batch`, `max_queue` and `timeout`, on whatever machine.
        replicas, gpus: how many, and what each takes of a GPU.
        threads: of a replica without a GPU; by default Ray's one.
        max_batch, max_queue, timeout: of each engine.
    """
    places = max_batch + max_queue
    options: dict[str, Any] = {"num_replicas": replicas.least}
    if replicas.most > replicas.least:
        options = {
            "autoscaling_config": {
                "min_replicas": replicas.least,
                "initial_replicas": replicas.least,
                "max_replicas": replicas.most,
                "target_ongoing_requests": max_batch,
            }
        }
    deployment = serve.deployment(
        Replica,
        name=kind,
        # All that wait do so in the engines, which batch them: for those that it keeps itself Ray may look for a place
        # only twice a second. How many may wait, `RemoteEngine` says.
        max_ongoing_requests=places,
        # one that is taken away finishes what it has
        graceful_shutdown_timeout_s=timeout,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=2,
        health_check_timeout_s=10,  # one that answers nothing is killed after three of them
        max_constructor_retry_count=2,
        # with a GPU it is the GPU that counts
        ray_actor_options={"num_cpus": 0 if gpus else 1, "num_gpus": gpus},
        logging_config={"log_level": "WARNING", "enable_access_log": False},
        **options,
    )
    # who is asked to paint four pictures at once runs fewer requests, and holds more
    return deployment.bind(partial(load, kind, max_batch=max_batch, max_queue=places, timeout=timeout), kind, threads)


@contextmanager
def serving(
    kinds: Sequence[str],
    load: Callable[..., Engine],
    replicas: Replicas,
    gpus: float | None = None,
    *,
    name: str = "viscpm",
    max_batch: int = 8,
    max_queue: int = 64,
    timeout: float = 120.0,
    tell: Callable[[str], None] = print,
) -> Iterator[RemoteEngine]:
    """Starts replicas, and stops them at the end.

    They are in the Ray cluster that `RAY_ADDRESS` names (`auto`: the one on this machine), else in one of its own,
    which only this machine can reach and which ends with this process.

    Args:
        kinds: models, `"chat"` and `"paint"`.
        load, replicas, max_batch, max_queue, timeout: see `replicas_of`.
        gpus: what a replica takes of a GPU; by default what there are is shared out.
        name: of the application in the cluster; one of this name that is there is replaced.
        tell: prints what a replica of each said while it was loaded.

    Raises:
        ValueError: the models cannot be loaded, or there are fewer GPUs than that.
        OSError: Ray does not start, or there is no such cluster.
        RayGoneError: Ray was there no more; this process has got SIGTERM before.
    """
    most = len(kinds) * replicas.most
    with connected(most) as watch:
        gpus, threads = _shares(len(kinds), replicas, gpus)
        limits = {"max_batch": max_batch, "max_queue": max_queue, "timeout": timeout}
        targets = [
            serve.RunTarget(
                replicas_of(kind, load, replicas, gpus, threads, **limits), name=f"{name}-{kind}", route_prefix=None
            )
            for kind in kinds
        ]
        serve.start(proxy_location="Disabled")  # HTTP is this process's business
        try:
            try:
                found = serve.run_many(targets)
            except RuntimeError as error:
                raise ValueError(_reason(error, [target.name for target in targets])) from error
            handles = dict(zip(kinds, found, strict=True))
            for handle in found:
                if said := handle.remarks.remote().result().strip():
                    tell(said)
            engine = RemoteEngine(asyncio.run(facts_of(handles)), handles, **limits)
            watch.when_gone = engine.lose
            try:
                yield engine
            finally:
                engine.close()
        finally:
            if ADDRESS != "local":
                for target in targets:
                    serve.delete(target.name)


def _shares(kinds, replicas, gpus):
    """Of a GPU and threads, for each replica."""
    resources = ray.cluster_resources()
    there, most = resources.get("GPU", 0.0), kinds * replicas.most
    if gpus is None:
        gpus = min(1.0, int(there / most * 1e4) / 1e4)
    elif gpus * kinds * replicas.least > there:
        raise ValueError(
            f"The replicas take {gpus * kinds * replicas.least:g} GPUs in all, but there are {there:g}: ask for fewer "
            "replicas or a smaller share."
        )
    threads = None if "OMP_NUM_THREADS" in os.environ else max(1, int(resources.get("CPU", 1)) // most)
    return gpus, threads


def _reason(error, names):
    """The sentence of an error in a replica, which Ray gives with the whole traceback."""
    applications = serve.status().applications
    texts = [
        text
        for name in names
        if name in applications
        for text in (*(each.message for each in applications[name].deployments.values()), applications[name].message)
    ]
    for text in [*texts, str(error)]:
        if found := re.findall(r"^(?:\w+\.)*\w+(?:Error|Exception): (.+)", text, re.MULTILINE):
            return f"A replica could not start: {found[-1]}"
    return f"The replicas could not start: {error}"
