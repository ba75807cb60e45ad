"""Guards the reader of JSON of others: objects, finite numbers, plain text, within bounds, or one sentence."""

import os

import pytest

from viscpm_hf.checkpoint import CheckpointError
from viscpm_hf.checkpoint.files.json_file import MAX_BYTES, load_json, named, quoted, read_json_file, require_sizes


def test_what_json_can_say_is_read():
    text = '{"a": [1, -2.5e3, null, true, {"b": "月 \\u6708 \\ud83d\\ude00"}], "": 1000000000000000019884624838656}'
    value = {"a": [1, -2500.0, None, True, {"b": "月 月 😀"}], "": 1000000000000000019884624838656}
    assert (
        load_json(text, "it")
        == load_json(text.encode(), "it")
        == load_json(b"\xef\xbb\xbf" + text.encode(), "it")
        == value
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is not valid JSON"),
        ("[]", "it holds a JSON list, expected an object"),
        ("null", "it holds a JSON NoneType"),
        ('{"a": NaN}', "'NaN' is not a finite number"),
        ('{"a": -Infinity}', "'-Infinity' is not a finite"),
        ('{"a": 1e400}', "'1e400' is not a finite"),
        ('{"a": %s}' % ("9" * 400), "a number of 400 digits"),
        ('{"a": %s}' % ("9" * 5000), "a number of 5000 digits"),
        ('{"a": 1, "a": 2}', "keys that come twice: a"),
        ('{"x": {"\\u001b[2J": 1, "\\u001b[2J": 2}}', r"keys that come twice: '\\x1b\[2J'"),
        ('{"a": "\\ud800"}', "its text is not UTF-8"),
        ('{"\\udfff": 1}', "its text is not UTF-8"),
        (b'{"a": "\xff"}', "its text is not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "its text is not UTF-8"),
        ('{"a": ' * 51 + "1" + "}" * 51, "nested more than 50 deep"),
        ('{"a": ' * 100_000, "nested too deep"),
    ],
)
def test_anything_else_is_one_short_sentence(text, message):
    with pytest.raises(CheckpointError, match=message) as error:
        load_json(text, "it")
    assert len(str(error.value)) < 200 and str(error.value).isprintable()


def test_files_are_regular_and_bounded(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"a": "' + b"x" * MAX_BYTES + b'"}')
    with pytest.raises(CheckpointError, match="has more than 4 MB"):
        read_json_file(tmp_path / "a.json")
    os.mkfifo(tmp_path / "pipe")
    for path, message in (("pipe", "named pipe"), ("", "folder"), ("no", "There is no file"), ("/dev/zero", "device")):
        with pytest.raises(CheckpointError, match=message):
            read_json_file(tmp_path / path)


def test_values_are_quoted_and_shortened():
    assert quoted("a\n\x1b[0m") == r"'a\n\x1b[0m'" and quoted(10**6000) == "a number of thousands of digits"
    assert (
        max(len(quoted(value)) for value in ("x" * 10**6, ["x" * 1000] * 1000, {str(i): i for i in range(99)})) < 600
    )
    assert [named(name) for name in ("model.a", "a b", "", "\x1b", 3)] == ["model.a", "'a b'", "''", r"'\x1b'", "3"]


@pytest.mark.parametrize("value", [None, True, 0, -1, 2.0, "4", [4], {}, 2**24 + 1, 10**90])
def test_sizes_are_whole_positive_and_bounded(value):
    with pytest.raises(CheckpointError, match="it has b=.*, expected a whole number from 1 to 16777216"):
        require_sizes({"a": 1, "b": value}, "it", {"a": None, "b": 3})
    assert require_sizes({"a": 1}, "it", {"a": None, "b": 3}) == {"a": 1, "b": 3}
