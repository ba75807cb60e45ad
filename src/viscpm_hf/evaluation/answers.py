"""Answers to questions about pictures, of a model in this process or of a running server."""

import asyncio
import base64
import mimetypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from ..chat import VisCPMChat
from ..checkpoint.errors import CheckpointError, listed
from .endpoint import Endpoint, FailedRequestError, MalformedReplyError, in_parallel
from .questions import Question

Record = Callable[[Question, str, dict[str, Any]], None]  # question, answer, what is known of it


class Answerer(Protocol):
    """Whoever answers."""

    def answer(self, questions: Sequence[Question], pictures: dict[str, Path], record: Record) -> None: ...


class LocalChat:
    """A loaded model, which answers in batches, each question as if alone.

    Args:
        chat (`VisCPMChat`): loaded.
        batch_size (`int`): questions at a time.
        **options: for `generate()`; by default the original's three beams.
    """

    def __init__(self, chat: VisCPMChat, batch_size: int, **options: Any):
        self.chat, self.batch_size, self.options = chat, batch_size, options

    def answer(self, questions: Sequence[Question], pictures: dict[str, Path], record: Record) -> None:
        """Answers in order; `record` is called for each question of a batch when it is done."""
        for start in range(0, len(questions), self.batch_size):
            batch = questions[start : start + self.batch_size]
            items = []
            for question in batch:
                with Image.open(pictures[question.image]) as picture:
                    items.append({"image": picture.convert("RGB"), "question": question.text})
            try:
                answers = self.chat.answers(items, **self.options)
            except ValueError as error:
                ids = listed(question.question_id for question in batch)
                raise CheckpointError(f"The model does not answer question {ids}: {error}") from error
            for question, (answer,) in zip(batch, answers, strict=True):
                record(question, answer.text, {"tokens": answer.completion_tokens, "finish": answer.finish_reason})


class ServedChat:
    """A server's `/v1/chat/completions`. Without sampling parameters ours answers with the original's beams.

    Args:
        endpoint (`Endpoint`): the server.
        model (`str`, *optional*): the id of one of its models; not needed where there is only one.
        concurrency (`int`): questions under way at a time.
        tries (`int`): how often a question is asked when what comes is no answer.
    """

    def __init__(self, endpoint: Endpoint, model: str | None, concurrency: int, tries: int = 3):
        self.endpoint, self.model, self.concurrency, self.tries = endpoint, model, concurrency, tries

    def find_model(self) -> str:
        """The id of the model that answers."""

        async def models():
            async with self.endpoint.connected() as server:
                return await server.models()

        if self.model is None:
            found = asyncio.run(models())
            if len(found) != 1:
                raise CheckpointError(
                    f"{self.endpoint.base_url} has {len(found)} models ({listed(found)}): choose one, --served-model."
                )
            self.model = found[0]
        return self.model

    def answer(self, questions: Sequence[Question], pictures: dict[str, Path], record: Record) -> None:
        """Answers in any order; `record` is called for each question when it is done."""
        asyncio.run(self._answer_all(questions, pictures, record))

    async def _answer_all(self, questions, pictures, record):
        model, failed = self.model, {}

        async def answer(question):
            content = [
                {"type": "image_url", "image_url": {"url": _data_address(pictures[question.image])}},
                {"type": "text", "text": question.text},
            ]
            for _ in range(self.tries):
                try:
                    reply = await server.complete(model=model, messages=[{"role": "user", "content": content}])
                except (MalformedReplyError, FailedRequestError) as error:
                    failed[question.question_id] = error
                    if isinstance(error, FailedRequestError):
                        return
                    continue
                failed.pop(question.question_id, None)
                record(question, reply.text, {"tokens": reply.completion_tokens, "finish": reply.finish_reason})
                return

        async with self.endpoint.connected() as server:
            await in_parallel(questions, answer, self.concurrency)
        if failed:
            first = next(iter(failed.values()))
            raise CheckpointError(
                f"{self.endpoint.base_url} did not answer question {listed(failed)} ({first}); the other answers are "
                "kept, run again for these."
            )


def _data_address(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "image/jpeg"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
