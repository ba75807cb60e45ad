"""The application: where each page is found, and in which language."""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

# gradio reads them when it is imported: nothing is told to anybody
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response

from ..api.pictures import Pictures
from ..engine import Engine
from .around import AroundPages
from .chat import ChatPage
from .common import LOOK
from .paint import PaintPage
from .texts import LANGUAGES, Words

_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="6" cy="7" r="5" fill="#6366f1"/>'
    '<path d="M11 6l5 9H6z" fill="#fb923c"/></svg>'
)
_KEPT = (600, 7200)  # seconds: how often files are looked at, and how old they become


def create_pages(
    engine: Engine,
    api: Callable | None = None,
    *,
    language: str | None = None,
    questions: Sequence[tuple[str | Path, str, str]] = (),
    prompts: Sequence[tuple[str, str]] = (),
    max_pixels: int = 40_000_000,
    max_body: int = 32 * 2**20,
    password: str | None = None,
) -> FastAPI:
    """The pages of an engine's models, at `/en/chat/`, `/zh/paint/` and so on; `/` leads to the first.

    Args:
        engine (`Engine`): with the models; who made it closes it.
        api (*optional*): an ASGI application that answers everything else, such as `create_app` makes.
        language (`str`, *optional*): where `/` leads, `"en"` or `"zh"`; by default what the browser asks for.
        questions (`Sequence`): (picture, English question, Chinese question) triples that Chat understands.
        prompts (`Sequence`): (English, Chinese) prompts that Paint understands.
        max_pixels (`int`): that a picture may have.
        max_body (`int`, bytes): that a file or a request may have.
        password (`str`, *optional*): which people must give, under any name.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=True)
    # of this process alone: gradio's own folder is everybody's, and stays
    app.state.files = tempfile.TemporaryDirectory(prefix="viscpm-pages-")
    os.environ["GRADIO_TEMP_DIR"] = app.state.files.name
    pages = [name for name, model in (("chat", engine.chat), ("paint", engine.painter)) if model is not None]
    pictures = None
    if engine.chat is not None:
        pictures = Pictures(engine.chat.processor.image_processor.to_pil, max_pixels)

    @app.get("/")
    def first(request: Request) -> RedirectResponse:
        return RedirectResponse(f"{language or _preferred(request.headers.get('accept-language', ''))}/{pages[0]}/")

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(_ICON, media_type="image/svg+xml")

    for number, each in enumerate(LANGUAGES):
        words = Words(each)
        found = {}
        if "chat" in pages:
            asked = [(picture, texts[number]) for picture, *texts in questions]
            found["chat"] = ChatPage(engine, words, pages, pictures, max_pixels, asked).blocks
        if "paint" in pages:
            found["paint"] = PaintPage(engine, words, pages, [texts[number] for texts in prompts]).blocks
        for page, blocks in found.items():
            blocks.delete_cache = _KEPT
            blocks.queue(api_open=False, default_concurrency_limit=None)
            gr.mount_gradio_app(
                app,
                blocks,
                f"/{each}/{page}",
                footer_links=[],
                run_history=False,
                ssr_mode=False,
                mcp_server=False,
                enable_monitoring=False,
                max_file_size=max_body,
                allowed_paths=sorted({str(Path(picture).parent) for picture, *_ in questions}),
                **LOOK,
            )
    if api is not None:
        app.mount("", api)
    app.add_middleware(AroundPages, engine=engine, max_body=max_body, password=password)
    return app


def _preferred(header: str) -> str:
    """The language that a browser would rather read: the first of its list that there is."""
    for language in header.lower().split(","):
        if language.strip()[:2] in LANGUAGES:
            return language.strip()[:2]
    return LANGUAGES[0]
