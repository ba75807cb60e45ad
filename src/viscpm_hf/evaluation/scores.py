"""Relative scores of LLaVA-QA90 with bootstrap confidence intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .questions import Question

COLUMNS = {"conv": "conversation", "detail": "detail", "complex": "reasoning"}
ALL = "average"
# README of the original: judged by GPT-4 in 2023, model → language → conversation, detail, reasoning, average
PUBLISHED = {
    "VisCPM-Chat-balance": {"en": (83.3, 68.9, 90.5, 81.1), "zh": (92.7, 76.1, 89.2, 86.3)},
    "VisCPM-Chat-zhplus": {"en": (80.1, 65.7, 92.5, 79.6), "zh": (90.3, 81.4, 92.1, 88.2)},
    "VisCPM-Chat-v1.1": {"en": (80.1, 67.1, 97.1, 81.5), "zh": (91.3, 90.7, 95.4, 92.5)},
}


@dataclass(frozen=True)
class Score:
    """A relative score.

    Args:
        value (`float`): the model's mean score in per cent of the reference's.
        low, high (`float`, *optional*): its confidence interval; None for a single picture.
        count (`int`): questions.
        reference_mean, model_mean (`float`): from 1 to 10.
    """

    value: float
    low: float | None
    high: float | None
    count: int
    reference_mean: float
    model_mean: float


def relative_scores(
    questions: Sequence[Question],
    verdicts: Mapping[int | str, tuple[float, float]],
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Score]:
    """Scores by category and over all, as published: 100 · mean of the model's scores / mean of the reference's.

    The intervals are the bootstrap's percentiles. What is drawn are pictures, each with all its questions, since
    answers about one picture fail together.

    Args:
        questions: those asked.
        verdicts: question id → scores of the reference and of the model; questions without are left out.
        resamples: of the bootstrap.
        seed: of its draws.
        confidence: of the intervals.

    Returns:
        `dict[str, Score]`: `conversation`, `detail`, `reasoning` (or the categories there are), `average`.
    """
    judged = [question for question in questions if question.question_id in verdicts]
    categories = dict.fromkeys(question.category for question in questions)
    order = [name for name in COLUMNS if name in categories] + [name for name in categories if name not in COLUMNS]
    groups = {COLUMNS.get(name, name): [q for q in judged if q.category == name] for name in order}
    groups[ALL] = judged
    return {
        name: _score(group, verdicts, resamples, np.random.default_rng(seed), confidence)
        for name, group in groups.items()
        if group
    }


def _score(group, verdicts, resamples, rng, confidence):
    pictures = {name: number for number, name in enumerate(dict.fromkeys(question.image for question in group))}
    sums = np.zeros((len(pictures), 2))  # of the reference's scores and the model's
    for question in group:
        sums[pictures[question.image]] += verdicts[question.question_id]
    reference, model = sums.sum(0)
    low = high = None
    if len(pictures) > 1:
        drawn = sums[rng.integers(len(pictures), size=(resamples, len(pictures)))].sum(1)  # (resamples, 2)
        edges = np.quantile(100 * drawn[:, 1] / drawn[:, 0], [(1 - confidence) / 2, (1 + confidence) / 2])
        low, high = map(float, edges)
    count = len(group)
    return Score(float(100 * model / reference), low, high, count, float(reference / count), float(model / count))
