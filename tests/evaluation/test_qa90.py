"""Guards QA90's files, the published prompt and scores, and the confidence intervals."""

import json
import math

import numpy as np
import pytest

from viscpm_hf.evaluation.captions import language_of
from viscpm_hf.evaluation.judge import estimate, parse_scores
from viscpm_hf.evaluation.questions import (
    find_pictures,
    judging_prompt,
    read_material,
    read_questions,
)
from viscpm_hf.evaluation.scores import relative_scores

PUBLISHED = """[Context]
caption of 000000000000.png
另一句

圆形: [0.1, 0.25, 0.5, 0.75]

[Question]
图里有什么？

[Assistant 1]
reference 0

[End of Assistant 1]

[Assistant 2]
一个圆形。

[End of Assistant 2]

[System]
请首先输出只有两个值的一行。

"""


def test_the_judge_is_asked_as_published(small_qa90):
    questions = read_questions(small_qa90.questions)
    material = read_material(questions, small_qa90.references, small_qa90.captions, small_qa90.rules)
    assert judging_prompt(questions[0], "一个圆形。", material) == PUBLISHED
    texts = [question.text for question in questions]
    assert language_of(texts) == "zh" and language_of(texts[2:3]) == "en"
    found = find_pictures(questions, small_qa90.images)
    assert [path.name for path in found.values()][:2] == ["COCO_val2014_000000000000.png", "000000000001.png"]


@pytest.mark.parametrize(
    ("review", "scores"),
    [
        ("8 7\nBoth are good.", (8, 7)),
        ("\n9.5, 10  \n…", (9.5, 10)),
        ("8，7", (8, 7)),
        ("8 7 6\n", None),
        ("8\n7", None),
        ("Assistant 1: 8 Assistant 2: 7", None),
        ("0 7", None),
        ("8 11", None),
        ("nan 5", None),
        ("-1 -1", None),
        ("1e999 5", None),
        ("", None),
    ],
)
def test_two_scores_from_1_to_10_in_the_first_line_are_a_verdict(review, scores):
    assert parse_scores(review) == scores


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda s: s.write("questions.jsonl", []), "holds no question"),
        (lambda s: s.write("questions.jsonl", [s.rows[0]] * 2), "question_id twice"),
        (lambda s: s.write("questions.jsonl", [{**s.rows[0], "text": ""}]), "text=''"),
        (lambda s: s.write("questions.jsonl", [{**s.rows[0], "image": "../../secret.png"}]), "inside the folder"),
        (lambda s: s.questions.write_text('{"question_id": 1}\nnonsense\n'), "line 2, is not valid JSON"),
        (lambda s: s.write("references.jsonl", [{"question_id": 0, "text": "one"}]), "lacks the answer to question 1"),
        (lambda s: s.write("captions.jsonl", [{"image": "x.png"}]), "lacks the picture 000000000000.png"),
        (lambda s: s.rules.write_text('{"conv": {"role": "A", "prompt": "p"}}'), "lacks the category detail, complex"),
        (lambda s: s.rules.write_text('{"conv": 1, "detail": 1, "complex": 1}'), "role=None"),
        (lambda s: (s.images / "000000000001.png").unlink(), "lacks 1 of 4 pictures (000000000001.png)"),
        (lambda s: (s.images / "000000000001.png").write_bytes(b"no"), "is not a picture"),
    ],
)
def test_files_that_do_not_fit_are_one_sentence(small_qa90, break_it, said):
    break_it(small_qa90)
    with pytest.raises(ValueError) as error:
        questions = read_questions(small_qa90.questions)
        find_pictures(questions, small_qa90.images)
        read_material(questions, small_qa90.references, small_qa90.captions, small_qa90.rules)
    assert said in str(error.value) and "\n" not in str(error.value)


def some_verdicts(questions, seed=0):
    rng = np.random.default_rng(seed)
    return {q.question_id: (float(rng.integers(5, 11)), float(rng.integers(1, 11))) for q in questions}


def test_scores_and_intervals_are_those_of_a_direct_computation(small_qa90):
    """The bootstrap is done once more, a picture at a time and without arrays."""
    questions = read_questions(small_qa90.questions)
    verdicts = some_verdicts(questions)
    resamples = 300
    found = relative_scores(questions, verdicts, resamples, seed=5)
    assert list(found) == ["conversation", "detail", "reasoning", "average"]
    for name, category in zip(found, ("conv", "detail", "complex", None), strict=True):
        group = [q for q in questions if category in (q.category, None)]
        pairs = [verdicts[q.question_id] for q in group]
        assert math.isclose(found[name].value, 100 * sum(b for _, b in pairs) / sum(a for a, _ in pairs))
        assert found[name].count == len(group)
        pictures = list(dict.fromkeys(q.image for q in group))
        rng, values = np.random.default_rng(5), []
        for row in rng.integers(len(pictures), size=(resamples, len(pictures))):
            drawn = [verdicts[q.question_id] for number in row for q in group if q.image == pictures[number]]
            values.append(100 * sum(b for _, b in drawn) / sum(a for a, _ in drawn))
        values.sort()
        for edge, share in ((found[name].low, 0.025), (found[name].high, 0.975)):
            place = share * (resamples - 1)
            below, above = values[math.floor(place)], values[math.ceil(place)]
            assert math.isclose(edge, below + (place % 1) * (above - below), rel_tol=1e-9)


def test_intervals_have_the_width_that_theory_gives(tmp_path):
    """Of many questions: 1.96 standard errors of a ratio of means on both sides."""
    rows = [{"question_id": i, "image": f"{i}.png", "text": "?", "category": "conv"} for i in range(400)]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions = read_questions(path)
    verdicts = some_verdicts(questions)
    score = relative_scores(questions, verdicts)["conversation"]
    reference, model = np.array(list(verdicts.values())).T
    ratio = model.mean() / reference.mean()
    error = 100 * np.std(model - ratio * reference, ddof=1) / reference.mean() / math.sqrt(len(rows))
    assert score.value == pytest.approx(100 * ratio)
    assert (score.high - score.low) / 2 == pytest.approx(1.96 * error, rel=0.05)
    assert relative_scores(questions, verdicts)["conversation"] == score


def test_questions_without_a_verdict_count_nowhere(small_qa90):
    questions = read_questions(small_qa90.questions)
    verdicts = some_verdicts(questions)
    without = {key: value for key, value in verdicts.items() if key != 0}
    found = relative_scores(questions, without)
    assert (found["conversation"].count, found["average"].count) == (3, 11)
    alone = relative_scores(questions, {0: (8.0, 4.0)})
    assert list(alone) == ["conversation", "average"]
    assert (alone["average"].value, alone["average"].low) == (50.0, None)


def test_an_estimate_counts_chinese_characters_one_by_one():
    needed = estimate({1: "一二三四" * 100, 2: "abcd" * 100}, (10.0, 30.0))
    assert needed.requests == 2 and 500 <= needed.prompt_tokens <= 560 and needed.most_completion_tokens == 2048
    assert needed.dollars == pytest.approx((10 * needed.prompt_tokens + 30 * 2048) / 1e6)
