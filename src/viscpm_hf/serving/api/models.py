"""`/v1/models` and `/health`: what is served, and whether it works."""

import time
from collections.abc import Mapping
from typing import Literal

from fastapi import FastAPI, Response
from pydantic import BaseModel, Field

from ..engine import Engine
from .errors import ApiError, quoted


class Model(BaseModel):
    """A model, as OpenAI describes one."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When the server was started, in seconds since 1970.")
    owned_by: str = "viscpm_hf"


class Models(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[Model]


class ModelHealth(BaseModel):
    """Whether a model works."""

    id: str
    alive: bool
    queue: int = Field(description="How many requests wait for it.")


class Health(BaseModel):
    """Whether the server works."""

    status: Literal["ok", "draining", "failed"] = Field(description="draining: it is about to stop.")
    live: bool = Field(description="False once a model has died: the server should be started anew.")
    ready: bool = Field(description="Whether requests are taken.")
    models: dict[str, ModelHealth]


def add_to(app: FastAPI, engine: Engine, names: Mapping[str, str]) -> None:
    """Adds the routes.

    Args:
        app (`FastAPI`).
        engine (`Engine`): whose models are served.
        names (`Mapping`): of `chat` and `paint`, under which they are.
    """
    started = int(time.time())
    models = {names[kind]: Model(id=names[kind], created=started) for kind in engine.batchers}

    @app.get("/v1/models", tags=["OpenAI"])
    async def list_models() -> Models:
        """The models that are served."""
        return Models(data=list(models.values()))

    @app.get("/v1/models/{id:path}", tags=["OpenAI"])
    async def one_model(id: str) -> Model:
        """A model; the id of one from the Hub has a slash."""
        if id not in models:
            raise ApiError(
                404, f"Got {quoted(id)} as model, expected {' or '.join(models)}.", "model_not_found", "model"
            )
        return models[id]

    @app.get("/health", tags=["Operation"], responses={503: {"model": Health, "description": "It takes no requests"}})
    async def health(response: Response) -> Health:
        """Whether requests are taken; 503 if not."""
        found = _health(engine, names)
        response.status_code = 200 if found.ready else 503
        return found

    @app.get("/health/live", tags=["Operation"], responses={503: {"model": Health, "description": "A model has died"}})
    async def live(response: Response) -> Health:
        """Whether it works, be it about to stop; 503 if it should be started anew."""
        found = _health(engine, names)
        response.status_code = 200 if found.live else 503
        return found


def _health(engine, names):
    models, live, draining = {}, True, False
    for kind, batcher in engine.batchers.items():
        models[kind] = ModelHealth(id=names[kind], alive=batcher.alive, queue=len(batcher))
        live &= batcher.alive or batcher.draining  # one that has drained is through
        draining |= batcher.draining
    status = "failed" if not live else "draining" if draining else "ok"
    return Health(status=status, live=live, ready=engine.ready, models=models)
