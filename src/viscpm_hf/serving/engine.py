"""Questions and prompts of many people, answered by one Chat and one Paint: batches, deadlines, cancelling, counters.

What stands on it (an HTTP API, pages, a cluster) knows no model, and it knows no HTTP.
"""

import asyncio
import itertools
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from ..chat import ChatAnswer, VisCPMChat
from ..paint import CHINESE, VisCPMPaint, make_scheduler
from .batcher import Batcher, Request
from .stops import StopTexts, until_stop

T = TypeVar("T")
_LONGEST_WORD = 1000  # that the vocabulary lacks: it is one token, which an answer may have in each place


class PromptTooLongError(ValueError):
    """A question with its context is longer than the model reads."""


@dataclass(frozen=True)
class Sampling:
    """How answers are chosen.

    Without temperature and top_p it is the original's beam search; streamed, greedy search.

    Args:
        max_tokens (`int`, *optional*): at most so many; by default the model's, 514 for those released.
        temperature (`float`, *optional*): 0 is greedy search.
        top_p (`float`, *optional*): sample among the likeliest tokens of so much probability.
        seed (`int`, *optional*): makes sampling repeatable; such a question is answered by itself.
        n (`int`): how many answers: of the sampling, or the best of the beams.
        stop (`tuple[str, ...]`): texts that end an answer and are left out.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn."""
        return self.temperature != 0 and (self.temperature is not None or self.top_p is not None)

    def options(self, streams: bool) -> dict[str, Any]:
        """For `generate()`."""
        options: dict[str, Any] = {}
        if self.max_tokens is not None:
            options["max_new_tokens"] = self.max_tokens
        if self.stop:
            options["stop_strings"] = list(self.stop)
        if self.n > 1:
            options["num_return_sequences"] = self.n
        if self.samples:
            # lower ones overflow; transformers' own default would draw among 50 tokens only
            temperature = 1.0 if self.temperature is None else max(self.temperature, 1e-4)
            options |= {"do_sample": True, "num_beams": 1, "temperature": temperature, "top_k": 0}
            options |= {} if self.top_p is None else {"top_p": self.top_p}
        elif streams or self.temperature == 0:
            options |= {"do_sample": False, "num_beams": 1}
        return options


@dataclass(frozen=True, eq=False)
class Question:
    """A question to Chat.

    Args:
        question (`str`): plain text.
        image (`PIL.Image.Image`, *optional*): what it is about.
        context (`str`): earlier turns, as `VisCPMChat.chat` returns them.
        sampling (`Sampling`): how the answer is chosen.
        shortens (`bool`): whether the oldest turns are left out where all is too long, as the class does, or the
            question is refused.
        turns (`tuple[tuple[str, str], ...]`): turns after those of `context`, question and answer, plain texts.
    """

    question: str
    image: Image.Image | None = None
    context: str = ""
    sampling: Sampling = Sampling()
    shortens: bool = True
    turns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class AnswerPiece:
    """A part of a streamed answer.

    Args:
        number (`int`): of the answer, if there are several.
        text (`str`): what comes next.
    """

    number: int
    text: str


@dataclass(frozen=True)
class Prompt:
    """A prompt to Paint.

    Args:
        prompt, negative_prompt (`str`): plain texts.
        n (`int`): how many pictures.
        seed (`int`, *optional*): of the first picture, the next has the next; drawn by lot by default. A prompt with a
            seed is painted by itself, so that its picture is the same to the last bit.
        steps (`int`, *optional*), guidance (`float`, *optional*): by default the engine's.
        width, height (`int`, *optional*): in pixels; by default the model's.
        candidates (`int`, *optional*): for each picture, of which the ranker chooses; by default the model's.
        scheduler (`str`, *optional*): one of `viscpm_hf.paint.SCHEDULERS`; by default the model's own.
        previews (`int`): how often the unfinished pictures come with the progress.
    """

    prompt: str
    negative_prompt: str = ""
    n: int = 1
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
    candidates: int | None = None
    scheduler: str | None = None
    previews: int = 0


@dataclass(frozen=True, eq=False)
class Painted:
    """A picture.

    Args:
        image (`PIL.Image.Image`): RGB.
        seed (`int`): that paints it again.
        blackened (`bool`): whether the safety checker replaced it by black.
    """

    image: Image.Image
    seed: int
    blackened: bool


@dataclass(frozen=True)
class Progress:
    """How far a picture is.

    Args:
        step, steps (`int`): of denoising.
        previews (`tuple[PIL.Image.Image, ...]`): the pictures so far, at the steps where they come; of several
            candidates the first. Those that the safety checker flags are black.
    """

    step: int
    steps: int
    previews: tuple[Image.Image, ...] = ()


async def until_deadline(stream: AsyncGenerator[T, None], timeout: float | None) -> AsyncIterator[T]:
    """The pieces of a stream until the deadline, which must not strike while somebody else is at work with a piece.

    Args:
        stream: is closed at the end.
        timeout: seconds from now; None is without end.

    Raises:
        TimeoutError: past the deadline.
    """
    deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
    async with aclosing(stream):
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    piece = await anext(stream)
            except StopAsyncIteration:
                return
            yield piece


@dataclass(frozen=True)
class Facts:
    """What is known of the models before they are asked.

    Args:
        beams (`int`): of Chat's own search, which gives as many answers at most.
        factor (`int`): the sides of Paint's pictures are multiples of it, in pixels.
        width, height (`int`): of a picture, unless a prompt says otherwise.
    """

    beams: int = 1
    factor: int = 1
    width: int = 0
    height: int = 0


class _CancelledError(Exception):
    """Nobody waits any more."""


class Engine:
    """Chat and Paint, each with its queue and its thread.

    Args:
        chat (`VisCPMChat`, *optional*), paint (`VisCPMPaint`, *optional*): loaded; it is the only one to use them.
        max_batch (`int`): how many questions or pictures go through a model at once.
        max_queue (`int`): how many requests may wait for a model.
        timeout (`float`, *optional*): seconds a request may take, waiting included.
        painting (`dict`, *optional*): what a prompt does not say: `steps`, `guidance`.

    Its coroutines raise `QueueFullError`, `DrainingError`, `TimeoutError` past the deadline, `UnsafeContentError` and
    `ValueError` for what cannot be answered. Cancelling them stops the model within a step.

    Example:
        >>> engine = Engine(VisCPMChat("viscpm-chat"))
        >>> (answer,) = await engine.answer(Question("图里有什么？", picture))
        >>> engine.close()
    """

    def __init__(
        self,
        chat: VisCPMChat | None = None,
        paint: VisCPMPaint | None = None,
        max_batch: int = 8,
        max_queue: int = 64,
        timeout: float | None = None,
        painting: Mapping[str, Any] | None = None,
    ):
        self.chat, self.painter, self.timeout, self.max_batch = chat, paint, timeout, max_batch
        self.painting = {"steps": 50, "guidance": 7.5, **(painting or {})}
        self.batchers: dict[str, Batcher] = {}
        if chat is not None:
            self.batchers["chat"] = Batcher("Chat", self._answer_batch, max_batch, max_queue)
        if paint is not None:
            paint.pipeline.set_progress_bar_config(disable=True)
            self._schedulers = {None: paint.pipeline.scheduler}
            self.batchers["paint"] = Batcher("Paint", self._paint_batch, max_batch, max_queue)

    @property
    def facts(self) -> Facts:
        """What is known of the models before they are asked."""
        facts = Facts()
        if self.chat is not None:
            facts = replace(facts, beams=self.chat.model.generation_config.num_beams or 1)
        if self.painter is not None:
            factor = self.painter.pipeline.vae_scale_factor
            height, width = np.broadcast_to(self.painter.pipeline.unet.config.sample_size, 2) * factor
            facts = replace(facts, factor=factor, width=int(width), height=int(height))
        return facts

    @property
    def ready(self) -> bool:
        """Whether requests are taken: no model is about to stop, none has died."""
        return all(batcher.alive and not batcher.draining for batcher in self.batchers.values())

    def drain(self) -> None:
        """Takes nothing new; what is there goes on."""
        for batcher in self.batchers.values():
            batcher.drain()

    def close(self, timeout: float = 0.0) -> None:
        """Takes nothing new, finishes what is there for so many seconds, cancels the rest; may be called again."""
        self.drain()
        for batcher in self.batchers.values():
            batcher.close(timeout)

    async def answer(self, question: Question) -> list[ChatAnswer]:
        """Answers a question.

        Returns:
            As many answers as asked for, best first, without stop texts.
        """
        group, weight = self._place_of(question, streams=False)
        async with asyncio.timeout(self.timeout):
            return await self.batchers["chat"].ask(question, group, weight)

    async def stream_answer(self, question: Question) -> AsyncIterator[AnswerPiece | list[ChatAnswer]]:
        """Answers a question piece by piece; at last comes what `answer` would return. Closing it stops the model."""
        stops = [StopTexts(question.sampling.stop) for _ in range(question.sampling.n)]
        group, weight = self._place_of(question, streams=True)
        stream = self.batchers["chat"].stream(question, group, weight)
        async with aclosing(until_deadline(stream, self.timeout)) as pieces:
            async for piece in pieces:
                if isinstance(piece, AnswerPiece):
                    if text := stops[piece.number].read(piece.text):
                        yield AnswerPiece(piece.number, text)
                    continue
                for number, rest in enumerate(stops):
                    if text := rest.end():
                        yield AnswerPiece(number, text)
                yield piece

    async def paint(self, prompt: Prompt) -> list[Painted]:
        """Paints a prompt; as many pictures as asked for."""
        async with asyncio.timeout(self.timeout):
            return await self.batchers["paint"].ask(prompt, *self._place_of_prompt(prompt))

    async def stream_picture(self, prompt: Prompt) -> AsyncIterator[Progress | list[Painted]]:
        """Paints a prompt, telling how far it is; at last comes what `paint` would return."""
        stream = self.batchers["paint"].stream(prompt, *self._place_of_prompt(prompt))
        async with aclosing(until_deadline(stream, self.timeout)) as pieces:
            async for piece in pieces:
                yield piece

    def _place_of(self, question, streams):
        """Which questions it can be answered with, and how many places it takes."""
        sampling = question.sampling
        options = sampling.options(streams)
        weight = sampling.n if options.get("num_beams") == 1 else 1
        if sampling.samples and sampling.seed is not None:
            return None, weight
        return tuple((name, str(value)) for name, value in options.items()), weight

    def _answer_batch(self, requests: Sequence[Request]) -> list[Any]:
        """Answers questions of equal settings, in the thread of Chat."""
        items: list[Any] = [self._item(request) for request in requests]
        good = [number for number, item in enumerate(items) if isinstance(item, dict)]
        streams = any(request.emit is not None for request in requests)

        def emit(number, answer, piece):
            if (send := requests[good[number]].emit) is not None:
                send(AnswerPiece(answer, piece.text))

        sampling = requests[0].payload.sampling
        with self._drawing(sampling):
            answers = self.chat.answers(
                [items[number] for number in good],
                emit if streams else None,
                lambda number: requests[good[number]].cancelled.is_set(),
                **sampling.options(streams),
            )
        for number, found in zip(good, answers, strict=True):
            items[number] = [replace(one, text=until_stop(one.text, sampling.stop)) for one in found]
        return items

    def _item(self, request):
        """For `VisCPMChat.answers`, or why not: an exception, which then is of this question alone."""
        question = request.payload
        if request.cancelled.is_set():
            return _CancelledError()
        try:
            processor = self.chat.processor
            limit = processor.max_input_length
            context = question.context + "".join(
                processor.format_turn(asked, processor.tokenizer.escape(said)) for asked, said in question.turns
            )
            counted = "" if question.shortens else context
            encoding = processor.encode_chat(question.image is not None, question.question, counted)
            length = len(encoding["input_ids"])
            if limit is not None and length > limit:
                what = "conversation" if counted else "question"
                raise PromptTooLongError(
                    f"Got a {what} of {length} tokens, expected at most {limit}: shorten it"
                    + (", or leave out its oldest turns." if counted else ".")
                )
            words = [*encoding["ext_table"].values()]
            if question.shortens and len(context) > _LONGEST_WORD:
                words += processor.tokenizer.encode_segment(processor.tokenizer.escape(context))[1].values()
            if (longest := max(map(len, words), default=0)) > _LONGEST_WORD:
                raise ValueError(
                    f"Got {longest} characters in a row that the vocabulary lacks, expected at most {_LONGEST_WORD}."
                )
            states = None if question.image is None else self.chat.encode_image(question.image)
        except Exception as error:
            return error
        return {"question": question.question, "context": context, "vision_hidden_states": states}

    @contextmanager
    def _drawing(self, sampling):
        """Tokens are drawn from a seed; torch's own generator, which is everybody's, is put back."""
        if not sampling.samples:
            yield
            return
        devices = [self.chat.device] if self.chat.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(secrets.randbits(63) if sampling.seed is None else sampling.seed)
            yield

    def _place_of_prompt(self, prompt):
        """Which prompts it can be painted with, and how many places it takes."""
        chinese = not self.painter.chinese_only or bool(CHINESE.search(prompt.prompt))
        ranked = chinese and "ranker" in self.painter.chinese_only
        weight = prompt.n * (prompt.candidates or (4 if ranked else 1))
        if prompt.seed is not None:
            return None, weight
        alike = (prompt.steps, prompt.guidance, prompt.width, prompt.height, prompt.candidates, prompt.scheduler)
        return (chinese, *alike), weight

    def _paint_batch(self, requests: Sequence[Request]) -> list[Any]:
        """Paints prompts of equal settings, in the thread of Paint."""
        rows = []
        for request in requests:
            prompt = request.payload
            first = secrets.randbits(32) if prompt.seed is None else prompt.seed
            rows += [(request, (first + number) % 2**64) for number in range(prompt.n)]
        prompt = requests[0].payload
        self.painter.pipeline.scheduler = self._scheduler(prompt.scheduler)
        each = self._place_of_prompt(prompt)[1] // prompt.n
        at_once = max(1, self.max_batch // each)
        chunks = [rows[start : start + at_once] for start in range(0, len(rows), at_once)]
        painted = iter([one for number in range(len(chunks)) for one in self._paint_rows(chunks, number)])
        return [list(itertools.islice(painted, request.payload.n)) for request in requests]

    def _paint_rows(self, chunks, number):
        rows = chunks[number]
        requests = {request for chunk in chunks for request, _ in chunk}

        def after_step(pipeline, step, timestep, tensors):
            if all(request.cancelled.is_set() for request in requests):
                raise _CancelledError
            steps, previews = pipeline.num_timesteps, []
            for request in requests:
                if request.emit is None:
                    continue
                wanted = request.payload.previews
                shown = ()
                if wanted and step + 1 < steps and (step + 1) * wanted // steps > step * wanted // steps:
                    previews = previews or self._previews(tensors["latents"], len(rows))
                    shown = tuple(
                        preview for preview, (owner, _) in zip(previews, rows, strict=True) if owner is request
                    )
                request.emit(Progress(number * steps + step + 1, len(chunks) * steps, shown))
            return {}

        prompts = [request.payload for request, _ in rows]
        first = prompts[0]
        output = self.painter.paint(
            [prompt.prompt for prompt in prompts],
            [prompt.negative_prompt for prompt in prompts],
            guidance_scale=self.painting["guidance"] if first.guidance is None else first.guidance,
            num_inference_steps=self.painting["steps"] if first.steps is None else first.steps,
            num_candidates=first.candidates,
            generator=[seed for _, seed in rows],
            width=first.width,
            height=first.height,
            callback_on_step_end=after_step,
        )
        flags = output.nsfw_content_detected or [False] * len(rows)
        return [
            Painted(image, seed, bool(flag)) for image, flag, (_, seed) in zip(output.images, flags, rows, strict=True)
        ]

    def _scheduler(self, name):
        if name not in self._schedulers:
            self._schedulers[name] = make_scheduler(name, self._schedulers[None].config)
        return self._schedulers[name]

    def _previews(self, latents, count):
        """The pictures that unfinished latents are, one for each row."""
        pipeline = self.painter.pipeline
        latents = latents[:: len(latents) // count].to(pipeline.vae.dtype) / pipeline.vae.config.scaling_factor
        image = pipeline.image_processor.denormalize(pipeline.vae.decode(latents, return_dict=False)[0])
        pictures = pipeline.image_processor.numpy_to_pil(pipeline.image_processor.pt_to_numpy(image))
        return pictures if pipeline.safety_checker is None else pipeline.run_safety_checker(image, pictures)[1]
