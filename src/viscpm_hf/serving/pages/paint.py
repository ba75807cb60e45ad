"""The page that paints."""

import base64
import html
import io
import json
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

import gradio as gr
from PIL import Image

from ... import __version__
from ...paint import CHINESE, SCHEDULERS
from ..api.errors import ApiError
from ..engine import Engine, Progress, Prompt
from .common import Stops, frame, notice, seed_field, seed_of, sentence, ticking
from .texts import Words

_STEPS = {"ddpm": 50, "dpm++": 20}
_PREVIEWS = 10
_KEPT = 24  # pictures in the gallery


@dataclass(frozen=True, eq=False)
class Work:
    """A picture that was painted.

    Args:
        image (`PIL.Image.Image`), seed (`int`): as the engine gave them.
        details (`str`): how it was painted, in the page's language.
    """

    image: Image.Image
    seed: int
    details: str


class PaintPage:
    """The page, for one language.

    Args:
        engine (`Engine`): with a Paint.
        words (`Words`): of the language.
        pages (`list[str]`): all pages there are.
        examples (`Sequence[str]`): prompts that the model understands.
    """

    def __init__(self, engine: Engine, words: Words, pages: list[str], examples: Sequence[str] = ()):
        self.engine, self.words, self.examples = engine, words, [[prompt] for prompt in examples]
        self.stops = Stops()
        pipeline = engine.painter.pipeline
        self.factor = pipeline.vae_scale_factor
        self.size = pipeline.unet.config.sample_size * self.factor
        with gr.Blocks(title=f"VisCPM · {words('paint')}", fill_width=True, analytics_enabled=False) as self.blocks:
            frame(words, "paint", pages, is_tiny=bool(self.examples))
            self._lay_out()
            self._connect()

    def _lay_out(self):
        words = self.words
        with gr.Row(equal_height=False, elem_id="columns"):
            with gr.Column(scale=5, min_width=320):
                self.prompt = gr.Textbox(
                    label=words("prompt"),
                    placeholder=words("describe"),
                    max_lines=8,  # of several lines at the start Enter would not send
                    autofocus=True,
                    elem_id="prompt",
                )
                self.negative = gr.Textbox(
                    label=words("negative"), placeholder=words("negative_describe"), elem_id="negative"
                )
                with gr.Row():
                    self.paint = gr.Button(words("paint_now"), variant="primary", size="lg", elem_id="paint")
                    self.stop = gr.Button(words("stop"), variant="stop", size="lg", visible=False, elem_id="stop")
                if self.examples:
                    self.dataset = gr.Dataset(
                        components=[gr.Textbox(visible=False)],
                        samples=self.examples,
                        label=words("examples"),
                        elem_id="examples",
                    )
                self._lay_out_settings()
            with gr.Column(scale=7, min_width=340):
                self.stage = gr.HTML(visible=False, padding=False, elem_id="stage")
                self.notice = gr.HTML(visible=False, padding=False, elem_id="notice")
                self.gallery = gr.Gallery(
                    label=words("pictures"),
                    show_label=False,
                    columns=2,
                    fit_columns=False,
                    height="auto",
                    object_fit="contain",
                    format="png",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    elem_id="pictures",
                )
                with gr.Row(visible=False, equal_height=False, elem_id="about") as self.about:
                    self.details = gr.HTML(padding=False, elem_id="details")
                    self.reuse = gr.Button(words("reuse"), size="sm", scale=0, min_width=170, elem_id="reuse")
        self.works, self.chosen = gr.State([]), gr.State(None)

    def _lay_out_settings(self):
        words, side = self.words, self.size
        step = max(self.factor, side // 8)
        with gr.Accordion(words("settings"), open=False, elem_id="settings"):
            with gr.Row():
                self.seed = seed_field(words)
                self.number = gr.Slider(1, 8, 1, step=1, label=words("number"), elem_id="number")
            with gr.Row():
                self.width = gr.Slider(step, 2 * side, side, step=step, label=words("width"))
                self.height = gr.Slider(step, 2 * side, side, step=step, label=words("height"))
            choices = [(words(name), name) for name in SCHEDULERS]
            self.scheduler = gr.Radio(choices, value="ddpm", label=words("scheduler"), elem_id="scheduler")
            self.steps = gr.Slider(1, 200, _STEPS["ddpm"], step=1, label=words("steps"), elem_id="steps")
            guidance, info = self.engine.painting["guidance"], words("guidance_info")
            self.guidance = gr.Slider(0, 20, guidance, step=0.5, label=words("guidance"), info=info)
            ranked = "ranker" in self.engine.painter.chinese_only
            self.candidates = gr.Slider(
                1,
                8,
                4 if ranked else 1,
                step=1,
                label=words("candidates"),
                info=words("candidates_info"),
                visible=ranked,
            )

    def _connect(self):
        free = {"concurrency_limit": None, "api_visibility": "private", "show_progress": "hidden"}
        settings = [self.seed, self.number, self.width, self.height, self.scheduler, self.steps, self.guidance]
        asked = [self.prompt, self.negative, *settings, self.candidates, self.works]
        shown = [
            *(self.stage, self.notice, self.gallery, self.about, self.details),
            *(self.works, self.chosen, self.paint, self.stop),
        ]
        begins = [self.paint.click, self.prompt.submit]
        if self.examples:
            fill = f"(number) => {json.dumps(self.examples)}[number][0]"
            self.dataset.click(None, js=fill, inputs=self.dataset, outputs=self.prompt, **free)
            begins.append(self.dataset.click)
        # one event whatever begins it, so that a second waits for its end
        painting = gr.on(begins, self._paint, asked, shown, **free)
        idle = "() => [{__type__: 'update', interactive: true}, {__type__: 'update', visible: false}]"
        for after in (painting.then, painting.failure):
            after(None, js=idle, outputs=[self.paint, self.stop], **free)
        self.stop.click(self.stops.stop, **free)
        self.gallery.select(self._choose, self.works, [self.details, self.chosen], **free)
        self.reuse.click(str, self.chosen, self.seed, **free)
        steps = f"(name) => ({json.dumps(_STEPS)})[name]"
        self.scheduler.change(None, js=steps, inputs=self.scheduler, outputs=self.steps, **free)

    async def _paint(
        self,
        prompt,
        negative,
        seed,
        number,
        width,
        height,
        scheduler,
        steps,
        guidance,
        candidates,
        works,
        request: gr.Request,
    ):
        """Yields what the page shows: how far it is, and the pictures, or what went wrong."""
        prompt = (prompt or "").strip()
        progress, previews, since, painted = None, (), None, []
        try:
            if not prompt:
                raise ApiError(400, "Got no prompt.", "no_prompt")
            wish = Prompt(
                prompt,
                (negative or "").strip(),
                n=int(number),
                seed=seed_of(seed),
                steps=int(steps),
                guidance=float(guidance),
                width=int(width),
                height=int(height),
                # the ranker knows Chinese only
                candidates=int(candidates) if candidates > 1 and CHINESE.search(prompt) else None,
                scheduler=scheduler,
                previews=_PREVIEWS,
            )
            with self.stops.of(request) as stopped:
                yield self._shown(notice(), stage=self._stage(None))
                async with aclosing(ticking(self.engine.stream_picture(wish), stopped)) as ticks:
                    async for piece in ticks:
                        match piece:
                            case Progress():
                                since = since or (time.monotonic(), piece.step)
                                progress, previews = piece, _as_html(piece.previews) or previews
                            case list():
                                painted = piece
                                continue
                        yield self._going_on(self._stage(progress, previews, since))
        except Exception as error:
            yield self._shown(sentence(self.words, error))
            return
        new = [Work(_noted(one.image, wish, one.seed), one.seed, self._details(wish, one)) for one in painted]
        blackened = sum(one.blackened for one in painted)
        if blackened:
            said = notice(self.words("blackened", count=blackened, all=len(painted)))
        else:
            said = notice("" if new else self.words("stopped"), "note")
        yield self._shown(said, works=[*new, *works][:_KEPT] if new else None)

    def _details(self, wish, painted):
        details = self.words(
            "details",
            prompt=wish.prompt,
            seed=painted.seed,
            steps=wish.steps,
            scheduler=wish.scheduler.upper(),
            guidance=f"{wish.guidance:g}",
            width=painted.image.width,
            height=painted.image.height,
        )
        return (
            f"{details} · {self.words('without', negative=wish.negative_prompt)}" if wish.negative_prompt else details
        )

    def _stage(self, progress, previews="", since=None):
        """The bar and the pictures so far."""
        words = self.words
        if progress is None:
            waiting = len(self.engine.batchers["paint"])
            said = words("queued", count=waiting) if waiting > 1 else words("waiting")
            bar, left = '<div class="bar unknown"></div>', ""
        else:
            said = words("painting", step=progress.step, steps=progress.steps)
            bar = f'<div class="bar" style="width:{100 * progress.step / progress.steps:.1f}%"></div>'
            start, first = since
            done = progress.step - first
            each = (time.monotonic() - start) / done if done else 0
            seconds = round(each * (progress.steps - progress.step))
            left = words("left", seconds=seconds) if seconds > 1 else ""
        return (
            f'<div class="stage"><div class="said"><span>{html.escape(said)}</span><span>{left}</span></div>'
            f'<div class="track">{bar}</div>{previews and f"""<div class="previews">{previews}</div>"""}</div>'
        )

    def _going_on(self, stage):
        return stage, *[gr.skip()] * 8

    def _shown(self, said, stage=None, works=None):
        """Values of all that changes; a stage is that of work under way."""
        about = details = chosen = pictures = gr.skip()
        if works is not None:
            # without captions, which cover what is painted; `details` has the seed of the chosen one
            pictures = gr.update(value=[work.image for work in works], selected_index=None)
            about, details, chosen = gr.update(visible=True), _details_html(works[0]), works[0].seed
        return (
            gr.update(value=stage or "", visible=stage is not None),
            said,
            pictures,
            about,
            details,
            gr.skip() if works is None else works,
            chosen,
            gr.update(interactive=False) if stage else gr.skip(),
            gr.update(visible=True) if stage else gr.skip(),
        )

    def _choose(self, works, event: gr.SelectData):
        work = works[event.index]
        return _details_html(work), work.seed


def _details_html(work: Work) -> str:
    return f'<div class="details">{html.escape(work.details)}</div>'


def _noted(image: Image.Image, wish: Prompt, seed: int) -> Image.Image:
    """The picture with how it was painted, which gradio writes into the PNG."""
    notes = {
        "Software": f"viscpm-hf {__version__}",
        "prompt": wish.prompt,
        "negative prompt": wish.negative_prompt,
        "seed": seed,
        "steps": wish.steps,
        "guidance": wish.guidance,
        "scheduler": wish.scheduler,
        "candidates": wish.candidates or 1,
    }
    image.info = {name: str(value) for name, value in notes.items()}
    return image


def _as_html(previews: Sequence[Image.Image]) -> str:
    """Small pictures inside the page itself: nothing unfinished is kept in a file."""
    found = ""
    for preview in previews:
        data = io.BytesIO()
        preview.thumbnail((256, 256))
        preview.save(data, "WEBP", quality=80)
        found += f'<img alt="" src="data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}">'
    return found
