"""Rows answered on the machines of a Ray cluster, by Ray Data."""

import asyncio
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import islice

import ray
from ray.data import ActorPoolStrategy, DataContext

from ..batch.rows import Result, Row
from ..batch.workers import Load, answered
from . import RayGoneError
from .connection import connected

_WINDOW = 10_000  # rows that are in the cluster at a time; after them the models are loaded anew


class ClusterWorkers:
    """Processes with a model each, in the cluster that `RAY_ADDRESS` names, else in one of its own on this machine.

    Ray does again what a process or a machine that has died had not finished.

    Args:
        load: see `Workers`; it is called on machines that need the package, the model and the pictures.
        count (`int`, *optional*): of processes; by default one for each GPU, or one.
        ahead (`int`): how many rows one has at the same time.
        when_gone: called in another thread once Ray is gone; it is to end the process, which Ray Data would do
            without a word as soon as it is told to stop.
    """

    def __init__(
        self, load: Load, count: int | None = None, ahead: int = 1, *, when_gone: Callable[[RayGoneError], None]
    ):
        self._load, self._count, self._ahead, self._when_gone = load, count, ahead, when_gone

    def answer(self, rows: Iterable[Row]) -> Iterator[tuple[Row, Result]]:
        """What comes of the rows, in their order.

        Raises:
            OSError: Ray does not start, there is no such cluster, or its processes end one after the other.
            ValueError: the model cannot be loaded.
        """
        rows = iter(rows)
        window = list(islice(rows, _WINDOW))
        if not window:
            return
        with connected(self._count or 1) as watch:
            watch.when_gone = partial(self._when_gone, RayGoneError())
            context = DataContext.get_current()
            context.enable_progress_bars = False
            context.execution_options.preserve_order = True
            while window:
                yield from self._answer(window)
                window = list(islice(rows, _WINDOW))

    def _answer(self, rows):
        good = [{"number": row.number, "fields": json.dumps(row.fields)} for row in rows if row.error is None]
        found = self._found(good) if good else iter(())
        for row in rows:
            if row.error is not None:
                yield row, Result({"error": row.error})
                continue
            number, fields, picture = next(found)
            if number != row.number:
                raise RuntimeError(f"Ray Data gave row {number} in the place of row {row.number}.")
            yield row, Result(json.loads(fields), picture or None)

    def _found(self, items):
        resources = ray.cluster_resources()
        gpus = resources.get("GPU", 0)
        count = self._count or max(1, int(gpus))
        data = ray.data.from_items(items, override_num_blocks=math.ceil(len(items) / self._ahead))
        data = data.map_batches(
            _Answers,
            fn_constructor_args=(self._load,),
            batch_size=None,  # a block
            compute=ActorPoolStrategy(size=count),
            num_gpus=min(1, int(gpus / count * 1e4) / 1e4),
            num_cpus=max(1, int(resources.get("CPU", 1)) // count),  # Ray has torch take so many threads
        )
        try:
            for row in data.iter_rows():
                yield row["number"], row["result"], row["picture"]
        except (ray.exceptions.RayError, RuntimeError) as error:
            reasons = re.findall(r"^(?:\w+\.)*\w+(?:Error|Exception): (.+)", str(error), re.MULTILINE)
            raise ValueError(f"Ray's processes with the model failed: {reasons[-1] if reasons else error}") from error


class _Answers:
    """In a process of Ray."""

    def __init__(self, load):
        self._stack = ExitStack()
        self._answer = self._stack.enter_context(load(1))  # not the first, which would speak to a terminal

    def __call__(self, batch):
        results = asyncio.run(self._results(batch["number"].tolist(), batch["fields"]))
        return {
            "number": batch["number"],
            "result": [json.dumps(result.fields) for result in results],
            "picture": [result.picture or b"" for result in results],
        }

    async def _results(self, numbers, fields):
        tasks = (
            answered(self._answer, number, json.loads(each)) for number, each in zip(numbers, fields, strict=True)
        )
        return await asyncio.gather(*tasks)
