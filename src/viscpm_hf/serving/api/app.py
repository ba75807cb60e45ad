"""The application: routes, limits, errors."""

from collections.abc import Mapping, Sequence

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from ... import __version__
from ...remote_code.image_processing_viscpm_chat import VisCPMChatImageProcessor
from ..engine import Engine
from . import chat, errors, images, metrics, models, original, page
from .fetching import Fetcher
from .limits import Heads, Key, Limits
from .pictures import Pictures
from .reading import JsonRoute

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

    Raises:
        ValueError: if the key is empty.
        ImportError: if pictures are to be fetched without the library for it.
    """
    if api_key is not None and not api_key.strip():
        raise ValueError("The API key is empty: give one, or None for a server that is open to all.")
    app = FastAPI(
        title="viscpm_hf",
        version=__version__,
        summary="VisCPM-Chat talks about pictures, VisCPM-Paint draws them.",
        responses=errors.RESPONSES,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.router.route_class = JsonRoute
    errors.add_to(app)
    # the last is the first to see a request
    app.add_middleware(Limits, max_body=max_body, timeout=engine.timeout)
    if api_key is not None:
        app.add_middleware(Key, api_key=api_key)
    if cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After"],
        )
    app.add_middleware(Heads)
    name, painter = (names[kind] if kind in engine.batchers else None for kind in ("chat", "paint"))
    to_rgb = VisCPMChatImageProcessor().to_pil
    pictures = Pictures(to_rgb, max_pixels, Fetcher(max_body) if allow_image_urls else None)
    original.add_to(app, engine, name, pictures)
    chat.add_to(app, engine, name, pictures)
    images.add_to(app, engine, painter, max_pixels)
    models.add_to(app, engine, names)
    metrics.add_to(app, engine, names)
    page.add_to(app)
    return app
