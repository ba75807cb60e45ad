"""What both pages are made of: the frame around them, waiting, and sentences when something went wrong."""

import asyncio
import html
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from ..api.errors import ApiError
from .texts import OF_GRADIO, Words

logger = logging.getLogger(__name__)

# of this machine only: nothing is fetched from elsewhere
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
_HERE = Path(__file__).parent
LOOK = {
    "theme": gr.themes.Soft(
        primary_hue="indigo",
        secondary_hue="indigo",
        neutral_hue="slate",
        radius_size="lg",
        font=_FONTS,
        font_mono=_MONO,
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_border_width="1px",
        block_border_color="*neutral_200",
        block_shadow="0 1px 2px rgb(15 23 42 / .05)",
        block_label_background_fill="*background_fill_primary",
        block_label_background_fill_dark="*background_fill_primary",
        block_label_text_color="*body_text_color_subdued",
        block_title_background_fill="transparent",
        block_title_background_fill_dark="transparent",
        block_title_text_color="*body_text_color_subdued",
        block_title_padding="0",
        body_text_color_subdued="*neutral_500",
        button_secondary_background_fill_hover_dark="*neutral_500",  # also of those that are off
    ),
    "css": (_HERE / "pages.css").read_text(encoding="utf-8"),
}


def frame(words: Words, page: str, others: list[str], is_tiny: bool = False) -> None:
    """The top of a page: what it is, and the way to the others.

    Args:
        words (`Words`): of its language.
        page (`str`): `"chat"` or `"paint"`.
        others (`list[str]`): all pages there are.
        is_tiny (`bool`): whether the model is the one of the package, which it says.
    """
    links = "".join(
        f'<a href="../{each}/"{" aria-current=page" if each == page else ""}>{html.escape(words(each))}</a>'
        for each in others
    )
    other = "zh" if words.language == "en" else "en"
    links += f'<a href="../../{other}/{page}/" lang="{other}">{html.escape(words("other"))}</a>'
    title, about = html.escape(words(page)), html.escape(words(f"{page}_about"))
    if is_tiny:
        about += f"<br>{html.escape(words('tiny'))}"
    gr.HTML(f"<header><div><h1>{title}</h1><p>{about}</p></div><nav>{links}</nav></header>", padding=False)


def head_of(words: Words) -> str:
    """For the HTML head, before gradio's own scripts."""
    language = {"en": "en", "zh": "zh-CN"}[words.language]
    script = (_HERE / "pages.js").read_text(encoding="utf-8").replace("LANGUAGE", language)
    script = script.replace("OF_GRADIO", json.dumps(OF_GRADIO if words.language == "zh" else {}))
    return f"<script>{script}</script>"


def notice(text: str = "", kind: str = "wrong") -> dict[str, Any]:
    """What the line for sentences shows.

    Args:
        text (`str`): one sentence; nothing hides the line.
        kind (`str`): `"wrong"` or `"note"`.
    """
    shown = f'<div class="notice {kind}" role="alert">{html.escape(text)}</div>' if text else ""
    return gr.update(value=shown, visible=bool(text))


def sentence(words: Words, error: Exception, **values: Any) -> dict[str, Any]:
    """The line for sentences, of an exception; one of the server's making goes to the log."""
    text = words.of_error(error, **values)
    if text in (words("internal_error"), words("out_of_memory")):
        logger.error("A page's request failed", exc_info=error)
    return notice(text)


def seed_field(words: Words) -> gr.Textbox:
    """A text, since browsers have no whole numbers of 64 bits."""
    return gr.Textbox(
        label=words("seed"), placeholder=words("random"), info=words("seed_info"), max_length=20, elem_id="seed"
    )


def seed_of(text: str | None) -> int | None:
    """What the field holds, None where it is empty, or was never shown.

    Raises:
        ApiError: it is no seed.
    """
    text = (text or "").strip()
    if not text:
        return None
    if not re.fullmatch("[0-9]+", text) or int(text) >= 2**64:
        raise ApiError(400, "Got no seed.", "no_seed")
    return int(text)


class Stops:
    """Where work that is under way hears that it shall stop; of each open page one at a time.

    gradio's own way, `cancels`, hangs up on all that a page waits for, also on a question that comes a moment later.
    """

    def __init__(self):
        self._events: dict[str, asyncio.Event] = {}

    @contextmanager
    def of(self, request: gr.Request) -> Iterator[asyncio.Event]:
        """Set once the page of the request asks for it."""
        event = self._events[request.session_hash] = asyncio.Event()
        try:
            yield event
        finally:
            if self._events.get(request.session_hash) is event:
                del self._events[request.session_hash]

    async def stop(self, request: gr.Request) -> None:
        """Ends what the page of the request waits for, if it does."""
        if (event := self._events.get(request.session_hash)) is not None:
            event.set()


async def ticking(items: AsyncIterator[Any], stopped: asyncio.Event, seconds: float = 0.5) -> AsyncIterator[Any]:
    """The items of an async generator until it shall stop, and None whenever so many seconds go by without one.

    What waits for them can so tell how long it has waited, and gradio notices between two items that a tab was closed;
    closing it closes the generator.
    """
    stop = asyncio.ensure_future(stopped.wait())
    task = None
    async with aclosing(items):
        try:
            while True:
                task = asyncio.ensure_future(anext(items))
                done = set()
                while not done:
                    done, _ = await asyncio.wait({task, stop}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                    if stop in done:
                        return
                    if not done:
                        yield None
                try:
                    item = task.result()
                except StopAsyncIteration:
                    return
                yield item
        finally:
            stop.cancel()
            if task is not None and not task.done():
                task.cancel()
                await asyncio.wait({task})
