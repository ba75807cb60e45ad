"""Guards the tiny vocabulary: made by its builder, in the original's format, with every word of the world."""

import pytest

from viscpm_hf.remote_code.tokenization_cpmbee import CpmBeeTokenizer
from viscpm_hf.tiny import VOCABULARY
from viscpm_hf.tiny.world.questions import training_sample
from viscpm_hf.tiny.world.things import KNOWN
from viscpm_hf.tiny.world.vocabulary import SPECIALS, build_vocabulary


@pytest.fixture(scope="module")
def tokenizer():
    return CpmBeeTokenizer(str(VOCABULARY))


def pieces(tokenizer, text):
    return [tokenizer.decode([token]) for token in tokenizer.encode_segment(text)[0]]


def test_the_file_is_what_the_builder_makes():
    """vocab.txt is up to date."""
    assert VOCABULARY.read_bytes().decode() == "".join(f"{piece}\n" for piece in build_vocabulary())


def test_format():
    """Specials first, no piece twice, `<eod>` where the original has it: after the Latin ones."""
    vocabulary = build_vocabulary()
    assert vocabulary[:11] == SPECIALS
    assert len(set(vocabulary)) == len(vocabulary) < 2000
    assert vocabulary.index("<eod>") > 100


def test_words_of_the_world_are_single_pieces(tokenizer):
    """Names of things, colours and places."""
    text = "User: What colour is the orange circle?\nAI: It is in the top left.\n"
    assert pieces(tokenizer, text) == [
        *("User", ":", " What", " colour", " is", " the", " orange", " circle", "?", "\n"),
        *("AI", ":", " It", " is", " in", " the", " top", " left", ".", "\n"),
    ]
    assert pieces(tokenizer, "左上角有一个红色的圆形。") == ["左上角", "有", "一个", "红色", "的", "圆形", "。"]
    for thing in KNOWN:
        assert len(pieces(tokenizer, f" {thing.plural}")) == len(thing.plural.split())
        assert len(pieces(tokenizer, thing.chinese)) <= (3 if thing.shape else 1)


def test_the_world_has_no_unknown_words(tokenizer):
    """Whatever is asked about a scene, and every answer, is spelled with known words."""
    for index in range(2_000):
        question = training_sample(3, index).question
        if question.kind == "outside" or "Sorry" in question.context or "对不起" in question.context:
            continue
        text = question.context + question.question + question.answer
        ids, unknown = tokenizer.encode_segment(text)
        assert not unknown and tokenizer.decode(ids) == text


def test_other_text_is_letters_and_unknown_runs(tokenizer):
    """So that the model sees that something else is spoken of."""
    assert pieces(tokenizer, "gnu <<") == ["g", "n", "u", " ", "<<"]
    ids, table = tokenizer.encode_segment("鲲鹏在哪里")
    assert list(table.values()) == ["鲲鹏"] and len(ids) == 3
