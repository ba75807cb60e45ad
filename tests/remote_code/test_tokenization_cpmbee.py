"""Guards CpmBeeTokenizer: the original's ids, errors and model inputs, odd vocabularies, and the transformers side."""

import copy
import json
import os
import pickle
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AddedToken,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    StopStringCriteria,
)
from transformers.tokenization_utils_base import PaddingStrategy, TensorType, TruncationStrategy

from viscpm_hf.remote_code.processing_viscpm_chat import CHAT_TEMPLATE
from viscpm_hf.remote_code.tokenization_cpmbee import CpmBeeTokenizer
from viscpm_hf.remote_code.words_cpmbee import with_words

GOLDEN = Path(__file__).parents[1] / "golden"
TOKENIZER_GOLDEN = json.loads((GOLDEN / "tokenizer.json").read_text(encoding="utf-8"))
DATA_GOLDEN = json.loads((GOLDEN / "convert_data.json").read_text(encoding="utf-8"))
SPECIALS = ["<pad>", "<unk>", "</n>", "</_>", "<s>", "</s>", "<root>", "<ans>"]


@pytest.fixture(scope="module")
def tokenizer():
    return CpmBeeTokenizer(GOLDEN / "vocab.txt")


@pytest.fixture
def make(tmp_path):
    """Tokenizer of the given entries, one per line."""

    def make(entries, text=None):
        path = tmp_path / "entries.txt"
        path.write_bytes((text or "\n".join(entries) + "\n").encode("utf-8"))
        return CpmBeeTokenizer(path)

    return make


def base_and_sub(tokenizer, encoding):
    """The original's two lists in place of extension ids."""
    columns = list(zip(encoding["ext_table_ids"], encoding["ext_table_subs"], strict=True))
    size = tokenizer.vocab_size
    pairs = [columns[token - size] if token >= size else (token, 0) for token in encoding["input_ids"]]
    return [base for base, _ in pairs], [sub for _, sub in pairs]


# ---------------------------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize("case", TOKENIZER_GOLDEN["cases"], ids=lambda case: repr(case["text"][:20]))
def test_text_as_the_original(tokenizer, case):
    if "error" in case:
        with pytest.raises(ValueError) as error:
            tokenizer.encode_segment(case["text"])
        assert str(error.value) == case["message"]
        assert not tokenizer.parses(case["text"])
        return
    ids, ext_table = tokenizer.encode_segment(case["text"])
    assert ids == case["ids"]
    assert {str(index): string for index, string in ext_table.items()} == case["ext_table"]
    assert tokenizer.decode(ids, ext_table=ext_table) == case["decoded"]
    assert tokenizer.escape(case["text"]) == case["escape"]
    assert tokenizer.unescape(case["text"]) == case["unescape"]
    if "decoded_without_table" in case:
        assert tokenizer.decode(ids) == case["decoded_without_table"]
    else:  # the original raises KeyError
        assert "<unk>" in tokenizer.decode(ids)
    # what is escaped comes back as plain text, special tokens or not
    escaped, table = tokenizer.encode_segment(tokenizer.escape(case["text"]))
    assert tokenizer.decode(escaped, skip_special_tokens=True, ext_table=table) == case["text"]


def test_table_that_grows_over_texts(tokenizer):
    for case in TOKENIZER_GOLDEN["chained_past_table"]:
        past = {int(index): string for index, string in case["past_table"].items()}
        before = dict(past)
        ids, ext_table = tokenizer.encode_segment(case["text"], past)
        assert (ids, {str(k): v for k, v in ext_table.items()}) == (case["ids"], case["ext_table"])
        assert past == before


def test_ids_by_name(tokenizer):
    golden = TOKENIZER_GOLDEN["ids"]
    assert tokenizer.vocab_size == len(tokenizer) == len(tokenizer.get_vocab()) == TOKENIZER_GOLDEN["vocab_size"]
    names = ("bos", "eos", "unk", "ans", "root")
    assert [getattr(tokenizer, f"{name}_token_id") for name in names] == [golden[name] for name in names]
    assert tokenizer.convert_tokens_to_ids(["\n", " "]) == [golden["newline"], golden["space"]]
    assert sorted(tokenizer.all_special_ids) == sorted(TOKENIZER_GOLDEN["special_tokens"].values())


def test_parses_needs_grammar_and_known_special_tokens(tokenizer):
    for text in ("", "你好", "a <<b", "<ans>", "<unk_3> <mask_a_b>"):
        assert tokenizer.parses(text)
    for text in ("<", "a < b", "<>", "<foo>", "<foo_1>", "<_1>", "</n>"):
        assert not tokenizer.parses(text)


# ---------------------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize("case", DATA_GOLDEN["cases"], ids=lambda case: case["name"])
def test_data_as_the_original(tokenizer, case):
    if "error" in case:
        with pytest.raises(ValueError) as error:
            tokenizer.encode_data(case["data"])
        assert str(error.value) == case["message"]
        return
    out, encoding = case["out"], tokenizer.encode_data(case["data"])
    assert base_and_sub(tokenizer, encoding) == (out["input_ids"], out["input_id_subs"])
    assert encoding["context_mask"] == out["context"]
    assert encoding["segment_ids"] == out["segment_ids"]
    assert sum(encoding["segment_rel"], []) == out["segment_rel"]
    assert [list(bounds) for bounds in encoding["image_bounds"]] == out.get("image_bound", [])
    assert encoding["attention_mask"] == [1] * len(out["input_ids"])

    # the tables: by kind in order of first appearance, within a kind by number
    vocab = tokenizer.get_vocab()
    numbered, by_id = [], {}
    for base, table in out["token_id_table"].items():
        for index, number in table.items():
            if number:
                numbered.append((vocab[base], number, int(base != "<ans>")))
            if base != "<ans>":
                column = tokenizer.vocab_size + len(numbered) - 1
                by_id[column if number else vocab[base]] = out["ext_table"][index]
    columns = (encoding[f"ext_table_{name}"] for name in ("ids", "subs", "mask"))
    assert list(zip(*columns, strict=True)) == numbered
    assert encoding["ext_table"] == by_id
    assert encoding["unk_allowed"] == (tokenizer.unk_token_id in by_id)


@pytest.mark.parametrize("name", ["q1", "q2", "q4ctx"])
def test_prompt_tensors_of_the_original(tokenizer, name):
    golden = load_file(GOLDEN / "chat_inference.safetensors")
    case = json.loads((GOLDEN / "chat_inference.json").read_text(encoding="utf-8"))[name]
    data = {"image": "<unk>" * 6, "context": case["context"], "question": case["question"], "<ans>": ""}
    batch = tokenizer(data, return_tensors="pt")
    subs = torch.tensor(base_and_sub(tokenizer, tokenizer.encode_data(data))[1])
    ids = torch.tensor(base_and_sub(tokenizer, tokenizer.encode_data(data))[0])
    # the original feeds the answer's <s> in a step of its own
    assert torch.equal(ids[None, :-1], golden[f"{name}.input_ids"].long())
    assert torch.equal(subs[None, :-1], golden[f"{name}.input_id_subs"].long())
    assert torch.equal(batch["segment_ids"][:, :-1], golden[f"{name}.segment_ids"].long())
    assert torch.equal(batch["segment_rel"].flatten(1), golden[f"{name}.segment_rel"].long())
    assert torch.equal(batch["context_mask"][:, :-1], golden[f"{name}.context"].long())
    step = case["steps"][0]
    assert (ids[-1], batch["segment_ids"][0, -1], batch["context_mask"][0, -1]) == (step["input"], step["segment"], 0)
    assert {str(index): string for index, string in batch.ext_tables[0].items()} == case["ext_table"]


def test_training_tensors_of_the_original(tokenizer):
    golden = load_file(GOLDEN / "chat_train.safetensors")
    case = json.loads((GOLDEN / "chat_train.json").read_text(encoding="utf-8"))
    batch = tokenizer(case["inputs"], padding_side="right", return_tensors="pt")
    length = batch["input_ids"].shape[1]
    for ours, theirs in (("segment_ids", "segment_ids"), ("context_mask", "context")):
        assert torch.equal(batch[ours], golden[f"batch.{theirs}"][:, :length].long())
        assert not golden[f"batch.{theirs}"][:, length:].any()
    assert torch.equal(batch["attention_mask"].sum(1), golden["batch.length"].long())
    assert torch.equal(batch["segment_rel"].flatten(1), golden["batch.segment_rel"].long())
    for row, data in enumerate(case["inputs"]):
        ids, subs = base_and_sub(tokenizer, tokenizer.encode_data(data))
        assert golden["batch.input_ids"][row, : len(ids)].tolist() == ids
        assert golden["batch.input_id_subs"][row, : len(ids)].tolist() == subs


def test_plain_text_is_never_a_special_token(make):
    """Listed deviation: the original takes an unknown run `<q>` for a special token, here with the base `<q>`."""
    tokenizer = make([*SPECIALS, "a"])
    encoding = tokenizer.encode_data({"a": "a<<q>", "<ans>": ""})
    unk = tokenizer.unk_token_id
    assert encoding["input_ids"].count(unk) == 1 and encoding["ext_table"] == {unk: "<q>"}
    tokenizer = make(SPECIALS)
    encoding = tokenizer.encode_data({"<ans_0>": "<<ans_1>", "": "<unk_5>"})
    # in the original the plain `<ans_1>` would be the second `<ans>`
    assert encoding["ext_table"] == {unk: "<ans_1>", tokenizer.vocab_size: "<unk_5>"}
    assert encoding["ext_table_mask"] == [1]


def test_numbered_answer_slots_cannot_be_generated(tokenizer):
    encoding = tokenizer.encode_data({"input": "<ans_1><ans_2>q<ans_3>鲲"})
    ans, unk = tokenizer.ans_token_id, tokenizer.unk_token_id
    assert encoding["ext_table_ids"] == [ans, ans, unk]
    assert encoding["ext_table_mask"] == [0, 0, 1]
    assert encoding["ext_table"] == {unk: "q", tokenizer.vocab_size + 2: "鲲"}


@pytest.mark.parametrize("seed", range(5))
def test_segment_relations_of_random_trees(tokenizer, seed):
    rng = random.Random(seed)

    def tree(depth):
        if depth == 0 or rng.random() < 0.3:
            return "a"
        return {str(i): tree(depth - 1) for i in range(rng.randint(1, 3))}

    ancestors = [[0]]

    def walk(value, above):
        if isinstance(value, str):
            ancestors.append([*above, len(ancestors)])
            return
        for child in value.values():
            key = [*above, len(ancestors)]
            ancestors.append(key)
            walk(child, key)

    data = {"x": tree(11), "y": {}, "z": tree(4)}
    walk(data, [0])
    relations = tokenizer.encode_data(data)["segment_rel"]
    assert len(relations) == len(ancestors) > 5
    for query, row in zip(ancestors, relations, strict=True):
        for key, relation in zip(ancestors, row, strict=True):
            common = len(set(query) & set(key))
            up, down = min(len(query) - common, 7), min(len(key) - common, 7)
            assert relation == (0 if query is key else 8 * up + down + 1)


@pytest.mark.parametrize("data", [None, 3, ["a"], {"a": None}, {"a": 1.5}, {"a": ["b"]}, {"a": {"b": b"c"}}, {1: "a"}])
def test_wrong_types_are_one_sentence(tokenizer, data):
    with pytest.raises(ValueError, match="takes texts and dicts of texts, got .*; write it as text.$"):
        tokenizer.encode_data(data)


def test_data_without_values(tokenizer):
    assert tokenizer.encode_data({})["segment_rel"] == [[0]]
    assert tokenizer.encode_data({"a": {}})["segment_ids"] == [0, 0, 0, 1, 1, 1]
    deep = "x"
    for _ in range(2000):  # deeper than Python's own recursion
        deep = {"a": deep}
    assert len(tokenizer.encode_data(deep)["segment_rel"]) == 2002


# --------------------------------------------------------------------------------------------------------------- batch

SAMPLES = [
    {"input": "你好", "<ans>": ""},
    {"input": {"a": "鲲 q 鹏", "b": "鲲"}, "image": "<unk><unk>", "<ans>": ""},
    "world",
]


@pytest.mark.parametrize("side", ["left", "right"])
def test_batch_is_its_samples_padded(tokenizer, side):
    batch = tokenizer(SAMPLES, padding_side=side, return_tensors="pt")
    length = batch["input_ids"].shape[1]
    assert set(batch) == set(tokenizer.model_input_names)
    for row, sample in enumerate(SAMPLES):
        encoding = tokenizer.encode_data(sample)
        own = len(encoding["input_ids"])
        window = slice(length - own, length) if side == "left" else slice(own)
        for key in ("input_ids", "attention_mask", "segment_ids", "context_mask"):
            assert batch[key].dtype == torch.long
            assert batch[key][row, window].tolist() == encoding[key]
            assert batch[key][row].abs().sum() == sum(encoding[key])  # zeros elsewhere
        segments = len(encoding["segment_rel"])
        assert batch["segment_rel"][row, :segments, :segments].tolist() == encoding["segment_rel"]
        assert batch["segment_rel"][row].sum() == sum(map(sum, encoding["segment_rel"]))
        for key in ("ext_table_ids", "ext_table_subs", "ext_table_mask"):
            padding = [0] * (batch[key].shape[1] - len(encoding[key]))
            assert batch[key][row].tolist() == encoding[key] + padding
        assert batch["unk_allowed"][row] == encoding["unk_allowed"]
        assert batch.ext_tables[row] == encoding["ext_table"]
    assert batch["unk_allowed"].tolist() == [0, 1, 0]


def test_batch_as_lists(tokenizer):
    tensors = tokenizer(SAMPLES, return_tensors="pt")
    assert dict(tokenizer(SAMPLES)) == {key: value.tolist() for key, value in tensors.items()}
    ragged = tokenizer(SAMPLES, padding=False)
    encodings = [tokenizer.encode_data(sample) for sample in SAMPLES]
    assert dict(ragged) == {key: [e[key] for e in encodings] for key in tokenizer.model_input_names}
    single = tokenizer(SAMPLES[0])
    assert dict(single) == {key: encodings[0][key] for key in tokenizer.model_input_names}
    assert single.ext_tables == [{}]
    # one set of keys, with extension columns or without: `datasets` takes that of the first sample for all
    assert set(tokenizer(["你好", "world"])) == set(ragged) == set(single)
    assert "ext_table_ids" not in tokenizer(SAMPLES[0], return_tensors="pt")


def test_padding_of_what_processor_and_collator_add(tokenizer):
    encodings = [tokenizer.encode_data(sample) for sample in SAMPLES]
    for encoding in encodings:
        encoding["mm_token_type_ids"] = [1] * len(encoding["input_ids"])
        encoding["labels"] = list(encoding["input_ids"])
    batch = tokenizer.pad_encodings(encodings, "right")
    assert torch.equal(batch["mm_token_type_ids"], batch["attention_mask"])
    padding = batch["attention_mask"] == 0
    assert padding.any() and (batch["labels"][padding] == -100).all()
    assert torch.equal(batch["labels"][~padding], batch["input_ids"][~padding])


def test_batch_errors_are_sentences(tokenizer):
    with pytest.raises(ValueError, match="empty list"):
        tokenizer([], return_tensors="pt")
    with pytest.raises(ValueError, match="padding_side is"):
        tokenizer("a", padding_side="top", return_tensors="pt")
    with pytest.raises(ValueError, match="return_tensors|'tf'"):
        tokenizer("a", return_tensors="tf")
    with pytest.raises(ValueError, match="Got samples of 6 to 33 tokens, expected padding=True"):
        tokenizer(SAMPLES, padding=False, return_tensors="pt")
    with pytest.raises(ValueError, match="got NoneType; write it as text"):
        tokenizer()
    with pytest.raises(ValueError, match="more than 4096 keys and values"):
        tokenizer({str(number): "a" for number in range(3000)})


# ---------------------------------------------------------------------------------------- options of a call, padding


def test_names_of_transformers(tokenizer):
    named = tokenizer(
        text=SAMPLES[0], text_pair=None, return_tensors=TensorType.NUMPY, padding=PaddingStrategy.LONGEST
    )
    plain = tokenizer(SAMPLES[0], return_tensors="pt")
    assert {key: value.tolist() for key, value in named.items()} == {k: v.tolist() for k, v in plain.items()}
    assert all(isinstance(value, np.ndarray) and value.dtype == np.int64 for value in named.values())
    assert "attention_mask" not in tokenizer("a", return_attention_mask=False)
    nothing = dict.fromkeys(REFUSED) | {"stride": 0, "return_length": False}
    assert tokenizer("a", verbose=False, **nothing) == tokenizer("a")


REFUSED = {
    "text_pair": "b",
    "text_target": "b",
    "text_pair_target": "b",
    "stride": 2,
    "is_split_into_words": True,
    "return_token_type_ids": True,
    "return_overflowing_tokens": True,
    "return_offsets_mapping": True,
    "return_length": True,
    "tokenizer_kwargs": {"padding": True},
}
WRONG = {
    **{name: [value] for name, value in REFUSED.items()},
    "nonsense": [1, None, False],
    "padding": ["left", 3, "longest_first"],
    "truncation": ["only_second", "right", 5],
    "max_length": [0, -1, 2.5, "8", True],
    "pad_to_multiple_of": [0, 8.0, True],
    "padding_side": ["top", 1],
    "return_tensors": ["tf", "jax", 1],
}


@pytest.mark.parametrize("name", WRONG)
def test_options_are_honoured_or_refused_by_name(tokenizer, name):
    for value in WRONG[name]:
        options = {"return_tensors": "pt", name: value}
        for call in (tokenizer, tokenizer.encode):
            with pytest.raises(ValueError, match="tensors" if name == "return_tensors" else name) as error:
                call("a", **options)
            assert "\n" not in str(error.value) and len(str(error.value)) < 250
    with pytest.raises(ValueError, match="text_pair"):
        tokenizer("a", "b")


def test_tokens_of_a_text_alone(tokenizer):
    for text in ("你好 world", "a<<b", "<mask>鲲在凤", ""):
        ids, _ = tokenizer.encode_segment(text)
        batch = tokenizer(text, add_special_tokens=False)
        assert batch["segment_ids"] == [0] * len(ids) and batch["segment_rel"] == [[0]]
        assert batch["context_mask"] == batch["attention_mask"] == [1] * len(ids)
        assert batch["input_ids"] == tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(batch["input_ids"], ext_table=batch.ext_tables[0]) == text
        whole = tokenizer(text)["input_ids"]
        assert whole == tokenizer.encode(text) == tokenizer.build_inputs_with_special_tokens(batch["input_ids"])
        assert tokenizer.num_special_tokens_to_add() == len(whole) - len(ids) == 5
        pieces = tokenizer.tokenize(text)
        known = [index if index < tokenizer.vocab_size else tokenizer.unk_token_id for index in batch["input_ids"]]
        assert tokenizer.convert_tokens_to_ids(pieces) == known
    for data in (SAMPLES[0], ["a", SAMPLES[0]]):
        with pytest.raises(ValueError, match="add_special_tokens=False for a dict, expected a text"):
            tokenizer(data, add_special_tokens=False)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_truncation_of_a_text(tokenizer, side, wrapped):
    text, around = "鲲你好鹏the cat凤on", 5 * wrapped
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.truncation_side = side
    pieces = tokenizer.tokenize(text)
    for keep in range(len(pieces) + 2):
        options = {"max_length": keep + around} if keep + around else {"max_length": 1}
        for truncation in (None, True, "longest_first", "only_first", TruncationStrategy.LONGEST_FIRST):
            batch = tokenizer(text, truncation=truncation, add_special_tokens=wrapped, **options)
            kept = pieces[:keep] if side == "right" else pieces[max(len(pieces) - keep, 0) :]
            if keep or wrapped:
                # numbers and tables are those of the shortened text
                assert dict(batch) == dict(tokenizer("".join(kept), add_special_tokens=wrapped))
                assert batch.ext_tables == tokenizer("".join(kept), add_special_tokens=wrapped).ext_tables
    assert tokenizer(text, truncation=False, max_length=6) == tokenizer(text)
    assert tokenizer(text, truncation=True) == tokenizer(text)  # there is no longest
    tokenizer.model_max_length = 7
    assert len(tokenizer(text, truncation=True)["input_ids"]) == 7
    assert len(tokenizer("a", padding="max_length", return_tensors="pt")["input_ids"][0]) == 7


def test_truncation_takes_from_the_longest_values_and_keeps_the_answers_place(tokenizer):
    data = {"image": "<unk>" * 6, "document": {"a": "on" * 20, "b": "on" * 9}, "question": "on", "<ans>": ""}
    whole = tokenizer.encode_data(data)

    def counts(length, **changed):
        ids = tokenizer({**data, **changed}, truncation=True, max_length=length)["input_ids"]
        assert len(ids) == length
        text = tokenizer.decode(ids)
        assert text.startswith("<s><root></s><s>image</s><s><unk><unk><unk><unk><unk><unk></s><s>document</s>")
        assert text.endswith("<s><ans></s><s>" + changed.get("<ans>", ""))
        parts = text.split("</s>")
        return [parts[i].count("on") for i in (5, 7, 9)]

    length = len(whole["input_ids"])
    assert counts(length) == [20, 9, 1]
    assert counts(length - 5) == [15, 9, 1]
    assert counts(length - 13) == [8, 8, 1]
    assert counts(length - 14) == [7, 8, 1]
    assert counts(length - 28) == [0, 1, 1]
    assert counts(length - 27, **{"<ans>": "the"})[1:] == [1, 1]
    least = length - 30
    assert counts(least) == [0, 0, 0]
    with pytest.raises(ValueError, match=f"max_length={least - 1}, but a sample has {least} tokens"):
        tokenizer(data, truncation=True, max_length=least - 1)
    with pytest.raises(ValueError, match="truncation='only_first' for a sample of 3 texts"):
        tokenizer(data, truncation="only_first", max_length=least)
    short = {"question": "on" * 9, "<ans>": ""}
    assert len(tokenizer(short, truncation="only_first", max_length=15)["input_ids"]) == 15


def test_length_to_pad_to(tokenizer):
    samples = ["a", "你好 world", SAMPLES[1]]
    longest = max(len(tokenizer(sample)["input_ids"]) for sample in samples)
    for options, length in (
        ({}, longest),
        ({"pad_to_multiple_of": 8}, 40),
        ({"padding": "max_length", "max_length": 50}, 50),
        ({"padding": "max_length", "max_length": 50, "pad_to_multiple_of": 8}, 56),
        ({"padding": "max_length", "max_length": 3}, longest),
        ({"padding": True, "truncation": True, "max_length": 32, "pad_to_multiple_of": 16}, 32),
    ):
        plain = tokenizer(samples, return_tensors="pt", max_length=32 if length == 32 else None)
        batch = tokenizer(samples, return_tensors="pt", **options)
        assert batch["input_ids"].shape[1] == batch["attention_mask"].shape[1] == length
        assert batch["attention_mask"].sum() == plain["attention_mask"].sum()
        for key in ("segment_rel", "ext_table_ids", "unk_allowed"):  # have no length
            assert torch.equal(batch[key], plain[key])
        assert len(tokenizer(samples[2], **options)["input_ids"]) in (length, longest)
    assert tokenizer("a", pad_to_multiple_of=8)["attention_mask"] == [0, 0, 1, 1, 1, 1, 1, 1]
    assert tokenizer("a", padding=False, pad_to_multiple_of=8) == tokenizer("a")
    with pytest.raises(ValueError, match="expected a multiple of pad_to_multiple_of=8"):
        tokenizer("a", truncation=True, max_length=12, pad_to_multiple_of=8)
    with pytest.raises(ValueError, match="padding='max_length' without max_length"):
        tokenizer("a", padding="max_length")


def test_special_tokens_mask(tokenizer):
    data = {"input": "你<mask>鲲好", "<ans>": ""}
    batch = tokenizer([data, "a"], return_special_tokens_mask=True)
    pieces = tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    special = [int(piece[0] == "<" and piece[-1] == ">" and piece != "<unk>") for piece in pieces]
    assert batch["special_tokens_mask"] == [special, [1] * (len(pieces) - 6) + [1, 1, 1, 1, 0, 1]]
    ids = tokenizer.encode("a<mask>", add_special_tokens=False)
    assert tokenizer.get_special_tokens_mask(ids) == [1, 1, 1, 1, 0, 1, 1]
    with pytest.raises(ValueError, match="token_ids_1"):
        tokenizer.get_special_tokens_mask(ids, ids)
    with pytest.raises(ValueError, match="call it with the text"):
        tokenizer.prepare_for_model(ids)


def test_pads_what_it_returned(tokenizer):
    """Lists, arrays and tensors of samples come out as the batch of the samples would."""
    wanted = tokenizer(SAMPLES, return_tensors="pt")
    rows = [tokenizer(sample) for sample in SAMPLES]
    forms = {
        "lists": rows,
        "dicts": [dict(row) for row in rows],
        "arrays": [{key: np.array(value) for key, value in row.items()} for row in rows],
        "tensors": [{key: torch.tensor(value) for key, value in row.items()} for row in rows],
        "encodings": [tokenizer.encode_data(sample) for sample in SAMPLES],
        "ragged": tokenizer(SAMPLES, padding=False),
        "without empty columns": [{k: v for k, v in row.items() if k[:3] != "ext" or v} for row in rows],
    }
    for name, form in forms.items():
        batch = tokenizer.pad(form, return_tensors="pt")
        assert set(batch) == set(wanted), name
        assert all(torch.equal(batch[key], wanted[key]) for key in wanted), name
        assert getattr(batch, "ext_tables", None) == (
            wanted.ext_tables if name in ("lists", "encodings", "ragged") else None
        )
    assert dict(tokenizer.pad(rows)) == dict(tokenizer(SAMPLES))
    assert isinstance(tokenizer.pad(forms["arrays"])["segment_rel"], np.ndarray)
    assert torch.is_tensor(tokenizer.pad(forms["tensors"])["segment_rel"])
    assert dict(tokenizer.pad(rows[0], padding="max_length", max_length=40)) == dict(
        tokenizer(SAMPLES[0], padding="max_length", max_length=40)
    )
    assert dict(tokenizer.pad(rows, padding=False)) == dict(forms["ragged"])
    right = tokenizer.pad(rows, padding_side="right", return_tensors="np", return_attention_mask=False)
    assert "attention_mask" not in right and right["input_ids"][2, 0] == tokenizer.bos_token_id


def test_pads_ids_alone_and_keeps_what_it_does_not_know(tokenizer):
    assert dict(tokenizer.pad({"input_ids": [[1, 2, 3], [4]]})) == {
        "input_ids": [[1, 2, 3], [0, 0, 4]],
        "attention_mask": [[1, 1, 1], [0, 0, 1]],
    }
    assert dict(tokenizer.pad({"input_ids": [1], "attention_mask": [0]})) == {"input_ids": [1], "attention_mask": [0]}
    rows = [{"input_ids": [1, 2], "labels": [7, 8], "weight": 1.5, "pixel_values": np.ones((3, 2, 2), np.float32)}]
    rows.append({"input_ids": [3], "labels": [9], "weight": 2.5, "pixel_values": np.zeros((3, 2, 2), np.float32)})
    batch = tokenizer.pad(rows, return_tensors="pt")
    assert batch["labels"].tolist() == [[7, 8], [-100, 9]] and batch["weight"].tolist() == [1.5, 2.5]
    assert batch["pixel_values"].shape == (2, 3, 2, 2)
    assert tokenizer.pad([{"input_ids": [1], "labels": 3}, {"input_ids": [1, 2], "labels": 4}])["labels"] == [3, 4]
    for wrong, match in (
        ([], "empty list"),
        ([{"attention_mask": [1]}], "without input_ids"),
        (["a"], "without input_ids"),
        ([{"input_ids": [1]}, {"input_ids": [1], "segment_ids": [0]}], "different keys"),
        ([{"input_ids": [1], "name": "x"}], "'name' make no tensor"),
        ([{"input_ids": [1], "score": [1]}, {"input_ids": [1], "score": [1, 2]}], "'score' make no tensor"),
    ):
        with pytest.raises(ValueError, match=match):
            tokenizer.pad(wrong, return_tensors="pt")
    with pytest.raises(ValueError, match="padding='left'"):
        tokenizer.pad(rows, padding="left")


@pytest.mark.parametrize("multiple", [None, 8])
def test_collators_of_transformers(tokenizer, multiple):
    before = pickle.dumps(tokenizer)
    rows = [tokenizer(sample) for sample in SAMPLES]
    wanted = tokenizer(SAMPLES, return_tensors="pt", pad_to_multiple_of=multiple)
    labelled = [{**row, "label": index} for index, row in enumerate(rows)]
    batch = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=multiple)(labelled)
    assert batch.pop("labels").tolist() == [0, 1, 2]
    assert set(batch) == set(wanted) and all(torch.equal(batch[key], wanted[key]) for key in wanted)

    causal = DataCollatorForLanguageModeling(tokenizer, mlm=False, pad_to_multiple_of=multiple)(rows)
    labels = causal.pop("labels")
    assert torch.equal(labels, wanted["input_ids"].masked_fill(wanted["attention_mask"] == 0, -100))
    assert all(torch.equal(causal[key], wanted[key]) for key in wanted)

    masked = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.9, seed=1, pad_to_multiple_of=multiple)(rows)
    hidden = masked["labels"] != -100
    assert tokenizer.mask_token == "<mask>" and (masked["input_ids"] == tokenizer.mask_token_id).any()
    assert torch.equal(torch.where(hidden, masked["labels"], masked["input_ids"]), wanted["input_ids"])
    structure = torch.isin(wanted["input_ids"], torch.tensor([tokenizer.bos_token_id, tokenizer.root_token_id]))
    assert hidden.any() and not hidden[structure].any()

    answers = [{**row, "labels": row["input_ids"][:4]} for row in rows]
    batch = DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=multiple)(answers)
    assert torch.equal(batch["input_ids"], wanted["input_ids"]) and batch["labels"].shape[0] == 3
    assert pickle.dumps(tokenizer) == before


# -------------------------------------------------------------------------------------------------------------- decode


def test_decode(tokenizer):
    ids, table = tokenizer.encode_segment("a<<b<ans>鲲</s>")
    assert tokenizer.decode(ids, ext_table=table) == "a<<b<ans>鲲</s>"
    assert tokenizer.decode(ids, skip_special_tokens=True, ext_table=table) == "a<b鲲"
    assert tokenizer.decode(ids) == "a<<b<ans><unk></s>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a<b"
    assert tokenizer.decode([-100, *ids[:1], -1]) == "a"
    assert tokenizer.decode([]) == ""
    unk = tokenizer.unk_token_id
    assert tokenizer.decode([unk], ext_table={unk: "鹏"}, skip_special_tokens=True) == "鹏"
    for form in (torch.tensor(ids), torch.tensor(ids).numpy(), tuple(ids), list(torch.tensor(ids))):
        assert tokenizer.decode(form, ext_table=table) == "a<<b<ans>鲲</s>"
    assert tokenizer.decode(ids[0]) == tokenizer.decode(torch.tensor(ids[0])) == "a"
    for end in range(len(ids)):
        assert "a<<b<ans>鲲</s>".startswith(tokenizer.decode(ids[:end], ext_table=table))


def test_batch_decode(tokenizer):
    rows, size = torch.tensor([[55, 410], [56, 410]]), tokenizer.vocab_size
    tables = [{size: "鲲"}, {size: "鹏"}]
    assert tokenizer.batch_decode(rows, ext_tables=tables) == ["a鲲", "b鹏"]
    assert tokenizer.decode(rows) == tokenizer.batch_decode(rows.tolist()) == ["a<unk>", "b<unk>"]
    assert tokenizer.batch_decode(rows, skip_special_tokens=True) == ["a", "b"]
    assert tokenizer.decode(rows, ext_table=tables[0]) == ["a鲲", "b鲲"]
    assert tokenizer.batch_decode(rows[0]) == tokenizer.batch_decode(rows[0].tolist()) == ["a<unk>"]
    assert tokenizer.batch_decode([]) == [] and tokenizer.decode([[]]) == [""]
    assert tokenizer.batch_decode([rows[0], rows[1].tolist()], clean_up_tokenization_spaces=True) == [
        "a<unk>",
        "b<unk>",
    ]
    with pytest.raises(ValueError, match="Got 2 rows of ids and 1 ext_tables"):
        tokenizer.batch_decode(rows, ext_tables=tables[:1])


def test_decodes_with_the_tables_that_ids_bring_along(tokenizer):
    size = tokenizer.vocab_size
    rows = with_words(torch.tensor([[55, size], [56, size]]), [{size: "鲲"}, {size: "鹏"}])
    assert tokenizer.batch_decode(rows) == tokenizer.decode(rows) == ["a鲲", "b鹏"]
    assert tokenizer.decode(rows[1]) == "b鹏" and tokenizer.decode(rows[1], ext_table={}) == "b<unk>"
    assert tokenizer.batch_decode(rows, ext_tables=[{}, {size: "龙"}]) == ["a<unk>", "b龙"]


@pytest.mark.parametrize(
    "ids", [None, "你好", 1.5, [1.5], ["a"], [None], {"input_ids": [1]}, np.ones(2), torch.ones(2)]
)
def test_what_is_not_ids_is_one_sentence(tokenizer, ids):
    for decode in (tokenizer.decode, tokenizer.batch_decode):
        with pytest.raises(ValueError, match="to decode, expected") as error:
            decode(ids)
        assert "\n" not in str(error.value)


def test_options_of_decode_are_honoured_or_refused_by_name(tokenizer):
    assert tokenizer.decode([55], spaces_between_special_tokens=False, clean_up_tokenization_spaces=True) == "a"
    for decode in (tokenizer.decode, tokenizer.batch_decode):
        for options in ({"spaces_between_special_tokens": True}, {"nonsense": 1}):
            with pytest.raises(ValueError, match=next(iter(options))):
                decode([[55]], **options)
    with pytest.raises(ValueError, match="add_special_tokens"):
        tokenizer.tokenize("a", add_special_tokens=True)
    with pytest.raises(ValueError, match="pair"):
        tokenizer.tokenize("a", pair="b")
    with pytest.raises(ValueError, match="Got int to tokenize"):
        tokenizer.tokenize(3)


# ------------------------------------------------------------------------------------------------------- vocabularies


class Reference:
    """The original's reading, splitting and matching, character by character."""

    def __init__(self, path):
        self.encoder = {}
        with open(path, encoding="utf-8") as file:
            for line in file:
                entry = line.removesuffix("\n")
                if entry:
                    self.encoder[entry] = len(self.encoder)
        for entry, character in (("</n>", "\n"), ("</_>", " ")):
            if entry in self.encoder:
                self.encoder[character] = self.encoder.pop(entry)
        self.longest = max(map(len, self.encoder))

    def encode(self, text):
        parts, pending, inside = [""], False, False
        for character in text:
            if inside:
                if character == "<":
                    raise ValueError
                parts[-1] += character
                if character == ">":
                    inside = False
                    parts.append("")
            elif character == "<":
                parts[-1] += character * pending
                pending = not pending
            elif pending:
                pending, inside = False, True
                parts.append("<" + character)
            else:
                parts[-1] += character
        if pending or inside:
            raise ValueError
        numbers = {}

        def number(string):
            return numbers.setdefault(string, len(self.encoder) + len(numbers))

        ids = []
        for i, part in enumerate(parts):
            if i % 2:
                ids.append(self.encoder[part] if part in self.encoder else number(part))
                continue
            start, unknown = 0, ""
            while start < len(part):
                candidates = (part[start : start + n] for n in range(self.longest, 0, -1))
                piece = next((c for c in candidates if c in self.encoder and not (c[0] == "<" and c[-1] == ">")), None)
                if piece is None:
                    unknown += part[start]
                    start += 1
                    continue
                if unknown:
                    ids.append(number(unknown))
                    unknown = ""
                ids.append(self.encoder[piece])
                start += len(piece)
            if unknown:
                ids.append(number(unknown))
        return ids, {index: string for string, index in numbers.items()}


PLAIN = ["a", "b", "ab", "abc", "红", "红色", "红色汽", "<", "<=", ">", "_", "1", " the", "the ", "  ", "=>"]
ODD = ["\u2028", "x\u2028y", "\x85", "\0", "a\0b", "😀", "👩\u200d👧", "\ufeff", "<ab", "b>", "<<", "> <", "\t", "é"]
VOCABULARIES = {
    "specials elsewhere": "\n".join([*PLAIN, *reversed(SPECIALS)]),
    "no <, <pad>, newline, space": "\n".join(["a", "ab", "<unk>", *SPECIALS[4:]]),
    "odd entries": "\n".join([*SPECIALS, *PLAIN, *ODD, "<a b>", "<x_y>", "<>", "<_>"]) + "\n\n\n",
    "repeated and empty lines": "\n".join(["ab", "", *SPECIALS, "", "a", "ab", "<unk>", "红", "a", "b", "红色"]),
    "lines end in \\r\\n": "\r\n".join([*SPECIALS, *PLAIN]) + "\r\n",
}


@pytest.mark.parametrize("name", VOCABULARIES)
def test_odd_vocabularies(make, tmp_path, name):
    tokenizer = make(None, text=VOCABULARIES[name])
    reference = Reference(tmp_path / "entries.txt")
    assert tokenizer.get_vocab() == reference.encoder
    assert tokenizer.vocab_size == len(tokenizer) == len(reference.encoder)
    assert tokenizer.pad_token_id == 0

    rng = random.Random(0)
    pieces = [*PLAIN, *ODD, *SPECIALS, *"\r\n Z\ud800\udfff\U0010ffff", "<<", "<a_1>", "<x_y>", "<>"]
    failures = 0
    for _ in range(1500):
        text = "".join(rng.choices(pieces, k=rng.randint(0, 12)))
        if rng.random() < 0.5:
            text = text.replace("<", "<<")
        try:
            expected = reference.encode(text)
        except ValueError:
            failures += 1
            with pytest.raises(ValueError):
                tokenizer.encode_segment(text)
        else:
            assert tokenizer.encode_segment(text) == expected, repr(text)
    assert 0 < failures < 750

    (saved,) = tokenizer.save_vocabulary(str(tmp_path))
    assert Path(saved).read_bytes() == (tmp_path / "entries.txt").read_bytes()


def test_unusual_text(tokenizer):
    long = "中国人民在北京 the cat <<ab鲲" * 5000
    ids, table = tokenizer.encode_segment(long)
    assert tokenizer.decode(ids, ext_table=table) == long
    for text in ("\ud800", "a\udfffb\ud83d\ude00", "\0\0", "👩\u200d👩\u200d👧", "\r\n\u2028", "\U0010ffff"):
        encoding = tokenizer.encode_data({"question": text, "<ans>": ""})
        start = encoding["segment_ids"].index(2) + 1
        ids = encoding["input_ids"][start : encoding["segment_ids"].index(3) - 1]
        assert tokenizer.decode(ids, ext_table=encoding["ext_table"]) == text


def test_padding_is_zero_whatever_stands_there(make):
    plain = make(["你", "你好", *(entry for entry in SPECIALS if entry != "<pad>")])
    assert (plain.pad_token_id, plain.pad_token) == (0, None)
    assert plain.tokenize("你好你<unk>") == ["你好", "你", "<unk>"]
    assert plain.decode([0], skip_special_tokens=True) == "你"
    shifted = make(["<s>", "a", "<pad>", *(entry for entry in SPECIALS if entry not in ("<s>", "<pad>"))])
    assert (shifted.pad_token_id, shifted.pad_token) == (0, "<s>")
    assert plain(SAMPLES, return_tensors="pt")["input_ids"][2, 0] == 0


@pytest.mark.parametrize("missing", ["<s>", "</s>", "<unk>", "<root>", "<ans>"])
def test_missing_special_token_is_one_sentence(make, missing):
    with pytest.raises(ValueError, match=f"has no {missing}; give CPM-Bee's"):
        make([entry for entry in SPECIALS if entry != missing])


def test_two_entries_for_a_blank(make):
    with pytest.raises(ValueError, match="has '</_>' and ' ', two entries for one character"):
        make([*SPECIALS, " ", "a"])


def test_vocabulary_that_never_ends(tmp_path):
    os.mkfifo(tmp_path / "vocab.txt")
    with pytest.raises(ValueError, match="is not a file"):
        CpmBeeTokenizer(tmp_path / "vocab.txt")


def test_vocabulary_that_is_no_text(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(ValueError, match="is not a UTF-8 text file"):
        CpmBeeTokenizer(tmp_path / "vocab.txt")
    with pytest.raises(ValueError, match="got no vocabulary"):
        CpmBeeTokenizer(None)


# ------------------------------------------------------------------------------------------------- transformers' side


def assert_same(first, second):
    assert first.get_vocab() == second.get_vocab()
    assert first.special_tokens_map == second.special_tokens_map
    for name in ("vocab_size", "pad_token_id", "bos_token_id", "ans_token_id"):
        assert getattr(first, name) == getattr(second, name)
    assert len(first) == len(second)
    ours, theirs = first(SAMPLES, return_tensors="pt"), second(SAMPLES, return_tensors="pt")
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert ours.ext_tables == theirs.ext_tables


def test_copies(tokenizer):
    assert_same(tokenizer, pickle.loads(pickle.dumps(tokenizer)))
    assert_same(tokenizer, copy.deepcopy(tokenizer))


def test_calls_change_nothing(tokenizer):
    """`datasets` remembers results by the pickle of the tokenizer's attributes."""
    before, attributes = pickle.dumps(tokenizer), pickle.dumps(tokenizer.__dict__)
    batch = tokenizer(SAMPLES, return_tensors="pt", pad_to_multiple_of=8, return_special_tokens_mask=True)
    tokenizer(SAMPLES[1], truncation=True, max_length=30, padding="max_length")
    tokenizer.pad([tokenizer(sample) for sample in SAMPLES])
    tokenizer.batch_decode(batch["input_ids"])
    tokenizer.tokenize("鲲 the cat")
    tokenizer.encode_segment("鲲")
    len(tokenizer), repr(tokenizer), tokenizer.all_special_ids
    assert pickle.dumps(tokenizer) == before and pickle.dumps(tokenizer.__dict__) == attributes


def test_threads_answer_as_one(tokenizer):
    texts = [f"鲲{number}在 the cat 凤{number}你好" * (number % 5 + 1) for number in range(64)]
    alone = [dict(tokenizer(text)) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: dict(tokenizer(text)), texts * 4)) == alone * 4


def test_save_and_load_with_the_class(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "vocab.txt").read_bytes() == (GOLDEN / "vocab.txt").read_bytes()
    loaded = CpmBeeTokenizer.from_pretrained(tmp_path)
    assert_same(tokenizer, loaded)
    (tmp_path / "again").mkdir()
    loaded.save_pretrained(tmp_path / "again")
    assert_same(tokenizer, CpmBeeTokenizer.from_pretrained(tmp_path / "again"))


def test_saved_code_works_without_the_package(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    script = (
        "import sys, json; from transformers import AutoTokenizer\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "assert not any(name.startswith('viscpm_hf') for name in sys.modules)\n"
        "batch = tokenizer(json.loads(sys.argv[2]), return_tensors='pt')\n"
        "print(json.dumps([{key: value.tolist() for key, value in batch.items()}, str(batch.ext_tables)]))"
    )
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    arguments = [sys.executable, "-c", script, str(tmp_path), json.dumps(SAMPLES)]
    run = subprocess.run(arguments, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    here = tokenizer(SAMPLES, return_tensors="pt")
    assert json.loads(run.stdout) == [{key: value.tolist() for key, value in here.items()}, str(here.ext_tables)]


def test_plain_methods_of_transformers(tokenizer):
    assert tokenizer.tokenize("你好<unk> the cat鲲鹏<b") == ["你好", "<unk>", " the", " cat", "鲲鹏", "<", "b"]
    assert tokenizer.encode("你好<unk>鲲", add_special_tokens=False) == [388, 1, 1]
    assert tokenizer.convert_ids_to_tokens([388, 1, 410]) == ["你好", "<unk>", "<unk>"]
    assert tokenizer.convert_tokens_to_string(["你好", " the"]) == "你好 the"


def test_tokens_can_only_be_added_from_the_vocabulary(make):
    tokenizer = make([*SPECIALS, "a"])
    assert tokenizer.add_tokens(["a"]) == 0
    with pytest.raises(ValueError, match="cannot add 'new', as ids from 9 on"):
        tokenizer.add_tokens("new")
    with pytest.raises(ValueError, match="cannot add '<new>'"):
        tokenizer.add_special_tokens({"extra_special_tokens": ["<new>"]})
    assert len(tokenizer) == 9


WRONG_SPECIALS = {
    "bos_token": "a",
    "eos_token": "<eos>",
    "unk_token": "<pad>",
    "pad_token": "</s>",
    "ans_token": "<root>",
    "sep_token": "[SEP]",
    "image_token": "<image>",
    "extra_special_tokens": ["<new>"],
    "additional_special_tokens": [AddedToken("<new>", special=True)],
    "model_specific_special_tokens": {"image_token": "<image>"},
    "added_tokens_decoder": {900: AddedToken("<new>", special=True)},
}


@pytest.mark.parametrize("name", WRONG_SPECIALS)
def test_the_vocabulary_decides_what_is_special(tokenizer, tmp_path, name):
    """An id behind the vocabulary would be an extension column."""
    given = {name: WRONG_SPECIALS[name]}
    with pytest.raises(ValueError, match="CPM-Bee's is|cannot add"):
        CpmBeeTokenizer(GOLDEN / "vocab.txt", **given)
    if name.endswith("_token") or name == "extra_special_tokens":  # from_pretrained() overwrites the others
        tokenizer.save_pretrained(tmp_path)
        before = pickle.dumps(tokenizer)
        for change in (
            lambda: CpmBeeTokenizer.from_pretrained(tmp_path, **given),
            lambda: setattr(tokenizer, name, given[name]),
            lambda: tokenizer.add_special_tokens(given),
        ):
            with pytest.raises(ValueError, match="CPM-Bee's is|cannot add"):
                change()
        assert pickle.dumps(tokenizer) == before


def test_special_tokens_of_the_vocabulary_can_be_named(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    assert tokenizer.add_special_tokens({"sep_token": "<sep>", "pad_token": "<pad>"}) == 0
    assert tokenizer.sep_token_id == tokenizer.get_vocab()["<sep>"] and tokenizer.pad_token_id == 0
    tokenizer.eos_token, tokenizer.pad_token_id = "</s>", 0
    for name, value in {"eos_token": None, "pad_token_id": 5, "eos_token_id": 0}.items():
        with pytest.raises(ValueError, match="leave it as it is"):
            setattr(tokenizer, name, value)
    assert CpmBeeTokenizer(GOLDEN / "vocab.txt", sep_token="<sep>", pad_token=None).sep_token == "<sep>"


def test_stop_strings_of_transformers(tokenizer):
    stop = StopStringCriteria(tokenizer, ["你好", "e cat", "<"])
    for text, stops in {
        "a 你好": True,
        "a 你": False,
        "the cat": True,
        "cat": False,
        "a<<": True,
        "鲲 cat鹏凤": False,
    }.items():
        ids = tokenizer.encode("鲲凤" + text, add_special_tokens=False)  # with ids behind the vocabulary
        assert stop(torch.tensor([ids]), None).tolist() == [stops], text


TEMPLATE = "{% for message in messages %}{{ message['role'] + ' ' + message['content'] }}<sep>{% endfor %}"


def test_chat_template(tokenizer):
    messages = [{"role": "user", "content": "a<b <ans></s>"}]
    loaded = copy.deepcopy(tokenizer)
    loaded.chat_template = CHAT_TEMPLATE  # from_pretrained() finds it in a repository of VisCPM-Chat
    for unable in (tokenizer, loaded):
        with pytest.raises(ValueError, match="no chat template.*as CPM-Bee reads dicts.*VisCPM-Chat's processor"):
            unable.apply_chat_template(messages)
    assert loaded.apply_chat_template(messages, tokenize=False).startswith("User: a<b <ans></s>")
    shown = tokenizer.apply_chat_template(messages, chat_template=TEMPLATE, tokenize=False)
    assert shown == "user a<b <ans></s><sep>"
    for conversations in (messages, [messages, messages]):
        batch = tokenizer.apply_chat_template(conversations, chat_template=TEMPLATE, return_dict=True)
        ids = batch["input_ids"] if conversations is messages else batch["input_ids"][1]
        # what somebody wrote is text
        assert ids == tokenizer.encode("user a<<b <<ans><</s><sep>", add_special_tokens=False)
        assert tokenizer.eos_token_id not in ids
