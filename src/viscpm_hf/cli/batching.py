"""What `viscpm batch` does: rows through processes into a file, with progress; and what is loaded in a process."""

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from ..checkpoint.files.disk import open_regular
from ..language import say
from ..serving.batch.output import Output
from ..serving.batch.rows import count_rows, read_rows
from ..serving.batch.workers import Workers
from .engines import RAY_DATA, check_libraries
from .program import complain
from .remarks import is_terminal, only_ours, plain_remarks, tell

if TYPE_CHECKING:
    from ..serving.cluster.rows import ClusterWorkers

_SECONDS = 30  # between two lines of progress, where nobody is at a terminal


def run(input: str, output: Output, overwrite: bool, workers: "Workers | ClusterWorkers") -> int:
    """Answers the rows that are not there yet, and says how that goes.

    Args:
        input: a file, or - for standard input.
        output, overwrite: see `Output.opened`.
        workers: answer the rows.

    Returns:
        The exit code: 1 if a row could not be answered, be it in an earlier run; 70 once Ray is gone.
    """
    path, total = output.path, None
    try:
        if input != "-":
            with open_regular(input) as file:
                if os.path.exists(path) and os.path.samefile(input, path):
                    raise ValueError(f"Got {path} as --input and as --output: choose another --output.")
                total = count_rows(file)
        with sys.stdin.buffer if input == "-" else open_regular(input) as file, output.opened(overwrite):
            rows = read_rows(file)
            output.skip(rows)
            before = output.answered + output.failed
            if before and before != total:
                tell(say(f"{path} has {before} rows; going on.", f"{path} 已有 {before} 条，接着处理。"))
            with _progress(output, total) as show, closing(workers.answer(rows)) as results:
                for row, result in results:
                    output.add(row, result)
                    show()
    except (KeyboardInterrupt, SystemExit) as stop:
        tell(say("Stopped: the same command goes on from there.", "已停止：用同一条命令可接着处理。"))
        if isinstance(stop, SystemExit):
            raise
        return 130
    answered, failed = output.answered, output.failed
    said = say(f"{answered + failed} rows in {path}", f"{path} 共 {answered + failed} 条")
    if failed:
        said += say(f"; {failed} failed, see their error", f"；{failed} 条失败，见其 error")
    tell(said)
    return int(failed > 0)


def workers(load: Callable, processes: int | None, ray: bool, ahead: int) -> "Workers | ClusterWorkers":
    """Processes on this machine, or on those of a Ray cluster.

    Args:
        load: `chat_rows` or `paint_rows`, but for the number of processes and which it is.
        processes: how many; None for one, in a cluster for one on each GPU.
        ray: whether in a cluster.
        ahead: see `Workers`.

    Raises:
        ImportError: Ray Data is not installed.
    """
    if not ray:
        return Workers(partial(load, processes or 1), processes or 1, ahead)
    check_libraries(RAY_DATA, "--ray")
    from ..serving.cluster.rows import ClusterWorkers

    # at once: each line that is written is whole
    return ClusterWorkers(
        partial(load, 1), processes, ahead, when_gone=lambda error: os._exit(complain(str(error), error.exit_code))
    )


@contextmanager
def _progress(output, total):
    """Gives a function to be called after each row: a bar on a terminal, else a line now and then."""
    tqdm.set_lock(threading.RLock())  # its own is for several processes, and lost with a remark if one is killed
    at_terminal, start, last = is_terminal(sys.stderr), None, 0.0
    with tqdm(total=total, initial=output.answered + output.failed, unit=" rows", disable=not at_terminal) as bar:

        def show():
            nonlocal start, last
            bar.update()
            if output.failed:
                bar.set_postfix({"failed": output.failed}, refresh=False)
            now, done = time.monotonic(), output.answered + output.failed
            if start is None:  # now everything is loaded, which says nothing of the rate
                start, last = (now, done), now
            if at_terminal or now - last < _SECONDS:
                return
            last, rate = now, (done - start[1]) / (now - start[0])
            left = None if total is None else tqdm.format_interval(max(total - done, 0) / rate)
            of, ending = ("", "") if left is None else (f"/{total}", say(f", {left} left", f"，剩余 {left}"))
            tell(say(f"{done}{of} rows, {rate:.3g} rows/s{ending}", f"{done}{of} 条，每秒 {rate:.3g} 条{ending}"))

        yield show


@contextmanager
def _in_worker(number, processes, model):
    """In a process with a model: only the first says anything, and together they have as many threads as one."""
    tqdm.set_lock(threading.RLock())  # as above
    if number:
        sys.stderr = open(os.devnull, "w")
    if model is None:
        tell(
            say(
                "Without --model the tiny model in the package works, which knows simple drawings only.",
                "未给 --model，使用包内自带的小模型；它只认识简单的图画。",
            )
        )
    torch.set_num_threads(1 if model is None else max(1, torch.get_num_threads() // processes))
    with plain_remarks(), only_ours():
        yield


@contextmanager
def chat_rows(model, loading, images, batch, sampling, processes, number):
    """For `Workers`: Chat, in the process of this number."""
    with _in_worker(number, processes, model):
        from ..chat import VisCPMChat
        from ..serving.batch.chat import ChatRows
        from ..serving.engine import Engine, Sampling
        from ..tiny import tiny_chat_repo
        from .conversation import open_picture

        chat = VisCPMChat(tiny_chat_repo() if model is None else model, **loading)
        engine = Engine(chat, max_batch=batch, max_queue=2 * batch)
        yield ChatRows(engine, open_picture, images, Sampling(**sampling))


@contextmanager
def paint_rows(model, loading, seed, scheduler, settings, processes, number):
    """For `Workers`: Paint, in the process of this number."""
    with _in_worker(number, processes, model):
        from ..serving.batch.paint import PaintRows
        from ..serving.engine import Engine
        from .painting import Painter

        painter = Painter(model, scheduler, settings, loading)
        about = {"scheduler": type(painter.pipeline.scheduler).__name__, "model": painter.model, **painter.loading}
        own = {"negative_prompt": painter.negative, "size": painter.size, "candidates": painter.candidates}
        own |= {"steps": painter.steps, "guidance": painter.guidance}
        yield PaintRows(Engine(paint=painter.painter), seed, own, about)
