"""Guards the forms of data that people have: each becomes the same picture, questions and answers."""

import json

import pytest

from viscpm_hf.finetuning.rows import BrokenRow, read_row

TURNS = [("What is it?", "A cat."), ("Where?", "Left.")]
LLAVA = [
    {"from": "human", "value": "<image>\nWhat is it?"},
    {"from": "gpt", "value": "A cat."},
    {"from": "human", "value": "Where?"},
    {"from": "gpt", "value": " Left. "},
]
OPENAI = [
    {"role": "user", "content": "<image>What is it?"},
    {"role": "assistant", "content": "A cat."},
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "Left."},
]
PARTS = [
    {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What is it?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
    *OPENAI[2:],
]
URL = [
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}, "What is it?"]},
    *OPENAI[1:],
]


@pytest.mark.parametrize(
    "row",
    [
        {"id": "1", "image": "a.png", "conversations": LLAVA},
        {"images": ["a.png"], "conversations": LLAVA, "image": None, "system": ""},
        {"images": ["a.png"], "messages": OPENAI},
        {"images": ["a.png"], "messages": PARTS},
        {"image": "a.png", "conversations": OPENAI},
        {"messages": URL},
        {"image": "a.png", "conversations": json.dumps(LLAVA)},
        {"BUFFER": "a.png", "TEXT": json.dumps(LLAVA)},
        {"image": "a.png", "conversations": {name: [m[name] for m in LLAVA] for name in ("from", "value")}},
        {"jpg": "a.png", "json": {"conversations": LLAVA}, "__key__": "0001"},
    ],
)
def test_conversations(row):
    read = read_row(row)
    assert (read.picture, read.versions) == ("a.png", [TURNS])


@pytest.mark.parametrize(
    ("row", "versions"),
    [
        ({"image": "a", "text": "a cat"}, [[(None, "a cat")]]),
        ({"image": "a", "caption": ["a cat", "cats"]}, [[(None, "a cat")], [(None, "cats")]]),
        ({"BUFFER": b"a", "TEXT": "a<cap_sep>b", "ZH_TEXT": "猫"}, [[(None, "a")], [(None, "b")], [(None, "猫")]]),
        ({"png": b"a", "txt": "猫", "__url__": "x"}, [[(None, "猫")]]),
        ({"question": "q", "answer": "a"}, [[("q", "a")]]),
    ],
)
def test_captions_and_questions(row, versions):
    assert read_row(row).versions == versions


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (None, "not a record"),
        ({}, "no text in a known form"),
        ({"image": "a"}, "no text in a known form"),
        ({"conversations": None}, "no text in a known form"),
        ({"conversations": "hello"}, "no list of messages"),
        ({"conversations": []}, "an empty conversation"),
        ({"conversations": [1]}, "no record"),
        ({"conversations": LLAVA[1:]}, "take turns"),
        ({"conversations": LLAVA}, "picture is missing"),
        ({"messages": PARTS}, "picture is missing"),
        ({"images": ["a", "b"], "conversations": LLAVA}, "more than one picture"),
        ({"image": "a", "conversations": [{"from": "system", "value": "s"}, *LLAVA]}, "a system message"),
        ({"image": "a", "conversations": LLAVA, "system": "be kind"}, "a system message"),
        ({"conversations": [{"from": "tool", "value": "s"}]}, "an unknown speaker"),
        ({"conversations": [{"from": "human", "value": 3}]}, "without text"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "an unknown part"),
        ({"question": "<image>", "answer": "a", "image": "i"}, "an empty question"),
        ({"question": "q", "answer": "\n"}, "an empty answer"),
        ({"question": "q", "answer": "\ud800"}, "not Unicode"),
        ({"question": "q", "answer": 1.0}, "the answer is no text"),
        ({"text": "a cat"}, "picture is missing"),
        ({"text": [], "image": "a"}, "an empty caption"),
    ],
)
def test_broken_rows_say_why(row, reason):
    with pytest.raises(BrokenRow, match=reason):
        read_row(row)
