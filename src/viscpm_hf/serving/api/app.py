"""The application: routes, limits, errors."""

from collections.abc import Mapping, Sequence

from fastapi import FastAPI

from ... import __version__
from ..engine import Engine
from . import errors

NAMES = {"chat": "VisCPM-Chat", "paint": "VisCPM-Paint"}


def create_app(
    engine: Engine,
    names: Mapping[str, str] = NAMES,
    *,
    max_pixels: int = 40_000_000,
    max_body: int = 32 * 2**20,
    api_key: str | None = None,
    allow_image_urls: bool = False,
    cors: Sequence[str] = (),
) -> FastAPI:
    """The HTTP API of an engine.

    Args:
        engine (`Engine`): with the models; who made it closes it.
        names (`Mapping`): under which the models `chat` and `paint` are served.
        max_pixels (`int`): that a picture may have.
        max_body (`int`, bytes): that a request may have.
        api_key (`str`, *optional*): which clients must send, as `Authorization: Bearer`.
        allow_image_urls (`bool`): whether pictures are fetched from http(s) addresses in the open Internet.
        cors (`Sequence[str]`): origins whose pages may use it in browsers.
    """
    app = FastAPI(
        title="viscpm_hf",
        version=__version__,
        summary="VisCPM-Chat talks about pictures, VisCPM-Paint draws them.",
        responses=errors.RESPONSES,
        docs_url=None,
        redoc_url=None,
    )
    errors.add_to(app)
    # helper `serve`: images.add_to(app, engine, names) here
    # helper `serve`: models.add_to(app, engine, names) here
    # helper `serve`: metrics.add_to(app, engine) here
    return app
