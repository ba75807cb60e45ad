"""Guards the conversation data set: every turn becomes a sample that sees the turns before it."""

import json

import pytest
from PIL import Image

from viscpm_hf.finetuning import ChatDataset


def record(*texts, **extra):
    speakers = ("human", "gpt") * len(texts)
    conversation = [{"from": who, "value": text} for who, text in zip(speakers, texts, strict=False)]
    return {"conversations": conversation, **extra}


def test_a_sample_per_answer(golden):
    """On the original's own conversation: its first sample is the same, later ones have the answers it lost."""
    conversation = golden("chat_train.json")["itembuilder"]["conversation"]
    dataset = ChatDataset([{"conversations": conversation, "image": Image.new("RGB", (4, 4))}])
    assert [dataset[i]["question"] for i in range(len(dataset))] == [
        "这张图片里有什么？",
        "Describe the picture in English please",
        "那海呢？q",
    ]
    assert [dataset[i]["answer"] for i in range(3)] == ["一只红色的小猫 a<b", "ok", "2"]
    assert [dataset[i]["context"] for i in range(3)] == [
        "",
        "User: 这张图片里有什么？\nAI: 一只红色的小猫 a<<b\n",
        "User: 这张图片里有什么？\nAI: 一只红色的小猫 a<<b\nUser: Describe the picture in English please\nAI: ok\n",
    ]


def test_pictures_come_from_the_folder_of_the_file(tmp_path):
    Image.new("RGBA", (6, 5), "red").save(tmp_path / "a.png")
    file = tmp_path / "data.json"
    file.write_text(json.dumps([record("<image>\nhi", "ho", image="a.png"), record("no picture", "ok")]))
    dataset = ChatDataset(file)
    assert len(dataset) == 2
    assert dataset[0]["image"].mode == "RGB" and dataset[0]["image"].size == (6, 5)
    assert dataset[0]["question"] == "hi" and dataset[1]["image"] is None
    moved = ChatDataset([record("q", "a", image="a.png")], image_folder=tmp_path)
    assert moved[0]["image"].getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("texts", [(), ("only a question",), ("q", "a", "q again")])
def test_a_conversation_without_its_answers_is_refused(texts):
    with pytest.raises(ValueError, match="Record 1 is a conversation of"):
        ChatDataset([record("q", "a"), record(*texts)])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"a": 1}\n{"a": 2}', "cannot be read as a JSON file"),
        ('{"conversations": []}', "holds a dict"),
        ('[{"messages": []}]', "Record 0 has no list of conversations"),
        ('["text"]', "Record 0 has no list of conversations"),
        ('[{"conversations": [{"role": "user", "content": "hi"}]}]', "Record 0 has other messages"),
    ],
)
def test_other_files_are_one_sentence(tmp_path, content, sentence):
    file = tmp_path / "data.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=sentence):
        ChatDataset(file)


def test_a_missing_picture_is_named(tmp_path):
    with pytest.raises(ValueError, match="no.png"):
        ChatDataset([record("q", "a", image=tmp_path / "no.png")])[0]
    with pytest.raises(ValueError, match="cannot be read"):
        ChatDataset(tmp_path / "nowhere.json")
