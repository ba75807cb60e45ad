"""The page that talks about a picture."""

import asyncio
import html
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from ..api.errors import ApiError
from ..api.pictures import Pictures
from ..engine import AnswerPiece, Engine, Question, Sampling
from .common import Stops, frame, notice, seed_field, seed_of, sentence, ticking
from .texts import Words

GREEDY, BEAMS, SAMPLING = "greedy", "beams", "sampling"


@dataclass(frozen=True)
class Turn:
    """A question, and its answer as far as it has come; the browser keeps them, as lists of the three.

    Args:
        question, answer (`str`): as people read them.
        context (`str`, *optional*): for the next question; None of an answer that was stopped.
    """

    question: str
    answer: str = ""
    context: str | None = None


class ChatPage:
    """The page, for one language.

    Args:
        engine (`Engine`): with a Chat.
        words (`Words`): of the language.
        pages (`list[str]`): all pages there are.
        pictures (`Pictures`): reads what people upload.
        max_pixels (`int`): that it allows.
        examples (`Sequence`): (picture, question) pairs that the model understands; the first picture is there from
            the start.
    """

    def __init__(
        self,
        engine: Engine,
        words: Words,
        pages: list[str],
        pictures: Pictures,
        max_pixels: int,
        examples: Sequence[tuple[str | Path, str]] = (),
    ):
        self.engine, self.words, self.pictures = engine, words, pictures
        self.stops = Stops()
        self.limits = {"megapixels": f"{max_pixels / 1e6:g}"}
        self.examples = [[str(picture), question] for picture, question in examples]
        with gr.Blocks(title=f"VisCPM · {words('chat')}", fill_width=True, analytics_enabled=False) as self.blocks:
            frame(words, "chat", pages, is_tiny=bool(self.examples))
            self._lay_out()
            self._connect()

    def _lay_out(self):
        words = self.words
        with gr.Row(equal_height=False, elem_id="columns"):
            with gr.Column(scale=5, min_width=300):
                self.picture = gr.Image(
                    self.examples[0][0] if self.examples else None,
                    label=words("picture"),
                    show_label=False,
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "webcam", "clipboard"],
                    height=320,
                    elem_id="picture",
                    buttons=[],
                )
                # a file that is no picture is ours to speak of, not gradio's
                self.picture.preprocess = lambda payload: None if payload is None else payload.path
                gr.HTML(f'<div class="hint">{words("picture_info")}</div>', padding=False)
                self._lay_out_settings()
            with gr.Column(scale=7, min_width=340):
                self.talk = gr.Chatbot(
                    label=words("conversation"),
                    show_label=False,
                    placeholder=f"### {words('empty')}",
                    examples=[{"text": question, "icon": picture} for picture, question in self.examples],
                    height=440,
                    render_markdown=False,
                    latex_delimiters=[],
                    buttons=[],
                    elem_id="talk",
                )
                self.notice = gr.HTML(visible=False, padding=False, elem_id="notice")
                self.question = gr.Textbox(
                    show_label=False,
                    label=words("ask"),
                    placeholder=words("ask"),
                    max_lines=6,
                    submit_btn=words("send"),
                    autofocus=True,
                    elem_id="question",
                )
                with gr.Row():
                    self.regenerate, self.undo, self.clear = (
                        gr.Button(words(name), size="sm", min_width=90, interactive=name == "clear", elem_id=name)
                        for name in ("regenerate", "undo", "clear")
                    )
        self.turns = gr.JSON([], visible=False)

    def _lay_out_settings(self):
        words = self.words
        longest = self.engine.chat.model.generation_config.max_new_tokens or 512
        with gr.Accordion(words("settings"), open=False, elem_id="settings"):
            choices = [(words(name), name) for name in (GREEDY, BEAMS, SAMPLING)]
            self.method = gr.Radio(choices, value=GREEDY, label=words("method"), elem_id="method")
            with gr.Column(visible=False) as self.of_sampling:
                self.temperature, self.top_p = (
                    gr.Slider(0.05, most, usual, step=0.05, label=words(name), info=words(f"{name}_info"))
                    for name, most, usual in (("temperature", 2, 0.7), ("top_p", 1, 0.9))
                )
                self.seed = seed_field(words)
            self.longest = gr.Slider(1, longest, longest, step=1, label=words("max_tokens"))

    def _connect(self):
        free = {"concurrency_limit": None, "api_visibility": "private", "show_progress": "hidden"}
        settings = [self.method, self.temperature, self.top_p, self.seed, self.longest]
        buttons = [self.question, self.regenerate, self.undo]
        shown = [self.talk, self.turns, self.notice]
        # before the question is sent, which is one event whatever begins it: a second waits for its end
        asked = {"js": self._js("asked"), "inputs": [self.question, self.talk]}
        self.question.submit(None, **asked, outputs=[self.talk, self.notice, *buttons], **free)
        # a value only: for anything else gradio would make the component anew, with its own preprocess()
        self.talk.example_select(self._picture_of, None, self.picture, **free)
        begins = [self.question.submit, self.regenerate.click, self.talk.example_select]
        asking = gr.on(
            begins,
            self._ask,
            [self.question, self.turns, self.picture, *settings],
            [*shown, *buttons],
            js=self._js("begin"),
            **free,
        )
        ended = {"inputs": [self.turns, self.talk, self.question], "outputs": [*shown, *buttons]}
        asking.then(None, js=self._js("end"), **ended, **free)
        asking.failure(None, js=self._js("failed"), **ended, **free)
        self.question.stop(self.stops.stop, **free)
        undone = {"js": self._js("undo"), "inputs": [self.turns, self.talk, self.question]}
        self.undo.click(None, **undone, outputs=[*shown, *buttons], **free)
        for event in (self.clear.click, self.talk.clear, self.picture.input):
            event(None, js=self._js("clear"), outputs=[*shown, *buttons], **free)
        shows = f"(method) => ({{__type__: 'update', visible: method == '{SAMPLING}'}})"
        self.method.change(None, js=shows, inputs=self.method, outputs=self.of_sampling, **free)

    def _js(self, name):
        """A function of pages.js, with the words it needs."""
        words = {each: self.words(each) for each in ("send", "thinking")}
        words["uploading"] = notice(self.words("uploading"))["value"]
        return f"(...values) => chat.{name}({json.dumps(words)}, ...values)"

    def _picture_of(self, event: gr.SelectData):
        return self.examples[event.index][0]

    async def _ask(
        self,
        question,
        kept,
        picture,
        method,
        temperature,
        top_p,
        seed,
        longest,
        event: gr.EventData,
        request: gr.Request,
    ):
        """Yields what the page shows: while the answer comes, and when it is there or something went wrong."""
        turns = []
        try:
            before = turns = _turns(kept)
            begun = event.target.elem_id  # a session has copies of the components
            if begun == "regenerate":
                *before, last = turns
                question = last.question
            elif begun == "talk":
                picture, question = self.examples[event.index]
            question = question.strip()
            if not question:
                raise ApiError(400, "Got no question.", "no_question")
            sampling = Sampling(max_tokens=int(longest))
            if method == SAMPLING:
                drawn = {"temperature": float(temperature), "top_p": float(top_p), "seed": seed_of(seed)}
                sampling = Sampling(int(longest), **drawn)
            turn = Turn(question)
            with self.stops.of(request) as stopped:
                said = notice("" if picture else self.words("no_picture"), "note")
                yield self._shown([*before, turn], said, busy=True)
                wish = Question(question, None, self._context(before), sampling)
                async with aclosing(ticking(self._pieces(wish, picture, method != BEAMS), stopped)) as ticks:
                    async for piece in ticks:
                        match piece:
                            case AnswerPiece():
                                turn = replace(turn, answer=turn.answer + piece.text)
                            case [answer]:
                                turn = replace(turn, answer=answer.text, context=answer.context)
                        yield self._shown([*before, turn])
            if not turn.answer and turn.context is None:  # stopped before it began
                yield self._shown(turns)
        except Exception as error:
            yield self._shown(turns, sentence(self.words, error, **self.limits))

    async def _pieces(self, question, picture, streamed):
        async with AsyncExitStack() as stack:
            if picture is not None:
                data = await asyncio.to_thread(Path(picture).read_bytes)
                image = await stack.enter_async_context(self.pictures.from_bytes(data, "image"))
                question = replace(question, image=image)
            if not streamed:
                yield await self.engine.answer(question)
                return
            async with aclosing(self.engine.stream_answer(question)) as pieces:
                async for piece in pieces:
                    yield piece

    def _context(self, turns: Sequence[Turn]) -> str:
        """For the next question; an answer that was stopped counts as far as it came."""
        if not turns:
            return ""
        *before, last = turns
        if last.context is not None:
            return last.context
        return self.engine.chat.add_turn(self._context(before), last.question, last.answer)

    def _shown(self, turns, said=None, busy=False):
        """Values of all that changes; the rest is the page's own business, where somebody may be writing."""
        messages = []
        for turn in turns:
            answer = turn.answer or (self.words("thinking") if turn.context is None else " ")
            for role, text in (("user", turn.question), ("assistant", answer)):
                messages.append({"role": role, "content": html.escape(text)})  # it would be taken for HTML
        buttons = [gr.skip()] * 3
        if busy:
            off = gr.update(interactive=False)
            buttons = [gr.update(submit_btn=False, stop_btn=self.words("stop")), off, off]
        kept = [[turn.question, turn.answer, turn.context] for turn in turns]
        return messages, kept, gr.skip() if said is None else said, *buttons


def _turns(kept: Any) -> list[Turn]:
    """What the browser has kept.

    Raises:
        ValueError: it has not been made here.
    """
    try:
        turns = [Turn(question, answer, context) for question, answer, context in kept or []]
    except (TypeError, ValueError):
        turns = [None]
    if all(
        isinstance(turn, Turn) and isinstance(turn.question, str) and isinstance(turn.answer, str) for turn in turns
    ):
        if all(turn.context is None or isinstance(turn.context, str) for turn in turns):
            return turns
    raise ValueError("Got a conversation that is none: clear it.")
