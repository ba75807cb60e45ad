"""Guards a batch's processes: order, rows that end them, processes that somebody ends, what cannot be loaded."""

import asyncio
import os
import signal
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from viscpm_hf.serving.batch import workers
from viscpm_hf.serving.batch.rows import Result, Row
from viscpm_hf.serving.batch.workers import Workers


@pytest.fixture(autouse=True)
def forked(monkeypatch):
    """From a process that tests/conftest.py has let import what takes seconds."""
    monkeypatch.setattr(workers, "_METHOD", "forkserver")


@contextmanager
def loaded(folder, number):
    """Answers as the row says."""

    async def answer(number, fields):
        with open(folder / "tries", "a") as file:
            file.write(f"{number} {os.getpid()}\n")
        await asyncio.sleep(fields.get("seconds", 0))
        match fields.get("does"):
            case "raise":
                raise ValueError("The row is\nbad.")
            case "break":
                raise KeyError("a bug")
            case "end":
                os.kill(os.getpid(), signal.SIGKILL)
            case "end once" if not (folder / "ended").exists():
                (folder / "ended").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return Result({"answer": f"of {number}"})

    yield answer


@contextmanager
def refusing(number):
    raise ValueError("There is no such model.")
    yield


@contextmanager
def ending(folder, number):
    with open(folder / "loads", "a") as file:
        file.write("load\n")
    os._exit(3)
    yield


def run(workers, fields):
    rows = [Row(number, each) for number, each in enumerate(fields, 1)]
    results = list(workers.answer(rows))
    assert [row for row, _ in results] == rows
    return [result.fields for _, result in results]


def tries(folder):
    return [tuple(map(int, line.split())) for line in (folder / "tries").read_text().splitlines()]


def answers(*numbers):
    return [{"answer": f"of {number}"} for number in numbers]


def test_they_come_in_order_whoever_is_faster_and_bad_ones_harm_nobody(tmp_path):
    found = run(
        Workers(partial(loaded, tmp_path), count=2, ahead=3),
        [{"seconds": 1}, {}, {"does": "raise"}, {"does": "end once"}, *[{}] * 26],
    )
    assert found == [*answers(1, 2), {"error": "The row is bad."}, *answers(*range(4, 31))]
    assert len({process for _, process in tries(tmp_path)}) == 3  # two, and one in the place of that which ended
    assert {number for number, _ in tries(tmp_path)} == set(range(1, 31))


def test_a_row_that_ends_every_process_is_given_up_and_its_neighbours_are_answered(tmp_path):
    found = run(Workers(partial(loaded, tmp_path), ahead=4), [{}, {"does": "end"}, {"seconds": 0.1}, {}])
    assert [found[0], *found[2:]] == answers(1, 3, 4)
    assert found[1] == {"error": "The process that answered it ended 3 times, by SIGKILL, perhaps for want of memory."}
    assert [number for number, _ in tries(tmp_path)].count(3) <= 2  # once with it, once without


def test_it_stops_when_one_process_after_the_other_ends(tmp_path):
    with pytest.raises(ChildProcessError, match="one after the other, the last with exit code 3"):
        run(Workers(partial(ending, tmp_path)), [{}])
    assert len((tmp_path / "loads").read_text().splitlines()) == workers._LOADS


def test_what_cannot_be_loaded_is_said_by_the_one_who_asked():
    with pytest.raises(ValueError, match="There is no such model"):
        run(Workers(refusing), [{}])


def test_nobody_is_left_when_it_is_closed_early(tmp_path):
    results = Workers(partial(loaded, tmp_path), ahead=8).answer(
        Row(number, {"seconds": number}) for number in (0, 60)
    )
    next(results)
    (process,) = {process for _, process in tries(tmp_path)}
    results.close()
    assert not Path(f"/proc/{process}").exists()


def test_rows_are_taken_only_as_they_are_needed(tmp_path):
    taken = []

    def rows():
        for number in range(1, 10**6):
            taken.append(number)
            yield Row(number, {}, "bad" if number % 2 else None)

    results = Workers(partial(loaded, tmp_path), ahead=2).answer(rows())
    for _ in range(10):
        next(results)
    time.sleep(0.1)
    assert len(taken) < 30
    results.close()
