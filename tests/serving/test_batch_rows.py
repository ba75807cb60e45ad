"""Guards the rows of a batch's input: every line that has something is one, whatever it holds."""

import asyncio
import io
import json
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from viscpm_hf.serving.batch import rows
from viscpm_hf.serving.batch.chat import ChatRows
from viscpm_hf.serving.batch.rows import count_rows, read_rows
from viscpm_hf.serving.batch.workers import answered
from viscpm_hf.serving.engine import Sampling

OBJECTS = st.dictionaries(st.text(), st.none() | st.integers(-(10**50), 10**50) | st.text() | st.lists(st.booleans()))


@given(st.lists(OBJECTS))
def test_objects_come_as_they_are(objects):
    file = io.BytesIO("\r\n\n".join(map(json.dumps, objects)).encode())
    assert [(row.fields, row.error) for row in read_rows(file)] == [(fields, None) for fields in objects]


@given(st.binary())
@example(b'{"a": NaN}\n[1]\n{"a": "\\ud800"}\n{"a": 1, "a": 2}\n\xff\xfe\n' + b"[" * 100_000)
def test_whatever_a_line_holds_it_is_a_row_that_can_be_written(data):
    found = list(read_rows(io.BytesIO(data)))
    assert count_rows(io.BytesIO(data)) == len(found) == sum(bool(line.strip()) for line in data.split(b"\n"))
    assert [row.number for row in found] == list(range(1, len(found) + 1))
    for row in found:
        json.dumps(row.fields, ensure_ascii=False).encode()
        assert row.error is None or (set(row.fields) == {"line"} and "\n" not in row.error)


def test_a_line_that_is_too_long_is_one_row(monkeypatch):
    """And the next one is read as if it had not been there."""
    monkeypatch.setattr(rows, "LONGEST", 16)
    data = b'{"a": 1}\n{"a": "' + b"x" * 100 + b'"}\n' + b" " * 40 + b'\n{"b": 2}\n{"c": "012345"}\n{"c": "0123456"}'
    found = list(read_rows(io.BytesIO(data)))
    assert count_rows(io.BytesIO(data)) == len(found)
    assert [row.fields for row in found if row.error is None] == [{"a": 1}, {"b": 2}, {"c": "012345"}]
    assert [row.number for row in found if row.error is not None] == [2, 5]


def test_a_text_that_would_be_tokenized_for_minutes_is_refused(engine):
    """With its context; those beside it are answered, and one of exactly that length is the model's business."""
    answer = ChatRows(engine, None, Path(), Sampling())
    rows = [{"question": "x" * 10_000_000}, {"question": "x", "context": "y" * 100_000}, {"question": "x" * 100_000}]

    async def all_of_them():
        return await asyncio.gather(*(answered(answer, 1, fields) for fields in (*rows, {"question": "你好"})))

    *errors, last = asyncio.run(all_of_them())
    for each, said in zip(errors, ("Got 10000000 characters", "Got 100001 characters", "most 3000"), strict=True):
        assert said in each.fields["error"] and len(each.fields["error"]) < 200
    assert "answer" in last.fields
