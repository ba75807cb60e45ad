"""Guards the file of a batch's answers: in order, each once, and nobody else's file is touched."""

import io
import json
import resource
import signal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from viscpm_hf.serving.batch.output import Output
from viscpm_hf.serving.batch.rows import PICTURE, Result, read_rows

NAMES, SETTINGS = ("answer", "context"), {"model": "tiny", "seed": 0}
INPUT = [
    {"question": "红色的？", "image": "a.png"},
    {"question": "two\u2028lines", "answer": "a reference", "input": {"answer": 5}, "error": None},
    {"question": "", "context": "earlier"},
    {"id": 4, "nested": {"a": [1, 2.5, None]}},
]
TEXT = "".join(json.dumps(fields) + "\n" for fields in INPUT) + "no JSON\n"


def rows(text=TEXT):
    return read_rows(io.BytesIO(text.encode()))


def result(row):
    """As a model would make it: the same each time."""
    if row.error or row.fields.get("id") == 4:
        return Result({"error": row.error or "It has no question."})
    return Result({"answer": f"answer {row.number}", "context": f"context\n{row.number}"})


def answer(path, text=TEXT, most=100, begun_with=SETTINGS, overwrite=False):
    """One run, of at most so many rows."""
    output = Output(path, NAMES, begun_with)
    with output.opened(overwrite):
        left = rows(text)
        output.skip(left)
        for row, _ in zip(left, range(most), strict=False):
            output.add(row, result(row))
    return output


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "answers.jsonl"


def test_a_line_has_all_of_its_row_and_what_came_of_it(path):
    output = answer(path)
    assert (output.answered, output.failed) == (3, 2)
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert found[0] == {**INPUT[0], "answer": "answer 1", "context": "context\n1"}
    given = {"answer": "a reference", "input": {"answer": 5}, "error": None}
    assert found[1] == {
        "question": INPUT[1]["question"],
        "input": given,
        "answer": "answer 2",
        "context": "context\n2",
    }
    assert found[2]["input"] == {"context": "earlier"}
    assert found[3] == {**INPUT[3], "error": "It has no question."}
    assert found[4]["line"] == "no JSON" and "valid JSON" in found[4]["error"]


@settings(max_examples=25, deadline=None)  # the disk is waited for
@given(st.data())
def test_however_it_was_cut_off_it_goes_on_to_the_same_end(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("output") / "answers.jsonl"
    answer(path)
    whole = path.read_bytes()
    for _ in range(3):
        path.write_bytes(whole[: data.draw(st.integers(1, len(whole)))])
        answer(path, most=data.draw(st.integers(1, 3)))
    output = answer(path)
    assert path.read_bytes() == whole and (output.answered, output.failed) == (3, 2)


def test_rows_that_were_added_to_the_input_are_answered(path):
    answer(path)
    before = path.read_bytes()
    answer(path, TEXT + '{"question": "more"}\n')
    assert path.read_bytes().startswith(before) and b"answer 6" in path.read_bytes()


@pytest.mark.parametrize(
    ("text", "begun_with", "said"),
    [
        (TEXT.replace("a.png", "b.png"), SETTINGS, "another input: row 1 differs"),
        (TEXT.partition("\n")[2], SETTINGS, "another input: row 1 differs"),
        (TEXT.replace("reference", "other one"), SETTINGS, "another input: row 2 differs"),
        (TEXT.replace("2.5", "2.25"), SETTINGS, "another input: row 4 differs"),
        (TEXT.replace("no JSON", "none"), SETTINGS, "another input: row 5 differs"),
        ("\n".join(TEXT.split("\n")[:3]), SETTINGS, "more lines than the input has rows, which are 3"),
        (TEXT, {"model": "tiny", "seed": 1}, "begun with seed 0, and now it is 1"),
        (TEXT, {"model": "tiny"}, "begun with seed 0, and now it is None"),
    ],
)
def test_another_input_or_other_settings_are_refused(path, text, begun_with, said):
    answer(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=said):
        answer(path, text, begun_with=begun_with)
    assert path.read_bytes() == before
    answer(path, text, begun_with=begun_with, overwrite=True)
    assert path.read_text(encoding="utf-8").count("\n") == len(list(rows(text)))


@pytest.mark.parametrize("content", [b"text of somebody", b'{"answer": "of somebody"}\n'])
def test_the_file_of_somebody_else_is_refused(tmp_path, content):
    path = tmp_path / "mine"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="was not begun here"):
        answer(path)
    assert path.read_bytes() == content and [each.name for each in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("line", [b"[1]\n", b"\x00\x00\n", b"5\n", b'{"input": 3}\n'])
def test_a_line_that_is_no_answer_is_refused(path, line):
    answer(path, most=1)
    with open(path, "ab") as file:
        file.write(line)
    with pytest.raises(ValueError, match="something else than an answer in line 2|row 2 differs"):
        answer(path)
    assert path.read_bytes().endswith(line)


def test_of_two_runs_at_a_time_the_second_is_refused(path):
    with Output(path, NAMES, SETTINGS).opened() as output:
        output.add(next(rows()), Result({"answer": ""}))
        with pytest.raises(ValueError, match="Another process is writing"):
            answer(path, overwrite=True)
    assert sorted(each.name for each in path.parent.iterdir()) == ["answers.jsonl", "answers.jsonl.settings.json"]


def test_a_run_that_wrote_nothing_leaves_nothing(path):
    with pytest.raises(KeyError), Output(path, NAMES, SETTINGS).opened():
        raise KeyError
    assert not path.parent.exists()


def test_pictures_of_others_are_not_replaced(path, tmp_path):
    row = next(rows())
    with Output(path, PICTURE, SETTINGS, tmp_path / "pictures").opened() as output:
        output.add(row, Result({}, b"a picture"))
    assert json.loads(path.read_bytes())["file"] == str(tmp_path / "pictures" / "000001.png")
    with (
        pytest.raises(ValueError, match="holds something already"),
        Output(tmp_path / "other", NAMES, SETTINGS, tmp_path / "pictures").opened(),
    ):
        raise AssertionError
    with Output(path, PICTURE, SETTINGS, tmp_path / "pictures").opened() as output:  # its own
        output.skip(rows())
    assert (tmp_path / "pictures" / "000001.png").read_bytes() == b"a picture"


@pytest.mark.parametrize("kind", ["file", "under a file", "read-only"])
def test_a_folder_that_takes_no_pictures_is_said_before_a_model_is_loaded(kind, path, tmp_path, monkeypatch):
    pictures = tmp_path / "pictures"
    if kind == "read-only":
        pictures.mkdir()
        monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    else:
        pictures.write_bytes(b"of somebody")
    before = sorted(tmp_path.iterdir())
    place = pictures / "new" if kind == "under a file" else pictures
    for overwrite in (False, True):
        with (
            pytest.raises(ValueError, match="is no folder that can be written to .*: choose another --pictures"),
            Output(path, PICTURE, SETTINGS, place).opened(overwrite),
        ):
            raise AssertionError
    assert sorted(tmp_path.iterdir()) == before


def test_standard_output_is_no_file_to_go_on_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="Got - as --output"):
        answer(Path("-"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [10, 500])
def test_a_disk_that_is_full_at_once_has_nothing_left_behind(size, path, tmp_path):
    """Neither of the settings nor of a picture; a limit of this process stands for the disk's."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        with (
            pytest.raises(ValueError, match="File too large"),
            Output(path, PICTURE, SETTINGS, tmp_path / "pictures").opened() as output,
        ):
            output.add(next(rows()), Result({}, b"a picture" * 1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_sentence_and_leaves_whole_lines(path):
    """A limit of this process stands for the disk's."""
    answer(path)
    whole = path.read_bytes()
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    end = len(b"".join(whole.splitlines(keepends=True)[:2]))
    path.write_bytes(whole[:end])
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (end + 5, before[1]))
        with pytest.raises(ValueError, match="Could not write .* the same command again"):
            answer(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == whole[:end]
    answer(path)
    assert path.read_bytes() == whole
