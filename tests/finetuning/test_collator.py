"""Guards the training batches against what the original's collater made and the loss it computed on them."""

import pytest
import torch

from viscpm_hf.finetuning import ChatCollator


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("chat_train.json"), golden("chat_train.safetensors")


@pytest.fixture(scope="module")
def samples(recorded, pictures):
    return [
        {
            "image": pictures[image],
            "question": data["question"],
            "context": data["context"],
            "answer": data["<ans>"],
        }
        for data, image in zip(recorded[0]["inputs"], recorded[0]["image_index"], strict=True)
    ]


@pytest.fixture(scope="module")
def collate(chat_processor, samples, recorded):
    def build(case):
        record = recorded[0]["losses"][case]
        collator = ChatCollator(chat_processor, max_length=record["max_len"])
        return collator([samples[i] for i in record["samples"]])

    return build


@pytest.mark.parametrize("case", ["single", "single_padded", "batch"])
def test_inputs_and_targets_are_the_originals(collate, recorded, chat_processor, case):
    batch, tensors = (
        collate(case),
        {k.removeprefix(f"{case}."): v for k, v in recorded[1].items() if k.startswith(case)},
    )
    table = torch.stack([batch["ext_table_ids"], batch["ext_table_subs"]], dim=-1)[0]  # (columns, 2)
    assert len(table) == 32
    table = table[batch["ext_table_mask"][0].bool()]
    originals = torch.stack([tensors["ext_table_ids"], tensors["ext_table_sub"]], dim=-1)
    size = chat_processor.tokenizer.vocab_size

    def bases(ids, columns):
        column = (ids - size).clamp(min=0)
        plain = torch.stack([ids, torch.zeros_like(ids)], dim=-1)
        return torch.where((ids >= size)[..., None], columns[column].to(ids), plain)

    own = bases(batch["input_ids"], table)
    assert torch.equal(own[..., 0], tensors["input_ids"].long())
    assert torch.equal(own[..., 1], tensors["input_id_subs"].long())
    assert torch.equal(bases(batch["shift_labels"], table), bases(tensors["target"].long(), originals))
    assert torch.equal(batch["context_mask"], tensors["context"].long())
    assert torch.equal(batch["segment_ids"], tensors["segment_ids"].long())
    assert batch["attention_mask"].sum(1).tolist() == tensors["length"].tolist()
    assert len({tuple(pair) for pair in table.tolist()}) == len(table)
    assert {tuple(pair) for pair in table.tolist()} == {tuple(pair) for pair in originals.tolist()}


@pytest.mark.parametrize("case", ["single", "single_padded", "batch"])
def test_loss_is_the_originals_with_a_deduplicated_table(collate, recorded, chat_model, case):
    with torch.no_grad():
        loss = chat_model(**collate(case)).loss
    expected = recorded[0]["losses"][case]["loss_with_deduplicated_ext_table"]
    torch.testing.assert_close(loss.item(), expected, atol=2e-5, rtol=0)


def test_without_max_length_a_batch_is_as_long_as_its_longest_sample(chat_processor, samples):
    batch = ChatCollator(chat_processor)(samples)
    assert batch["input_ids"].shape == batch["shift_labels"].shape == (3, batch["attention_mask"].sum(1).max())
    assert torch.equal(batch["labels"][:, 1:], batch["shift_labels"][:, :-1])


def test_a_sample_whose_columns_were_removed_says_what_to_set(chat_processor):
    with pytest.raises(ValueError, match="remove_unused_columns=False"):
        ChatCollator(chat_processor)([{}])


def test_text_only_samples_have_no_pictures(chat_processor, samples):
    batch = ChatCollator(chat_processor)([{**samples[0], "image": None}, samples[2]])
    assert batch["pixel_values"].shape[0] == 1
    assert batch["mm_token_type_ids"].sum(1).tolist() == [0, chat_processor.query_num]
    assert "pixel_values" not in ChatCollator(chat_processor)([{**samples[0], "image": None}])


def test_too_long_samples_lose_their_oldest_turns(chat_processor, samples):
    collator = ChatCollator(chat_processor, max_length=56)
    long = {**samples[0], "context": "User: 你好\nAI: 你好\n" * 9}
    with pytest.warns(UserWarning, match="oldest"):
        batch = collator([long])
    assert batch["input_ids"].shape == (1, 56)
    targets, expected = (b["shift_labels"][b["shift_labels"] >= 0] for b in (batch, collator([samples[0]])))
    assert torch.equal(targets, expected)
    with pytest.raises(ValueError, match="tokens"):
        ChatCollator(chat_processor, max_length=20)([samples[0]])
