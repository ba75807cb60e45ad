"""A language model as the judge of two answers, as LLaVA's authors published it, and what asking it will cost."""

import asyncio
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..paint import CHINESE
from .endpoint import Endpoint, FailedRequestError, MalformedReplyError, in_parallel

SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."
TEMPERATURE, MAX_TOKENS = 0.2, 1024  # as published
LOWEST, HIGHEST = 1, 10  # of a score, as the rules say


@dataclass
class Verdict:
    """What the judge says of one question.

    Args:
        scores (`tuple[float, float]`, *optional*): of the reference's answer and of the model's; None if no reply of
            the judge began with them.
        review (`str`): its last reply.
        malformed (`list[str]`): replies before it that did not begin with two scores.
        prompt_tokens, completion_tokens (`int`): of all replies, as the server counts.
    """

    scores: tuple[float, float] | None = None
    review: str = ""
    malformed: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Estimate:
    """What judging needs.

    Args:
        requests (`int`): one a question.
        prompt_tokens (`int`): about so many.
        most_completion_tokens (`int`): replies are cut off there.
        dollars (`float`, *optional*): at most, if prices are known and every reply is well formed.
    """

    requests: int
    prompt_tokens: int
    most_completion_tokens: int
    dollars: float | None


def parse_scores(review: str) -> tuple[float, float] | None:
    """The two scores in the first line of a verdict, None if it has no two numbers from 1 to 10 and nothing else.

    As published: the numbers are separated by a space or a comma.
    """
    line = review.strip().partition("\n")[0]
    parts = re.split(r"[\s,，]+", line.strip())
    if len(parts) != 2:
        return None
    try:
        first, second = map(float, parts)
    except ValueError:
        return None
    if not all(math.isfinite(each) and LOWEST <= each <= HIGHEST for each in (first, second)):
        return None
    return first, second


def estimate(prompts: Mapping[Any, str], prices: tuple[float, float] | None = None) -> Estimate:
    """What judging will need, before anything is asked.

    Args:
        prompts: question id → what the judge will be asked, or something as long.
        prices: dollars for a million tokens of prompts and of replies.
    """
    texts = [SYSTEM + prompt for prompt in prompts.values()]
    chinese = sum(len(CHINESE.findall(text)) for text in texts)
    # about a token for each Chinese character, and for four others
    read = chinese + (sum(map(len, texts)) - chinese) // 4
    written = MAX_TOKENS * len(texts)
    dollars = None if prices is None else (read * prices[0] + written * prices[1]) / 1e6
    return Estimate(len(texts), read, written, dollars)


def judge_all(
    endpoint: Endpoint,
    model: str,
    prompts: Mapping[Any, str],
    record: Callable[[Any, Verdict], None],
    concurrency: int = 4,
    tries: int = 3,
) -> dict[Any, str]:
    """Asks the judge about every question.

    Args:
        endpoint (`Endpoint`): where it is.
        model (`str`): its name there.
        prompts (`dict`): question id → what it is asked.
        record: called with a question's id and its verdict as soon as it is there; in any order.
        concurrency (`int`): requests under way at a time.
        tries (`int`): how often it is asked when a reply does not begin with two scores.

    Returns:
        `dict`: question id → why there is no verdict on it, of requests that failed.

    Raises:
        EndpointError: the judge answers nobody. What was recorded stays.
    """
    return asyncio.run(_judge_all(endpoint, model, prompts, record, concurrency, tries))


async def _judge_all(endpoint, model, prompts, record, concurrency, tries):
    failed = {}

    async def judge_one(item):
        question_id, prompt = item
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}]
        verdict = Verdict()
        for _ in range(tries):
            try:
                reply = await judge.complete(
                    model=model, messages=messages, temperature=TEMPERATURE, max_tokens=MAX_TOKENS
                )
            except MalformedReplyError as error:
                verdict.malformed.append(str(error))
                continue
            except FailedRequestError as error:
                failed[question_id] = str(error)
                return
            verdict.prompt_tokens += reply.prompt_tokens
            verdict.completion_tokens += reply.completion_tokens
            verdict.scores = parse_scores(reply.text)
            if verdict.scores is not None:
                verdict.review = reply.text
                break
            verdict.malformed.append(reply.text)
        record(question_id, verdict)

    async with endpoint.connected() as judge:
        await in_parallel(prompts.items(), judge_one, concurrency)
    return failed
