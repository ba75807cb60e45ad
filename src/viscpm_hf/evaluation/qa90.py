"""LLaVA-QA90 from answers to the table: what is done already is kept in a folder."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..checkpoint.errors import CheckpointError
from ..checkpoint.files.json_file import quoted
from ..checkpoint.files.staging import replace_bytes
from ..language import say
from .answers import Answerer
from .captions import language_of
from .endpoint import Endpoint
from .judge import MAX_TOKENS, TEMPERATURE, Verdict, judge_all
from .questions import Material, Question, judging_prompt
from .runs import Journal, digest_of
from .scores import PUBLISHED, Score, relative_scores
from .tables import table

ANSWERS, VERDICTS, RESULTS = "answers.jsonl", "verdicts.jsonl", "results.json"
_CHINESE = {"conversation": "对话", "detail": "细节描述", "reasoning": "复杂推理", "average": "平均"}


@dataclass(frozen=True)
class Result:
    """What is known in the end.

    Args:
        model, judge (`str`): who answered, who judged.
        language (`str`): of the questions.
        scores (`dict[str, Score]`): by category.
        malformed (`list`): ids of questions the judge never gave two scores for; they are left out of the scores.
        failed (`dict`): question id → why the judge did not answer; left out, too, and asked again by the next run.
        prompt_tokens, completion_tokens (`int`): of the judge, as its server counts.
    """

    model: str
    judge: str
    language: str
    scores: dict[str, Score]
    malformed: list[Any]
    failed: dict[Any, str]
    prompt_tokens: int
    completion_tokens: int


def collect_answers(
    questions: Sequence[Question],
    pictures: Mapping[str, Path],
    folder: Path,
    settings: dict[str, Any],
    load: Callable[[], Answerer],
) -> dict[Any, str]:
    """The answers to all questions, those of an earlier run and the others anew.

    They are in `answers.jsonl` of the folder, in LLaVA's format and in the order of the questions.

    Args:
        questions: to ask.
        pictures: name → file.
        folder: claimed.
        settings: what the answers depend on beside the questions.
        load: makes who answers, if somebody must.

    Returns:
        `dict`: question id → answer.
    """
    settings = {"questions": digest_of([asdict(question) for question in questions]), **settings}
    with Journal(folder / ANSWERS, "question_id", settings, _is_answer) as journal:
        asked = [question for question in questions if question.question_id not in journal.rows]
        if asked:
            answerer = load()
            with _bar(questions, asked, say("answering", "回答")) as bar:

                def record(question, text, metadata):
                    row = {"question_id": question.question_id, "prompt": question.text, "text": text}
                    row |= {"category": question.category, "model_id": settings["model"], "metadata": metadata}
                    journal.add(row)
                    bar.update()

                answerer.answer(asked, pictures, record)
        rows = journal.sort(question.question_id for question in questions)
    return {row["question_id"]: row["text"] for row in rows}


def _is_answer(row):
    return isinstance(row.get("text"), str)


def _is_verdict(row):
    scores = row.get("tuple", "")
    two = isinstance(scores, list) and len(scores) == 2 and all(type(score) in (int, float) for score in scores)
    counts = all(type(row.get(name)) is int for name in ("prompt_tokens", "completion_tokens"))
    return (scores is None or two) and counts and isinstance(row.get("malformed"), list)


def collect_verdicts(
    questions: Sequence[Question],
    answers: Mapping[Any, str],
    material: Material,
    folder: Path,
    model: str,
    judge: str,
    endpoint: Endpoint,
    concurrency: int = 4,
    tries: int = 3,
    again: bool = False,
) -> Result:
    """Has answers judged, unless an earlier run did, and computes the scores.

    The verdicts are in `verdicts.jsonl` of the folder, `tuple` as in LLaVA's own files, and the scores in
    `results.json`.

    Args:
        questions, answers, material: see `judging_prompt`.
        folder: claimed.
        model: whose answers they are.
        judge: the judge's name at the endpoint.
        endpoint: where it is asked.
        concurrency: requests under way at a time.
        tries: how often it is asked when a reply does not begin with two scores.
        again: whether those that it never gave two scores for in an earlier run are asked about once more.

    Raises:
        EndpointError: the judge answers nobody; verdicts up to then are kept.
        CheckpointError: it gave no verdict at all.
    """
    prompts = {q.question_id: judging_prompt(q, answers[q.question_id], material) for q in questions}
    settings = {"judge": judge, "address": endpoint.base_url, "prompts": digest_of(list(prompts.values()))}
    settings |= {"temperature": TEMPERATURE, "max_tokens": MAX_TOKENS}
    category = {question.question_id: question.category for question in questions}
    with Journal(folder / VERDICTS, "question_id", settings, _is_verdict) as journal:
        done = {key for key, row in journal.rows.items() if not again or row["tuple"] is not None}
        asked = [question for question in questions if question.question_id not in done]
        failed = {}
        with _bar(questions, asked, say("judging", "评判")) as bar:

            def record(question_id, verdict: Verdict):
                row = {"question_id": question_id, "category": category[question_id], "tuple": verdict.scores}
                row |= {"content": verdict.review, "malformed": verdict.malformed}
                row |= {"prompt_tokens": verdict.prompt_tokens, "completion_tokens": verdict.completion_tokens}
                journal.add(row)
                bar.update()

            if asked:
                wanted = {question.question_id: prompts[question.question_id] for question in asked}
                failed = judge_all(endpoint, judge, wanted, record, concurrency, tries)
        rows = journal.sort(prompts)
    scored = {row["question_id"]: tuple(row["tuple"]) for row in rows if row["tuple"] is not None}
    if not scored:
        reply = next((text for row in rows for text in row["malformed"]), next(iter(failed.values()), ""))
        raise CheckpointError(f"{judge} gave two scores for none of {len(questions)} answers ({quoted(reply)}).")
    result = Result(
        model,
        judge,
        language_of([question.text for question in questions]),
        relative_scores(questions, scored),
        [row["question_id"] for row in rows if row["tuple"] is None],
        failed,
        sum(row["prompt_tokens"] for row in rows),
        sum(row["completion_tokens"] for row in rows),
    )
    replace_bytes(folder / RESULTS, (as_json(result) + "\n").encode())
    return result


def as_json(result: Result) -> str:
    """A result with all its numbers."""
    return json.dumps(asdict(result), ensure_ascii=False, indent=2)


def as_table(result: Result, markdown: bool = False) -> str:
    """The README's table: a result with its 95 % confidence intervals over the published figures."""
    columns = list(result.scores)
    header = [say("model", "模型"), say("judge", "评判"), say("language", "语言")]
    header += [say(name, _CHINESE.get(name, name)) for name in columns]
    rows = [[result.model, result.judge, result.language, *map(_cell, result.scores.values())]]
    for name, published in PUBLISHED.items():
        if columns == list(_CHINESE):
            label = say(f"{name}, published", f"{name}，原版 README")
            figures = [f"{value:.1f}" for value in published[result.language]]
            rows.append([label, "GPT-4, 2023", result.language, *figures])
    return table(header, rows, markdown)


def _cell(score):
    interval = "" if score.low is None else f" [{score.low:.1f}, {score.high:.1f}]"
    return f"{score.value:.1f}{interval}"


def _bar(questions, asked, title):
    return tqdm(total=len(questions), initial=len(questions) - len(asked), desc=title, leave=False, disable=None)
