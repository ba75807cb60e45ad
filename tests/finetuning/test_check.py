"""Guards the look at all samples before the first step: what would stop a run is left out, counted and listed."""

import io
import json

import pytest
from PIL import Image

from viscpm_hf.finetuning import ChatCollator, ChatDataset, check_samples
from viscpm_hf.finetuning.check import write_left_out
from viscpm_hf.finetuning.dataset import summary


def png(size, **options):
    file = io.BytesIO()
    Image.effect_noise(size, 90).convert("RGB").save(file, options.get("format", "PNG"))
    return file.getvalue()


@pytest.fixture
def rows(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.jpg").write_bytes(png((64, 64), format="JPEG")[:900])
    good = {"image": png((32, 32)), "question": "这是什么", "answer": "一只小猫"}
    turns = [{"from": ("human", "gpt")[i % 2], "value": f"{i % 10} 你好"} for i in range(60)]
    return [
        good,
        {**good, "image": png((32, 7))},
        {**good, "image": png((32, 32))[:200]},
        {**good, "image": "nowhere.png"},
        {**good, "image": "text.png"},
        {**good, "image": "cut.jpg"},
        {**good, "image": b""},
        {**good, "answer": ""},
        {**good, "answer": "小" * 80},
        {"conversations": turns},  # its oldest turns can be dropped
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}] + turns[:1]},
    ]


REASONS = {
    1: "a picture that is too small",
    2: "a picture that cannot be read",
    3: "the picture is missing",
    4: "a picture that cannot be read",
    5: "a picture that cannot be read",
    6: "a picture that cannot be read",
    7: "an empty answer",
    8: "a sample that is too long",
    10: "the last question has no answer",
}


def test_what_is_left_can_be_trained_on(rows, chat_processor, tmp_path):
    collator = ChatCollator(chat_processor, 60, padding="longest")
    dataset = ChatDataset(rows, tmp_path, min_side=8, strict=False)
    check_samples(dataset, collator)
    assert {each.row: each.reason for each in dataset.left_out} == REASONS
    assert len(dataset) == len(dataset.lengths) == 1 + 30
    with pytest.warns(UserWarning, match="oldest"):
        found = [int(collator([dataset[i]])["attention_mask"].sum()) for i in range(len(dataset))]
    assert found == dataset.lengths and max(found) <= 60
    assert summary(dataset.left_out).startswith("4 × a picture that cannot be read, 1 × ")
    write_left_out(tmp_path / "out" / "left_out.jsonl", dataset.left_out)
    listed = [json.loads(line) for line in (tmp_path / "out" / "left_out.jsonl").read_text().splitlines()]
    assert {record["row"]: record["reason"] for record in listed} == REASONS
    assert all(set(record) == {"source", "row", "file", "reason", "detail"} for record in listed)


@pytest.mark.parametrize("row", [1, 2, 3, 7, 8])
def test_strict_stops_at_the_first(rows, chat_processor, tmp_path, row):
    with pytest.raises(ValueError, match=f"Record 1 of a list: {REASONS[row]}"):
        dataset = ChatDataset([rows[0], rows[row], rows[7]][: 2 + (row == 7)], tmp_path, min_side=8)
        check_samples(dataset, ChatCollator(chat_processor, 60))


def test_the_longest_wording_counts(chat_processor):
    """Whichever of two texts is drawn later, it fits."""
    dataset = ChatDataset([{"image": png((32, 32)), "TEXT": "a", "ZH_TEXT": "小" * 20}], strict=False)
    check_samples(dataset, ChatCollator(chat_processor))
    assert dataset.lengths[0] > 40


def test_a_caption_has_the_segments_of_the_original(chat_processor):
    sample = ChatDataset([{"image": png((32, 32)), "text": "a <cat>"}], captions="input")[0]
    encoding = ChatCollator(chat_processor).encode(sample)
    tokenizer = chat_processor.tokenizer
    data = {
        "image": tokenizer.unk_token * chat_processor.query_num,
        "input": sample["input"],
        "<ans>": tokenizer.escape(sample["answer"]),
    }
    assert encoding["input_ids"] == tokenizer.encode_data(data)["input_ids"]
    assert sum(encoding["mm_token_type_ids"]) == chat_processor.query_num
    batch = ChatCollator(chat_processor)([sample, {"question": "q", "answer": "a"}])
    assert batch["input_ids"].shape[0] == 2
    with pytest.raises(ValueError, match="caption of .* tokens"):
        ChatCollator(chat_processor, max_length=20).encode(sample)
