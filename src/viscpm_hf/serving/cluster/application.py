"""Replicas behind Ray's own HTTP servers, one on each machine: for `serve deploy` and KubeRay."""

import os
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from ray import serve
from ray.serve.config import BackpressureConfig

from ...chat import VisCPMChat
from ...language import printable
from ...paint import VisCPMPaint
from ..api import create_app
from ..engine import Engine
from ..replicas import Replicas, parse_gpus
from .remote import RemoteEngine, facts_of
from .service import replicas_of

_OPEN = 1000  # requests at one entrance, those that read their answers slowly included


class Arguments(BaseModel):
    """The `args` of the application in a configuration of Ray Serve; the same as the options of `viscpm serve`."""

    model_config = ConfigDict(extra="forbid")

    chat: str | None = Field(None, description="Converted VisCPM-Chat, which every machine finds under this name.")
    paint: str | None = Field(None, description="Converted VisCPM-Paint.")
    replicas: str | int = Field(1, description="Of each model: 2, or 1-4.")
    gpus_per_replica: float = 0.0
    entrances: int = Field(1, ge=1, description="Processes that take requests and hand them to the replicas.")
    max_batch: int = Field(8, ge=1)
    max_queue: int = Field(64, ge=1)
    timeout: float = Field(120.0, gt=0)
    max_pixels: int = Field(40_000_000, ge=1)
    api_key_env: str | None = None
    allow_image_urls: bool = False
    cors: list[str] = []
    memory: str | None = None
    quantization: str | None = None
    dtype: str | None = None

    @model_validator(mode="after")
    def _check(self):
        if self.chat is None and self.paint is None:
            raise ValueError("Got neither chat nor paint, which leaves nothing to serve: name a model.")
        Replicas.parse(str(self.replicas))
        parse_gpus(str(self.gpus_per_replica))
        return self


def application(args: Arguments) -> serve.Application:
    """What `import_path: viscpm_hf.serving.cluster.application:application` names."""
    models = {kind: model for kind in ("chat", "paint") if (model := getattr(args, kind)) is not None}
    loading = args.model_dump(include={"memory", "quantization", "dtype"})
    limits = args.model_dump(include={"max_batch", "max_queue", "timeout"})
    api = args.model_dump(include={"max_pixels", "allow_image_urls", "cors"})
    replicas = Replicas.parse(str(args.replicas))
    handles = {
        kind: replicas_of(kind, partial(_load, model, loading), replicas, args.gpus_per_replica, **limits)
        for kind, model in models.items()
    }
    names = {kind: printable(Path(model).name if os.path.isabs(model) else model) for kind, model in models.items()}
    entrance = serve.deployment(
        serve.ingress()(Entrance),
        name="entrance",
        num_replicas=args.entrances,
        max_ongoing_requests=_OPEN,
        max_queued_requests=_OPEN,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1.0),
        graceful_shutdown_timeout_s=args.timeout,
        ray_actor_options={"num_cpus": 0},
    )
    return entrance.bind(handles, names, limits, api, args.api_key_env)


def _load(model, loading, kind, **limits):
    chat = VisCPMChat(model, **loading) if kind == "chat" else None
    return Engine(chat, VisCPMPaint(model, **loading) if kind == "paint" else None, **limits)


class Entrance:
    """The HTTP API, in a process of its own; Ray runs it as often as wanted.

    Args:
        handles: of the replicas of each model.
        names: under which the models are served.
        limits: of a [`RemoteEngine`].
        api: of `create_app`.
        api_key_env: variable in this process's environment that holds the key.
    """

    async def __init__(
        self,
        handles: dict[str, Any],
        names: dict[str, str],
        limits: dict[str, Any],
        api: dict[str, Any],
        api_key_env: str | None,
    ):
        key = None
        if api_key_env is not None and not (key := os.environ.get(api_key_env)):
            raise ValueError(f"Got {api_key_env} as api_key_env, but {api_key_env} is not set or empty.")
        engine = RemoteEngine(await facts_of(handles), handles, **limits)
        self._app = create_app(engine, names, **api, api_key=key)

    def __serve_build_asgi_app__(self):
        return self._app
