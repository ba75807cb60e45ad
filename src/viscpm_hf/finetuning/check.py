"""A look at every sample before the first step: what would stop a run later is left out, counted and listed."""

import os
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..checkpoint.errors import listed
from ..language import say
from .collator import ChatCollator
from .dataset import ChatDataset, ChatSample, LeftOut, as_line, sample_of
from .rows import BrokenRow


def check_samples(
    dataset: ChatDataset, collator: ChatCollator, workers: int | None = None, progress: bool = False
) -> None:
    """Leaves out rows whose picture cannot be read or is too small, and samples that are too long for the collator.

    Args:
        dataset (`ChatDataset`): changed in place: its samples, `left_out` and `lengths`.
        collator (`ChatCollator`): that will make batches of it.
        workers (`int`, *optional*): threads that read pictures; one for each processor by default.
        progress (`bool`): whether to say on stderr what is done, with a bar on a terminal.

    Raises:
        ValueError: a sample cannot be used and the data set is strict, or none is left.
    """
    if progress:
        names = listed([source.name for source in dataset.sources], 3)
        line = say(f"looking at {len(dataset)} samples of {names}", f"检查 {names} 的 {len(dataset)} 个样本")
        print(line, file=sys.stderr, flush=True)
    kept, lengths = np.zeros(len(dataset), dtype=bool), []
    # the samples of a row follow each other
    rows = [list(own) for _, own in groupby(range(len(dataset)), lambda i: tuple(dataset.places[i][:2]))]
    with warnings.catch_warnings(), ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # of turns that are dropped
        judged = _a_few_ahead(pool, lambda own: _judge(dataset, collator, own), rows)
        for own, (fault, found) in tqdm(
            zip(rows, judged, strict=True), "checking", len(rows), disable=None if progress else True, leave=False
        ):
            for index, length in zip(own, found, strict=True):
                if isinstance(length, BrokenRow):
                    fault = fault or length
                else:
                    kept[index] = True
                    lengths.append(length)
            if fault is not None:
                dataset.leave_out(int(dataset.places[own[0]][0]), int(dataset.places[own[0]][1]), fault)
    dataset.keep(kept, lengths)


def _a_few_ahead(pool, judge, rows, ahead: int = 64) -> Iterator:
    """`pool.map` in order, without all results at once."""
    waiting = []
    for row in rows:
        waiting.append(pool.submit(judge, row))
        if len(waiting) > ahead:
            yield waiting.pop(0).result()
    for each in waiting:
        yield each.result()


def _judge(dataset: ChatDataset, collator: ChatCollator, own: list[int]):
    """What is wrong with a row, and of each of its samples the length or what is wrong."""
    row, source = dataset.row(own[0])
    try:
        picture = dataset.picture(row, source)
    except BrokenRow as error:
        return error, [error] * len(own)
    lengths = []
    for index in own:
        turn = int(dataset.places[index][2])
        try:
            lengths.append(max(sample_length(sample, collator) for sample in _all_of(dataset, row, turn, picture)))
        except BrokenRow as error:
            lengths.append(error)
    return None, lengths


def _all_of(dataset: ChatDataset, row, turn: int, picture) -> Iterator[ChatSample]:
    for version in row.versions:
        yield sample_of(version, turn, picture, dataset.draw(turn), dataset.captions)


def sample_length(sample: ChatSample, collator: ChatCollator) -> int:
    """Tokens of a sample as the collator encodes it, its oldest turns dropped if need be.

    Raises:
        BrokenRow: it is too long even so, or cannot be encoded.
    """
    try:
        return len(collator.encode(sample)["input_ids"])
    except ValueError as error:
        reason = "a sample that is too long" if "tokens" in str(error) else "a text that cannot be encoded"
        raise BrokenRow(reason, " ".join(str(error).split())[:200]) from error


def write_left_out(path: Path, left_out: list[LeftOut]) -> None:
    """One JSON record a line: source, row, file, reason, detail.

    Args:
        path (`Path`): the file, which is replaced.
        left_out (`list[LeftOut]`): what is written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(map(as_line, left_out)), encoding="utf-8", errors="backslashreplace")
    os.replace(partial, path)
