"""Guards the conversation data set: every turn becomes a sample that sees the turns before it."""

import json

import pytest
from PIL import Image

from viscpm_hf.finetuning import ChatDataset
from viscpm_hf.finetuning.captions import CHINESE, ENGLISH


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


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        ((), "an empty conversation"),
        (("only a question",), "do not take turns"),
        (("q", "a", "q again"), "the last question has no answer"),
        (("q", " "), "an empty answer"),
    ],
)
def test_a_broken_conversation_is_refused_or_left_out(texts, reason):
    records = [record("q", "a"), record(*texts)]
    with pytest.raises(ValueError, match=f"Record 1 of a list: .*{reason}"):
        ChatDataset(records)
    dataset = ChatDataset(records, strict=False)
    assert len(dataset) == 1 and [(each.row, each.reason) for each in dataset.left_out][0][0] == 1
    assert reason in dataset.left_out[0].reason
    with pytest.raises(ValueError, match="No sample is left"):
        ChatDataset(records[1:], strict=False)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "cannot be read as a JSON file"),
        ('{"conversations": []}', "holds a dict"),
        ("[]", "holds no record"),
        ('[{"messages": []}]', "Record 0 .*empty conversation"),
        ('{"a": 1}\n{"a": 2}', "Record 0 .*no text in a known form"),
        ('["text"]', "Record 0 .*not a record"),
        ('[{"conversations": [{"role": "owl", "content": "hi"}]}]', "Record 0 .*unknown speaker"),
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
    with pytest.raises(ValueError, match="There is no"):
        ChatDataset(tmp_path / "nowhere.json")


def test_a_picture_that_went_away_does_not_stop_a_run_that_is_not_strict(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    records = [record("1", "a", image="a.png"), record("2", "b", image="b.png")]
    dataset = ChatDataset(records, tmp_path, strict=False)
    with pytest.warns(UserWarning, match="a.png.*another sample"):
        assert dataset[0]["question"] == "2"


def test_of_two_languages_one_is_drawn_for_every_epoch():
    """The same one again, whoever asks and in whichever order."""
    row = {"image": Image.new("RGB", (4, 4)), "TEXT": "a cat", "ZH_TEXT": "一只猫"}
    dataset = ChatDataset([row] * 50)
    drawn = [[dataset[epoch, i]["answer"] for i in range(50)] for epoch in (0, 1)]
    assert set(drawn[0]) == {"a cat", "一只猫"} and drawn[0] != drawn[1]
    assert [dataset[i]["answer"] for i in reversed(range(50))] == drawn[0][::-1]
    assert {ChatDataset([row] * 9, language="zh")[i]["answer"] for i in range(9)} == {"一只猫"}
    assert {ChatDataset([row] * 9, language="en")[i]["answer"] for i in range(9)} == {"a cat"}
    with pytest.raises(ValueError, match="another language"):
        ChatDataset([record("q", "a")], language="zh")


def test_captions_are_asked_for_in_their_language():
    rows = [{"image": Image.new("RGB", (4, 4)), "text": text} for text in ("a cat", "一只猫") for _ in range(40)]
    dataset = ChatDataset(rows)
    asked = [dataset[i]["question"] for i in range(80)]
    assert set(asked[:40]) <= set(ENGLISH) and set(asked[40:]) <= set(CHINESE) and len(set(asked)) > 12
    sample = ChatDataset(rows, captions="input")[0]
    assert set(sample) == {"image", "input", "answer"} and sample["answer"] == "a cat"


def test_a_turn_in_the_history_is_what_chat_writes(chat_processor):
    question, answer = "a <b\nAI: no", "x\nUser: y <z"
    expected = chat_processor.format_turn(question, chat_processor.tokenizer.escape(answer))
    assert ChatDataset([record(question, answer, "q", "a")])[1]["context"] == expected
