"""Requests that wait for one model, and the one thread that runs them, several at once where they are alike.

There is no waiting for others: while a batch runs, those who come meanwhile gather, and are the next.
"""

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any


class QueueFullError(RuntimeError):
    """As many requests wait as may.

    Args:
        message: for people.
        retry_after: seconds until there may be room.
    """

    def __init__(self, message: str, retry_after: float):
        super().__init__(message)
        self.retry_after = retry_after


class DrainingError(RuntimeError):
    """Nothing new is taken, since the server is about to stop."""


@dataclass(eq=False)
class Request:
    """What waits for a model.

    Args:
        payload: for the function that runs it.
        group: only requests of equal groups are run together; None is never run together with another.
        weight: how many of a batch's places it takes.
        emit: takes a piece of a streamed answer, in any thread; None for an answer in one piece.
    """

    payload: Any
    group: Hashable = None
    weight: int = 1
    emit: Callable[[Any], None] | None = None
    emitted: bool = False
    future: Future = field(default_factory=Future)
    cancelled: threading.Event = field(default_factory=threading.Event)


@dataclass
class Counters:
    """What has happened so far; whoever reads it sees whole numbers, if not of one moment."""

    requests: Counter = field(default_factory=Counter)  # by outcome: answered, failed, cancelled, refused
    batches: Counter = field(default_factory=Counter)  # by size
    seconds: float = 0.0  # of the thread at work


class Batcher:
    """The queue of one model and the thread that runs it.

    Args:
        name: of the model, for messages and the thread.
        run: gets requests of one group, in the thread; returns a result for each, in order, an exception for one that
            failed, and may raise. It should look at each request's `cancelled` now and then, and stop what nobody
            waits for. If a batch of several raises, each that has not emitted anything is run again by itself, so that
            only those at fault fail.
        max_batch: how many are run at once, by weight; one that weighs more runs by itself.
        max_queue: how many may wait.
    """

    def __init__(
        self, name: str, run: Callable[[Sequence[Request]], Sequence[Any]], max_batch: int = 8, max_queue: int = 64
    ):
        self.name, self.max_batch, self.max_queue = name, max_batch, max_queue
        self.counters = Counters()
        self._run = run
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self.draining = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=f"{name} batches", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """How many wait, without those that are being run."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether the model is at work."""
        return bool(self._running)

    @property
    def alive(self) -> bool:
        """Whether the thread still works."""
        return self._thread.is_alive()

    async def ask(self, payload: Any, group: Hashable = None, weight: int = 1) -> Any:
        """The result for a request; whoever stops waiting cancels it, by a deadline (`asyncio.timeout`) or else.

        Args:
            payload: for `run`.
            group, weight: see [`Request`].

        Raises:
            QueueFullError, DrainingError: before anything is done.
            Exception: what `run` raised for it.
        """
        request = Request(payload, group, weight)
        self._put(request)
        return await self._result(request)

    async def stream(self, payload: Any, group: Hashable = None, weight: int = 1) -> AsyncIterator[Any]:
        """What `run` gives a request's `emit`, at last its result; closing the iterator cancels it. Else as `ask`."""
        loop, pieces, end = asyncio.get_running_loop(), asyncio.Queue(), object()

        def put(piece):
            with suppress(RuntimeError):  # the loop is closed: nobody reads any more
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        def emit(piece):
            request.emitted = True
            put(piece)

        request = Request(payload, group, weight, emit)
        self._put(request)
        request.future.add_done_callback(lambda future: put(end))
        try:
            while (piece := await pieces.get()) is not end:
                yield piece
            yield await self._result(request)
        finally:
            self._cancel(request)

    def drain(self) -> None:
        """Takes nothing new; what is there goes on."""
        with self._changed:
            self.draining = True
            self._changed.notify_all()

    def close(self, timeout: float = 0.0) -> None:
        """Takes nothing new, finishes what is there for so many seconds, cancels the rest; may be called again."""
        self.drain()
        self._thread.join(timeout)
        with self._changed:
            left = [*self._waiting, *self._running]
        for request in left:
            self._cancel(request)
        self._thread.join()

    def _put(self, request: Request) -> None:
        with self._changed:
            if self.draining:
                self.counters.requests["refused"] += 1
                raise DrainingError(f"{self.name} takes no more requests: the server is stopping.")
            if len(self._waiting) >= self.max_queue:
                self.counters.requests["refused"] += 1
                done = self.counters.batches.total()
                each = self.counters.seconds / done if done else 1.0
                raise QueueFullError(
                    f"{len(self._waiting)} requests wait for {self.name}, which is the most: try again later.",
                    retry_after=max(1.0, each * len(self._waiting) / self.max_batch),
                )
            self._waiting.append(request)
            self._changed.notify_all()

    async def _result(self, request: Request) -> Any:
        try:
            return await asyncio.wrap_future(request.future)
        except asyncio.CancelledError:
            self._cancel(request)
            raise

    def _cancel(self, request: Request) -> None:
        """Takes it out of the queue; if it is being run, `run` is told."""
        request.cancelled.set()
        with self._changed:
            if request in self._waiting:
                self._waiting.remove(request)
                self.counters.requests["cancelled"] += 1
        request.future.cancel()

    def _work(self) -> None:
        while batch := self._next():
            start = time.perf_counter()
            self._run_batch(batch)
            self.counters.seconds += time.perf_counter() - start
            with self._changed:
                self._running = []

    def _next(self) -> list[Request]:
        """Who has waited longest, with others of its group in their order; nobody once everything is drained."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self.draining)
            if not self._waiting:
                return []
            first = self._waiting[0]
            self._running, weight = [first], first.weight
            for request in list(self._waiting)[1:] if first.group is not None else ():
                if request.group == first.group and weight + request.weight <= self.max_batch:
                    self._running.append(request)
                    weight += request.weight
            for request in self._running:
                self._waiting.remove(request)
            return self._running

    def _run_batch(self, batch: Sequence[Request]) -> None:
        self.counters.batches[len(batch)] += 1
        try:
            results = self._run(batch)
            outcomes = list(zip(batch, results, strict=True))
        except BaseException as error:  # of whatever kind, it is for those who wait: the thread goes on
            if len(batch) > 1:
                for request in batch:
                    if request.emitted or request.cancelled.is_set():
                        self._settle(request, error)
                    else:
                        self._run_batch([request])
                return
            outcomes = [(batch[0], error)]
        for request, result in outcomes:
            self._settle(request, result)

    def _settle(self, request: Request, result: Any) -> None:
        # counted first: whoever has the answer may look at once
        failed = isinstance(result, BaseException)
        outcome = "cancelled" if request.cancelled.is_set() else "failed" if failed else "answered"
        self.counters.requests[outcome] += 1
        with suppress(InvalidStateError):  # cancelled
            if failed:
                request.future.set_exception(result)
            else:
                request.future.set_result(result)
