"""Processes that answer rows, each with a model of its own; one that dies is replaced, and its rows are done again."""

import asyncio
import heapq
import multiprocessing
import os
import queue
import signal
import threading
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any

from ...checkpoint.errors import first_line
from .rows import Result, Row

Answer = Callable[[int, Mapping[str, Any]], Awaitable[Result]]  # of a row's number and fields
Load = Callable[[int], AbstractContextManager[Answer]]  # of a worker's number, from 0 on

_METHOD = "spawn"  # a process that is forked could not use a GPU
_TRIES = 3  # of a row by itself, each of which ended its process
_LOADS, _DEATHS = 5, 12  # processes that ended while they loaded, and all, without one that loads or an answer between


class Workers:
    """So many processes, each begun when there is a row for it.

    Args:
        load: loads a model, in a process of its own; a function that can be pickled.
        count (`int`): of processes.
        ahead (`int`): how many rows one has at the same time.
    """

    def __init__(self, load: Load, count: int = 1, ahead: int = 1):
        self._load, self._count, self._ahead = load, count, ahead

    def answer(self, rows: Iterable[Row]) -> Iterator[tuple[Row, Result]]:
        """What comes of the rows, in their order; few are held at a time.

        A row that ends its process again and again has an error for a result.

        Raises:
            Exception: what `load` raised.
            ChildProcessError: the processes end one after the other.
        """
        with closing(_Round(self._load, self._count, self._ahead, iter(rows))) as round:
            yield from round.results()


class _Worker:
    """A process, seen from outside."""

    def __init__(self, number, load):
        context = multiprocessing.get_context(_METHOD)
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, load, number), daemon=True)
        resource_tracker.ensure_running()  # which would unblock what is blocked now
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the process inherits it: see _work
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.close()  # else nobody would see that it has died
        self.rows: dict[int, Row] = {}
        self.loaded = self.alone = False
        self.why = None

    def end(self) -> str:
        """Ends the process, whatever it does; how it ended."""
        self.connection.close()
        self.process.join(1)
        self.process.kill()
        self.process.join()
        code = self.process.exitcode
        if self.why is None and code < 0:
            with suppress(ValueError):
                return f"by {signal.Signals(-code).name}" + ", perhaps for want of memory" * (code == -9)
        return f"with {self.why or f'exit code {code}'}"


class _Round:
    """Rows on their way through the processes."""

    def __init__(self, load, count, ahead, rows):
        self.load, self.count, self.ahead, self.rows = load, count, ahead, rows
        self.most = 4 * count * ahead  # rows that are held, however far a slow one keeps those behind it back
        self.workers: dict[int, _Worker] = {}
        self.order: deque[Row] = deque()  # those without a result yet, and all behind them
        self.done: dict[int, Result] = {}
        self.waiting: list[tuple[int, Row]] = []  # a heap
        self.tries: dict[int, int] = {}  # of those that were there when a process died; they are done alone
        self.loads = self.deaths = 0

    def results(self) -> Iterator[tuple[Row, Result]]:
        while True:
            self.hand_out()
            if not self.order:
                return
            if self.order[0].number in self.done:
                row = self.order.popleft()
                yield row, self.done.pop(row.number)
                continue
            connections = {worker.connection: slot for slot, worker in self.workers.items()}
            for connection in wait(list(connections)):
                self.read(connections[connection])

    def close(self) -> None:
        for worker in self.workers.values():
            worker.end()

    def hand_out(self) -> None:
        while True:
            if not self.waiting and len(self.order) < self.most and (row := next(self.rows, None)) is not None:
                self.order.append(row)
                if row.error is None:
                    heapq.heappush(self.waiting, (row.number, row))
                else:
                    self.done[row.number] = Result({"error": row.error})
                continue
            if not self.waiting or (worker := self.free_worker(self.waiting[0][0] in self.tries)) is None:
                return
            number, row = heapq.heappop(self.waiting)
            worker.rows[number], worker.alone = row, number in self.tries
            with suppress(OSError):  # it has died, which is seen when it is read from
                worker.connection.send((number, row.fields))

    def free_worker(self, alone: bool) -> _Worker | None:
        """That with the fewest rows; a new one where all others have some."""
        sizes = {slot: len(self.workers[slot].rows) if slot in self.workers else 0 for slot in range(self.count)}
        limit = 1 if alone else self.ahead
        free = [
            slot for slot in sizes if sizes[slot] < limit and not (slot in self.workers and self.workers[slot].alone)
        ]
        if not free:
            return None
        slot = min(free, key=lambda slot: (sizes[slot], slot not in self.workers))
        if slot not in self.workers:
            self.workers[slot] = _Worker(slot, self.load)
        return self.workers[slot]

    def read(self, slot: int) -> None:
        worker = self.workers[slot]
        try:
            kind, *found = worker.connection.recv()
        except (EOFError, OSError):
            self.bury(slot)
            return
        match kind:
            case "loaded":
                self.loads, worker.loaded = 0, True
            case "done":
                number, result = found
                self.deaths, worker.alone = 0, False
                self.done[number] = result
                del worker.rows[number]
                self.tries.pop(number, None)
            case "broken":
                (worker.why,) = found
            case "refused":
                raise found[0]

    def bury(self, slot: int) -> None:
        """Its rows are done again: each alone, so that one which ends a process ends it for no other."""
        worker = self.workers.pop(slot)
        how = worker.end()
        self.loads, self.deaths = self.loads + (not worker.loaded), self.deaths + 1
        if self.loads == _LOADS or self.deaths == _DEATHS:
            raise ChildProcessError(
                f"The processes with the model end one after the other, the last {how}: what is answered is kept, and "
                "the same command goes on."
            )
        for number, row in worker.rows.items():
            if worker.loaded:
                self.tries[number] = self.tries.get(number, 0) + worker.alone
            if self.tries.get(number) == _TRIES:
                self.done[number] = Result({"error": f"The process that answered it ended {_TRIES} times, {how}."})
            else:
                heapq.heappush(self.waiting, (number, row))


def _work(connection, load: Load, number: int) -> None:
    """The process: it ends when the other end of the connection is closed, be it that nobody is there any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # at a terminal Ctrl-C is for all processes, and one is to decide
    given: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, given), daemon=True).start()
    _choose_gpu(number)
    try:
        with load(number) as answer:
            _send(connection, "loaded")
            asyncio.run(_answer_all(connection, answer, given))
    except Exception as error:
        error.add_note(traceback.format_exc())  # which would else stay here
        _send(connection, "refused", error)


def _send(connection, *message):
    try:
        connection.send(message)
    except OSError:  # nobody is there any more
        os._exit(0)


def _receive(connection, given):
    try:
        while True:
            given.put(connection.recv())
    except (EOFError, OSError):
        os._exit(0)


async def answered(answer: Answer, number: int, fields: Mapping[str, Any]) -> Result:
    """What comes of a row, which may be that it cannot be answered."""
    import torch

    try:
        return await answer(number, fields)
    except torch.AcceleratorError:  # after which nothing works in this process
        raise
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        return Result({"error": " ".join(str(error).split()) or type(error).__name__})


async def _answer_all(connection, answer, given):
    async def answer_one(number, fields):
        try:
            result = await answered(answer, number, fields)
        except Exception as error:  # a bug, or a GPU that is of no use to this process any more
            _send(connection, "broken", first_line(error))
            os._exit(1)
        _send(connection, "done", number, result)

    async with asyncio.TaskGroup() as tasks:
        while True:
            tasks.create_task(answer_one(*await asyncio.to_thread(given.get)))


def _choose_gpu(number):
    """Each process its own, as long as there are some."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = map(str, range(torch.cuda.device_count())) if visible is None else visible.split(",")
    gpus = [name for name in gpus if name.strip()]
    if len(gpus) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
