"""Guards the batcher: who is run with whom, in which order, and what becomes of those who stop waiting."""

import asyncio
import threading

import pytest

from viscpm_hf.serving.batcher import Batcher, DrainingError, QueueFullError


class Model:
    """Stands for a model: doubles numbers, after the gate is opened; remembers its batches."""

    def __init__(self, is_open=True):
        self.batches, self.gate, self.started = [], threading.Event(), threading.Event()
        if is_open:
            self.gate.set()

    def __call__(self, requests):
        self.batches.append([request.payload for request in requests])
        self.started.set()
        while not self.gate.wait(0.01):
            if all(request.cancelled.is_set() for request in requests):
                break
        if any(request.payload is None for request in requests):
            raise ValueError("None cannot be doubled.")
        for request in requests:
            if request.emit is not None:
                for _ in range(request.payload):
                    if request.cancelled.is_set():
                        break
                    request.emit("piece")
        return [2 * request.payload for request in requests]


@pytest.fixture
def batcher():
    made = []

    def make(model, **options):
        made.append(Batcher("model", model, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


async def blocked(batcher, model, payload=0):
    """A request that the model is busy with."""
    task = asyncio.create_task(batcher.ask(payload))
    while not model.started.is_set():
        await asyncio.sleep(0.001)
    return task


def test_those_who_gather_are_run_together(batcher):
    async def main():
        model = Model(is_open=False)
        queue = batcher(model, max_batch=3)
        first = await blocked(queue, model)
        others = [asyncio.create_task(queue.ask(n, "a")) for n in range(1, 8)]
        await asyncio.sleep(0.02)
        assert len(queue) == 7
        model.gate.set()
        assert await asyncio.gather(first, *others) == [2 * n for n in range(8)]
        assert model.batches == [[0], [1, 2, 3], [4, 5, 6], [7]]
        assert queue.counters.batches == {1: 2, 3: 2} and queue.counters.requests == {"answered": 8}

    asyncio.run(main())


def test_different_settings_are_not_mixed_and_nobody_is_overtaken_for_ever(batcher):
    async def main():
        model = Model(is_open=False)
        queue = batcher(model, max_batch=8)
        first = await blocked(queue, model)
        groups = "abacab"
        others = [asyncio.create_task(queue.ask(n, group)) for n, group in enumerate(groups, 1)]
        alone = asyncio.create_task(queue.ask(7))
        await asyncio.sleep(0.02)
        model.gate.set()
        await asyncio.gather(first, alone, *others)
        assert model.batches == [[0], [1, 3, 5], [2, 6], [4], [7]]

    asyncio.run(main())


def test_one_at_fault_fails_alone(batcher):
    async def main():
        model = Model(is_open=False)
        queue = batcher(model)
        first = await blocked(queue, model)
        others = [asyncio.create_task(queue.ask(payload, "a")) for payload in (1, None, 3)]
        await asyncio.sleep(0.02)
        model.gate.set()
        results = await asyncio.gather(first, *others, return_exceptions=True)
        assert [results[0], results[1], results[3]] == [0, 2, 6] and "cannot be doubled" in str(results[2])
        assert queue.counters.requests == {"answered": 3, "failed": 1}
        assert await queue.ask(4) == 8  # the thread goes on

    asyncio.run(main())


def test_whoever_stops_waiting_leaves_the_queue_or_stops_the_model(batcher):
    async def main():
        model = Model(is_open=False)
        queue = batcher(model)
        running = await blocked(queue, model)
        waiting = asyncio.create_task(queue.ask(1))
        await asyncio.sleep(0.02)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert len(queue) == 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await queue.ask(2)
        running.cancel()  # the gate stays closed: only this lets the model stop
        with pytest.raises(asyncio.CancelledError):
            await running
        model.gate.set()
        assert await queue.ask(3) == 6
        assert model.batches == [[0], [3]] and queue.counters.requests == {"cancelled": 3, "answered": 1}

    asyncio.run(main())


def test_a_full_queue_refuses_and_says_when_to_come_again(batcher):
    async def main():
        model = Model(is_open=False)
        queue = batcher(model, max_queue=2)
        tasks = [await blocked(queue, model), *(asyncio.create_task(queue.ask(n)) for n in (1, 2))]
        await asyncio.sleep(0.02)
        with pytest.raises(QueueFullError, match="2 requests wait for model") as refused:
            await queue.ask(3)
        assert refused.value.retry_after >= 1
        model.gate.set()
        assert await asyncio.gather(*tasks) == [0, 2, 4]
        assert queue.counters.requests == {"answered": 3, "refused": 1}

    asyncio.run(main())


def test_a_stream_gives_pieces_and_can_be_left(batcher):
    async def main():
        model = Model()
        queue = batcher(model)
        assert [piece async for piece in queue.stream(3)] == ["piece"] * 3 + [6]
        pieces = queue.stream(10**9)
        assert await anext(pieces) == "piece"
        await pieces.aclose()
        assert await queue.ask(1) == 2
        with pytest.raises(ValueError, match="cannot be doubled"):
            async for _ in queue.stream(None):
                raise AssertionError("nothing to give")

    asyncio.run(main())


@pytest.mark.parametrize("patient", [True, False])
def test_closing_finishes_or_cancels(batcher, patient):
    async def main():
        model = Model(is_open=False)
        queue = batcher(model)
        tasks = [await blocked(queue, model), asyncio.create_task(queue.ask(1))]
        await asyncio.sleep(0.02)
        closing = asyncio.create_task(asyncio.to_thread(queue.close, 60 if patient else 0))
        await asyncio.sleep(0.02)
        with pytest.raises(DrainingError):
            await queue.ask(2)
        if patient:
            model.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await closing
        assert not queue.alive
        assert results == [0, 2] if patient else all(isinstance(each, asyncio.CancelledError) for each in results)

    asyncio.run(main())
