"""An engine that is elsewhere: the same coroutines, answered by replicas of an [`Engine`] that Ray starts and watches.

Ray chooses who answers and starts anew who has died; what was lost with it is asked again here. Nothing but plain
texts, numbers and the bytes of pictures goes over the network, errors included.
"""

import asyncio
import io
import logging
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, contextmanager, redirect_stderr, suppress
from dataclasses import replace
from typing import Any

import torch
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import RayServeException, ReplicaUnavailableError

from ...chat import ChatAnswer
from ..batcher import Counters, DrainingError, QueueFullError
from ..engine import AnswerPiece, Engine, Facts, Painted, Progress, Prompt, Question, until_deadline
from .wire import ReplicaFailedError, Reply, packed, unpacked

_ATTEMPTS = 3  # a question that kills whoever tries it must not kill all
_LOST = (RayActorError, ReplicaUnavailableError, DrainingError)  # the replica has died, or is about to be taken away
_PERIOD = 1.0  # seconds between two looks at who is there
_LAST_LOOK = 5.0  # seconds for one to come to its end, which it may not without Ray

logger = logging.getLogger(__name__)


class _GoneError(Exception):
    """There is no Ray any more."""


class Replica:
    """What Ray runs several times: an engine with one model.

    Args:
        load: makes the engine.
        kind: its model, `"chat"` or `"paint"`.
        threads: of torch; by default what Ray has set.
    """

    def __init__(self, load: Callable[[], Engine], kind: str, threads: int | None = None):
        if threads is not None:
            torch.set_num_threads(threads)
        with redirect_stderr(io.StringIO()) as said:
            self.kind, self.engine = kind, load()
        self._remarks = said.getvalue()
        sys.stderr.write(self._remarks)  # for its log
        self._name = serve.get_replica_context().replica_id.unique_id

    def facts(self) -> Facts:
        """Of the engine."""
        return self.engine.facts

    def remarks(self) -> str:
        """What was said while the engine was loaded, in lines."""
        return self._remarks

    async def call(self, method: str, payload: Question | Prompt) -> Reply:
        """A coroutine of the engine."""
        try:
            value = await getattr(self.engine, method)(unpacked(payload))
        except Exception as error:
            value = error
        return self._last(value)

    async def stream(self, method: str, payload: Question | Prompt) -> AsyncIterator[Reply]:
        """An asynchronous generator of the engine; its last piece comes with the counters."""
        try:
            async with aclosing(getattr(self.engine, method)(unpacked(payload))) as pieces:
                async for piece in pieces:
                    yield self._last(piece) if isinstance(piece, list) else Reply(piece)
        except Exception as error:
            yield self._last(error)

    def check_health(self) -> None:
        """Asked by Ray, which starts it anew if this raises."""
        if not self.engine.ready:
            raise RuntimeError("The thread of the model has died.")

    def _last(self, value):
        counters = self.engine.batchers[self.kind].counters
        snapshot = Counters(Counter(counters.requests), Counter(counters.batches), counters.seconds)
        return Reply(packed(value), self._name, snapshot)

    def __del__(self):
        if hasattr(self, "engine"):  # it has been loaded
            self.engine.close()


class RemoteBatcher:
    """One model's replicas; to who looks at it, a [`Batcher`].

    Args:
        name (`str`): of the model, for messages.
        handle (`DeploymentHandle`): of its replicas.
        max_batch, max_queue (`int`): of each.

    Attributes:
        running (`int`): how many replicas take requests.
    """

    def __init__(self, name: str, handle: serve.handle.DeploymentHandle, max_batch: int, max_queue: int):
        self.name, self.max_batch, self.max_queue, self.draining = name, max_batch, max_queue, False
        self.deployment = handle.deployment_id
        self._call, self._stream = handle.call, handle.options(stream=True).stream
        self._requests = Counter()  # by outcome; a request that was asked again counts once
        self._replicas: dict[str, Counters] = {}  # those that are gone included: counters never fall
        self._under_way, self._failed, self._gone = 0, False, False
        self._responses: set[Any] = set()  # that are waited for
        self._dead: set[str] = set()
        self.running = 0

    def __len__(self) -> int:
        """How many wait, but for those that replicas could be at work with."""
        return max(0, self._under_way - self.running * self.max_batch)

    @property
    def busy(self) -> bool:
        """Whether requests are under way."""
        return self._under_way > 0

    @property
    def alive(self) -> bool:
        """Whether it can answer, or will once a replica has started."""
        return not (self._failed or self._gone) and (self.busy or not self.draining)

    @property
    def counters(self) -> Counters:
        """Of all replicas there ever were, by the last reply of each."""
        replicas = list(self._replicas.values())
        batches = sum((each.batches for each in replicas), Counter())
        return Counters(Counter(self._requests), batches, sum(each.seconds for each in replicas))

    def drain(self) -> None:
        """Takes nothing new; what is there goes on."""
        self.draining = True

    def look(self) -> None:
        """Asks Ray who is there; slow, and without Ray it may not return."""
        application = serve.status().applications.get(self.deployment.app_name)
        found = None if application is None else application.deployments.get(self.deployment.name)
        self.running = 0 if found is None else found.replica_states.get("RUNNING", 0)
        self._failed = found is None or found.status == "DEPLOY_FAILED"

    def lose(self) -> None:
        """Ray itself is gone, and with it what is under way: who waits is told."""
        self.running, self._gone = 0, True
        for response in list(self._responses):
            with suppress(Exception):
                response.cancel()

    async def ask(self, method: str, payload: Question | Prompt) -> Any:
        """What a coroutine of a replica's engine returns; if the replica dies, that of another.

        Raises:
            Exception: what the engine raised.
        """
        with self._counted():
            request = await asyncio.to_thread(packed, payload)
            for _ in range(_ATTEMPTS):
                response = self._call.remote(method, request)
                try:
                    with self._watched(response):
                        return self._read(await response)
                except _LOST as error:
                    self._mourn(error)
                except asyncio.CancelledError:
                    response.cancel()
                    raise
            raise self._lost()

    async def stream(self, method: str, payload: Question | Prompt) -> AsyncIterator[Any]:
        """What an asynchronous generator of a replica's engine yields; if the replica dies before the first piece,
        that of another. Closing it stops the model.

        Raises:
            Exception: what the engine raised.
        """
        with self._counted() as done:
            request = await asyncio.to_thread(packed, payload)
            for _ in range(_ATTEMPTS):
                response = self._stream.remote(method, request)
                begun = ended = False
                try:
                    with self._watched(response):
                        async for reply in response:
                            ended = reply.counters is not None
                            piece, begun = self._read(reply), True
                            if ended:
                                done()  # whoever has it need not come again
                            yield piece
                    return
                except _LOST as error:
                    ended = True
                    self._mourn(error)
                    if begun:  # the client has a part of another answer
                        raise ReplicaFailedError(f"The replica of {self.name} died within an answer.") from error
                finally:
                    if not ended:
                        response.cancel()
            raise self._lost()

    @contextmanager
    def _watched(self, response):
        """While it is waited for `lose` can end it."""
        self._responses.add(response)
        try:
            if self._gone:
                raise _GoneError
            yield
        except (asyncio.CancelledError, RayError, RayServeException) as error:
            if not self._gone or asyncio.current_task().cancelling():
                raise
            raise _GoneError from error
        finally:
            self._responses.discard(response)

    def _mourn(self, error):
        """Says that a replica has died, once, whoever else was waiting for it."""
        if isinstance(error, RayActorError) and error.actor_id not in self._dead:
            self._dead.add(error.actor_id)
            logger.warning(f"A replica of {self.name} has died or is out of reach; what it had is asked again.")

    def _read(self, reply):
        if reply.counters is not None:
            self._replicas[reply.replica] = reply.counters
        return unpacked(reply.value)

    @contextmanager
    def _counted(self):
        """A request from its beginning, if it may begin, to its end or until the function that it gives is called."""
        outcome = None

        def done():
            nonlocal outcome
            outcome = outcome or "answered"

        try:
            if self.draining:
                raise DrainingError(f"{self.name} takes no more requests: the server is stopping.")
            if self._gone:
                raise _GoneError
            if len(self) >= max(1, self.running) * self.max_queue:
                raise self._full()
            self._under_way += 1
            try:
                yield done
            finally:
                self._under_way -= 1
            done()
        except _GoneError as error:
            outcome = "failed"
            raise DrainingError(f"Ray, which ran {self.name}, is gone: the server is stopping.") from error
        except (DrainingError, QueueFullError):
            outcome = "refused"
            raise
        except Exception:
            outcome = "failed"
            raise
        finally:  # without an outcome it was cancelled, or its generator closed
            self._requests[outcome or "cancelled"] += 1

    def _full(self):
        counters, places = self.counters, max(1, self.running) * self.max_batch
        each = counters.seconds / max(1, counters.batches.total()) or 1.0
        return QueueFullError(
            f"{len(self)} requests wait for {self.name}, which is the most: try again later.",
            retry_after=max(1.0, each * len(self) / places),
        )

    def _lost(self):
        return ReplicaFailedError(f"{_ATTEMPTS} replicas of {self.name} died at a request, one after the other.")


async def facts_of(handles: Mapping[str, serve.handle.DeploymentHandle]) -> Facts:
    """What the replicas of `chat` and `paint` know of their models."""
    found = {kind: await handle.facts.remote() for kind, handle in handles.items()}
    return replace(found.get("paint", Facts()), beams=found.get("chat", Facts()).beams)


class RemoteEngine:
    """Chat and Paint, each with its replicas; to an application, an [`Engine`].

    Args:
        facts (`Facts`): see `facts_of`.
        handles (`Mapping`): of the replicas of `chat` and `paint`.
        max_batch, max_queue (`int`): of each replica.
        timeout (`float`, *optional*): seconds a request may take, waiting and repeating included.

    Its coroutines raise what those of an [`Engine`] do, and `ReplicaFailedError`.
    """

    def __init__(
        self,
        facts: Facts,
        handles: Mapping[str, serve.handle.DeploymentHandle],
        max_batch: int = 8,
        max_queue: int = 64,
        timeout: float | None = None,
    ):
        self.facts, self.timeout, self.max_batch = facts, timeout, max_batch
        self.batchers = {
            kind: RemoteBatcher(kind.capitalize(), handle, max_batch, max_queue) for kind, handle in handles.items()
        }
        self._closed = threading.Event()
        self._look()
        self._watch = threading.Thread(target=self._keep_looking, name="replicas", daemon=True)
        self._watch.start()

    @property
    def ready(self) -> bool:
        """Whether requests are taken: every model has a replica."""
        return all(one.alive and not one.draining and one.running for one in self.batchers.values())

    def drain(self) -> None:
        """Takes nothing new; what is there goes on."""
        for batcher in self.batchers.values():
            batcher.drain()

    def close(self) -> None:
        """Takes nothing new and looks after the replicas no more; whoever started them stops them."""
        self.drain()
        self._closed.set()
        self._watch.join(_LAST_LOOK)  # a look after the end would start a Ray

    def lose(self) -> None:
        """Ray itself is gone: takes nothing new, and gives up what is under way; in any thread."""
        for batcher in self.batchers.values():
            batcher.lose()

    async def answer(self, question: Question) -> list[ChatAnswer]:
        """See [`Engine.answer`]; without vision_hidden_states."""
        async with asyncio.timeout(self.timeout):
            return await self.batchers["chat"].ask("answer", question)

    async def stream_answer(self, question: Question) -> AsyncIterator[AnswerPiece | list[ChatAnswer]]:
        """See [`Engine.stream_answer`]."""
        stream = self.batchers["chat"].stream("stream_answer", question)
        async with aclosing(until_deadline(stream, self.timeout)) as pieces:
            async for piece in pieces:
                yield piece

    async def paint(self, prompt: Prompt) -> list[Painted]:
        """See [`Engine.paint`]."""
        async with asyncio.timeout(self.timeout):
            return await self.batchers["paint"].ask("paint", prompt)

    async def stream_picture(self, prompt: Prompt) -> AsyncIterator[Progress | list[Painted]]:
        """See [`Engine.stream_picture`]."""
        stream = self.batchers["paint"].stream("stream_picture", prompt)
        async with aclosing(until_deadline(stream, self.timeout)) as pieces:
            async for piece in pieces:
                yield piece

    def _keep_looking(self):
        while not self._closed.wait(_PERIOD):
            self._look()

    def _look(self):
        with suppress(Exception):  # of whatever kind: the controller is starting anew
            for batcher in self.batchers.values():
                batcher.look()
