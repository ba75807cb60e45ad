"""The page that talks about a picture."""

import asyncio
import html
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from ..api.pictures import Pictures
from ..engine import AnswerPiece, Engine, Question, Sampling
from .common import frame, notice, seed_field, seed_of, sentence, ticking
from .texts import Words

GREEDY, BEAMS, SAMPLING = "greedy", "beams", "sampling"
# whoever is quick would undo what the server has not begun yet: it says later that an answer is under way
_AT_ONCE = """(...inputs) => {
    for (const name of ["undo", "regenerate"]) document.getElementById(name).disabled = true
    return inputs
}"""


@dataclass(frozen=True)
class Turn:
    """A question, and its answer as far as it has come.

    Args:
        picture (`str`, *optional*): the file it is about.
        question, answer (`str`): as people read them.
        context (`str`, *optional*): for the next question; None while the answer is not complete.
    """

    picture: str | None
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
        self.limits = {"megapixels": f"{max_pixels / 1e6:g}"}
        self.examples = [[str(picture), question] for picture, question in examples]
        with gr.Blocks(title=f"VisCPM · {words('chat')}", fill_width=True, analytics_enabled=False) as self.blocks:
            frame(words, "chat", pages)
            self._lay_out()
            self._connect()

    def _lay_out(self):
        words = self.words
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=300):
                self.picture = gr.Image(
                    self.examples[0][0] if self.examples else None,
                    label=words("picture"),
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
        self.turns = gr.State([])

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
        asked = [self.picture, self.turns, self.method, self.temperature, self.top_p, self.seed, self.longest]
        shown = [self.talk, self.turns, self.question, self.notice, self.regenerate, self.undo]
        asking = [
            self.question.submit(self._ask, [self.question, *asked], shown, **free),
            self.regenerate.click(self._ask_again, asked, shown, js=_AT_ONCE, **free),
        ]
        if self.examples:
            fill = self.talk.example_select(self._fill, None, [self.picture, self.question], **free)
            asking.append(fill.then(self._ask, [self.question, *asked], shown, **free))
        self.question.stop(None, cancels=asking).then(self._settle, [self.turns, self.question], shown, **free)
        self.undo.click(self._undo, self.turns, shown, **free)
        for event in (self.clear.click, self.talk.clear, self.picture.input):
            event(None, cancels=asking).then(self._clear, None, shown, **free)
        self.method.change(lambda method: gr.update(visible=method == SAMPLING), self.method, self.of_sampling, **free)

    def _fill(self, event: gr.SelectData):
        return self.examples[event.index]

    async def _ask(self, question, picture, turns, method, temperature, top_p, seed, longest):
        """Yields what the page shows: while the answer comes, and when it is there or something went wrong."""
        question = (question or "").strip()
        before = turns if turns and turns[-1].picture == picture else []
        if not question:
            yield self._shown(turns, notice(self.words("no_question")))
            return
        turn = Turn(picture, question)
        yield self._shown([*before, turn], notice(), busy=True)
        sampling = Sampling(max_tokens=int(longest))
        try:
            if method == SAMPLING:
                drawn = {"temperature": float(temperature), "top_p": float(top_p), "seed": seed_of(seed)}
                sampling = Sampling(int(longest), **drawn)
            wish = Question(question, None, self._context(before), sampling)
            async with aclosing(ticking(self._pieces(wish, picture, method != BEAMS))) as ticks:
                async for piece in ticks:
                    match piece:
                        case AnswerPiece():
                            turn = Turn(picture, question, turn.answer + piece.text)
                        case [answer]:
                            turn = Turn(picture, question, answer.text, answer.context)
                    yield self._going_on([*before, turn])
        except Exception as error:
            yield self._shown(before, sentence(self.words, error, **self.limits), question)
            return
        yield self._shown([*before, turn], notice())

    async def _ask_again(self, picture, turns, *settings):
        last = turns[-1]
        before = turns[:-1]
        async with aclosing(self._ask(last.question, picture, before, *settings)) as steps:
            async for step in steps:
                yield step

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

    def _messages(self, turns: Sequence[Turn]) -> list[dict[str, Any]]:
        messages = []
        for turn in turns:
            answer = turn.answer or (self.words("thinking") if turn.context is None else " ")
            for role, text in (("user", turn.question), ("assistant", answer)):
                messages.append({"role": role, "content": html.escape(text)})  # it would be taken for HTML
        return messages

    def _going_on(self, turns):
        return self._messages(turns), turns, gr.skip(), gr.skip(), gr.skip(), gr.skip()

    def _shown(self, turns, said, question="", busy=False):
        """Values of all that changes; the question is what is put into its field, None leaves it alone."""
        sending = {
            "submit_btn": False if busy else self.words("send"),
            "stop_btn": self.words("stop") if busy else False,
        }
        written = {} if question is None else {"value": question}
        button = gr.update(interactive=bool(turns) and not busy)
        return self._messages(turns), turns, gr.update(**sending, **written), said, button, button

    def _settle(self, turns, question):
        """After stopping: what has come stays; a question without an answer goes back into its field."""
        if turns and turns[-1].context is None and not turns[-1].answer:
            return self._shown(turns[:-1], notice(), turns[-1].question)
        return self._shown(turns, notice(), question)

    def _undo(self, turns):
        return self._shown(turns[:-1], notice(), turns[-1].question if turns else "")

    def _clear(self):
        return self._shown([], notice(), None)  # whoever changes the picture may be writing already
