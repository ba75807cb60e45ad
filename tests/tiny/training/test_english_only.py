"""Guards the experiment on English pairs: what is learned from, that arms do not meet, that it resumes and reports."""

import copy
import json

import pytest
import torch
from PIL import Image
from torch import nn

from viscpm_hf.tiny.training import english_only
from viscpm_hf.tiny.training.batches import assembled, tiny_processor
from viscpm_hf.tiny.training.english_only import format_results, in_words, language_of, main, measured, summary
from viscpm_hf.tiny.training.pairs import (
    ARMS,
    COUNTS,
    DESCRIBED,
    ENGLISH,
    GROUP,
    KINDS_ASKED,
    ArmsLearner,
    LanguageLearner,
    Pairs,
    TowerLearner,
    prepare_pairs,
)
from viscpm_hf.tiny.training.train_chat import ChatLearner, tiny_config
from viscpm_hf.tiny.world.questions import LANGUAGES, held_out_questions


@pytest.fixture(scope="module")
def chat():
    torch.manual_seed(0)
    return ChatLearner(tiny_config()).eval()


@pytest.fixture(scope="module")
def pairs():
    return Pairs(**prepare_pairs(20, workers=1))


def text(ids):
    return "".join(tiny_processor().tokenizer.convert_ids_to_tokens([each for each in ids if each]))


def test_pairs_ask_the_same_in_both_languages(pairs):
    """Descriptions, questions and answers are in their language; a scene has one or two things; other seeds differ."""
    assert {int((row[0:18:6] >= 0).sum()) for row in pairs.scenes} <= set(COUNTS)
    room = DESCRIBED.question
    for index, language in enumerate(LANGUAGES):
        for row in pairs.descriptions[:, index].tolist():
            assert language_of(text(row)) == language
        for row in pairs.questions[:, index].flatten(0, 1).tolist():
            assert language_of(text(row[:room])) == language == language_of(text(row[room:]))
    assert torch.equal(prepare_pairs(20, workers=1)["questions"], pairs.questions)
    assert not torch.equal(prepare_pairs(20, seed=1, workers=1)["questions"], pairs.questions)


def test_the_language_model_learns_all_pairings_and_no_picture(chat, pairs):
    """Rows mix the languages of description and question, and get the released model's logits for that prompt."""
    torch.manual_seed(0)
    rows = pairs.described(60)
    languages = [(language_of(text(row[:24])), language_of(text(row[24:40]))) for row in rows.tolist()]
    assert set(languages) == {(one, other) for one in LANGUAGES for other in LANGUAGES}
    learner, seen = LanguageLearner(chat, pairs, 2), {}
    read = chat.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat, "read", lambda *args, **inputs: seen.update(inputs) or read(*args, **inputs))
        loss = learner()
    assert torch.isfinite(loss)
    logits, _ = chat.read(DESCRIBED, None, **seen)
    model = chat.chat()
    for row, real, found in zip(seen["input_ids"], seen["real"], logits, strict=True):
        ids = row[real].tolist()
        processor = tiny_processor()
        size = processor.tokenizer.vocab_size
        prompt = processor.pad([processor.encode_chat(False, "?")])
        relations = prompt["segment_rel"][0]
        starts = torch.tensor([each == processor.tokenizer.bos_token_id for each in ids])
        segments = (starts.long().cumsum(0) - 1)[None]
        expected = model(
            input_ids=torch.tensor([ids]),
            segment_ids=segments,
            context_mask=(segments != segments.max()).long(),
            segment_rel=relations[None],
        ).logits[0, segments[0] == segments.max()]
        torch.testing.assert_close(found[: len(expected), :size], expected, atol=2e-5, rtol=1e-4)


def test_the_tower_learns_without_words(chat, pairs):
    """Its loss gives gradients to the tower and its heads, and to nothing of the language model."""
    learner = TowerLearner(copy.deepcopy(chat), pairs, 2)
    learner().backward()
    assert all(each.grad is not None for each in learner.heads.parameters())
    assert learner._chat[0].model.language_model.embed_tokens.weight.grad is None


def test_arms_see_the_same_and_learn_each_by_itself(pairs):
    """What the others are changes no gradient of one, the language model gets none, the first arm reads no Chinese."""
    torch.manual_seed(0)
    chat = ChatLearner(tiny_config())
    made = nn.ModuleList([chat.model.vision_tower, chat.model.connector])
    sides = nn.ModuleList(copy.deepcopy(made) for _ in ARMS)
    learner, rows = ArmsLearner(chat, sides, pairs, 2), []

    def gradients():
        torch.manual_seed(1)
        learner.zero_grad()
        learner().backward()
        return [each.grad.clone() for each in sides[0][1].parameters()]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "viscpm_hf.tiny.training.pairs.assembled", lambda *args: rows.append(args[0]) or assembled(*args)
        )
        before = gradients()
    by_arm = dict(zip(ARMS, rows[0].chunk(len(ARMS)), strict=True))
    assert {language_of(text(row)) for row in by_arm.pop(ENGLISH).tolist()} == {"en"}
    bilingual, blind = by_arm.values()
    assert torch.equal(bilingual, blind) and len(bilingual) == 2 * GROUP
    assert {language_of(text(row)) for row in bilingual.tolist()} == set(LANGUAGES)
    for side in sides[1:]:
        nn.init.normal_(side[1].linear_2.weight)
    for one, other in zip(before, gradients(), strict=True):
        torch.testing.assert_close(one, other)
    assert all(each.grad is None for each in chat.model.language_model.parameters())


def test_it_measures_answers_by_language_and_kind(chat):
    """Exact answers and their language are counted against the questions, with pictures and with words alone."""
    samples = {each: held_out_questions(each, len(KINDS_ASKED), 0, KINDS_ASKED, COUNTS) for each in LANGUAGES}
    assert all(len(sample.scene.things) in COUNTS and sample.scene.held_out for sample in samples["zh"])
    told = in_words(samples, "zh")["en"][0]
    assert told.picture is None and language_of(told.question.context) == "zh"
    right = iter([*(each.question.answer for each in samples["zh"]), *["图里有一只猫。"] * len(KINDS_ASKED)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            english_only, "answer_questions", lambda model, processor, asked, *_, **__: [next(right) for _ in asked]
        )
        found = measured(chat, samples)
    assert found["zh"]["exact"] == found["zh"]["in its language"] == 1 and not found["zh"]["wrong"]
    assert found["en"]["exact"] == found["en"]["in its language"] == 0
    assert set(found["zh"]["kinds"]) == set(KINDS_ASKED)
    assert [language_of(each) for each in ("Yes.", "有。", "12", "a 猫")] == ["en", "zh", None, None]


def test_means_and_deviations():
    """The summary is the mean and the sample's deviation over seeds, and the table says so in percent."""
    answers = [
        {"row": {each: {"exact": share, "in its language": 1.0} for each in LANGUAGES}} for share in (0.2, 0.4, 0.6)
    ]
    results = [{"answers": each, "pairs": 80} for each in answers]
    made = summary(results)
    assert made["row"]["zh"]["exact"]["mean"] == pytest.approx(0.4)
    assert made["row"]["zh"]["exact"]["sd"] == pytest.approx(0.2)
    table = format_results({"summary": made, "seeds": results, "questions": 5})
    assert "| row | 40.0 ± 20.0 % | 40.0 ± 20.0 % | 100.0 ± 0.0 % |" in table


def test_it_runs_goes_on_and_draws(tmp_path, monkeypatch, capsys):
    """A run of one seed becomes one of two without training the first again; then it only prints and draws."""
    monkeypatch.setitem(english_only._BATCH, "cpu", {"rows": 2, "seen": 2, "pictures": 1})
    config = tiny_config()
    for each in (config.text_config, config.vision_config):
        each.num_hidden_layers, each.hidden_size, each.num_attention_heads = 2, 32, 1
    monkeypatch.setattr(english_only, "tiny_config", lambda: config)
    command = f"--output {tmp_path} --device cpu --minutes 0.001 --scenes 4 --workers 1 --questions 2"
    assert main([*command.split(), "--seeds", "1"]) == 0
    first = (tmp_path / "results-0.json").stat().st_mtime_ns, (tmp_path / "states" / "arms-0.pt").stat().st_mtime_ns
    assert main([*command.split(), "--seeds", "2"]) == 0
    assert first[0] == (tmp_path / "results-0.json").stat().st_mtime_ns
    assert first[1] == (tmp_path / "states" / "arms-0.pt").stat().st_mtime_ns
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert len(results["seeds"]) == 2 and set(ARMS) < set(results["summary"])
    assert all(each["pairs"] == each["steps"] * GROUP for each in results["seeds"])
    one, other = (torch.load(tmp_path / "states" / f"language-{seed}.pt")["learner"] for seed in (0, 1))
    assert not torch.equal(one["language_model.embed_tokens.weight"], other["language_model.embed_tokens.weight"])
    monkeypatch.setattr(english_only, "train_for", None)
    printed = capsys.readouterr().out
    assert main([*command.split(), "--seeds", "2", "--plot", str(tmp_path / "drawn.png")]) == 0
    assert capsys.readouterr().out in printed
    with Image.open(tmp_path / "drawn.png") as drawn:
        assert len(drawn.convert("RGB").getcolors(100_000)) > 5
