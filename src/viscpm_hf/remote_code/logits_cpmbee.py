"""What CPM-Bee's generation does to logits, and when it stops: logits processors and stopping criteria."""

from typing import Any

import torch
from torch import nn
from transformers import LogitsProcessor, PreTrainedTokenizerBase
from transformers.generation import StoppingCriteria

BANNED = -10000.0  # the original's logit for tokens that cannot be written


class UnknownTokenBan(LogitsProcessor):
    """Forbid `<unk>` where the sample has no unknown word it could stand for.

    Args:
        unk_token_id (`int`): Id of `<unk>`.
        unk_allowed (`torch.Tensor`): `(samples,)`, true where `<unk>` prints a word of the sample.
    """

    def __init__(self, unk_token_id: int, unk_allowed: torch.Tensor):
        self.unk_token_id, self.banned = unk_token_id, ~unk_allowed.bool()

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        scores = scores.clone()
        # not above what another processor has made of it
        unknown = scores[:, self.unk_token_id]
        banned = _for_rows(self.banned, scores)
        scores[:, self.unk_token_id] = torch.where(banned, unknown.clamp(max=BANNED), unknown)
        return scores


class AnswerRepetitionPenalty(LogitsProcessor):
    """Penalise what the answer already holds; the prompt is not looked at, but the answer's `<s>` counts.

    As in the original, an extension token penalises its base token (so any unknown word penalises `<unk>`).

    Args:
        penalty (`float`): Negative logits are multiplied, others divided by it.
        prompt_length (`int`, tokens): Prompt length including the answer's `<s>`.
        vocab_size (`int`): Ids from here on are extension tokens.
        window (`int`, *optional*, tokens): Look at the last `window` tokens only.
        ext_table_ids (`torch.Tensor`, *optional*): Base id of each extension column `(samples, columns)`.
    """

    def __init__(
        self,
        penalty: float,
        prompt_length: int,
        vocab_size: int,
        window: int | None = None,
        ext_table_ids: torch.LongTensor | None = None,
    ):
        self.penalty, self.start, self.vocab_size = penalty, max(prompt_length - 1, 0), vocab_size
        self.window, self.ext_table_ids = window, ext_table_ids

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        history = input_ids[:, self.start :]
        if self.window is not None:
            history = history[:, -self.window :]
        if self.ext_table_ids is not None:
            column = (history - self.vocab_size).clamp(min=0)
            base = _for_rows(self.ext_table_ids, history).gather(1, column)
            history = torch.where(history >= self.vocab_size, base, history)
        logits = scores.gather(1, history)
        penalised = torch.where(logits < 0, logits * self.penalty, logits / self.penalty)
        return scores.scatter(1, history, penalised)


class ExtensionColumns(LogitsProcessor):
    """Gives the logits that prompt lookup makes up for the vocabulary a column for each extension token, too."""

    def __init__(self, width: int):
        self.width = width

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        return nn.functional.pad(scores, (0, max(self.width - scores.shape[1], 0)), value=1.0)


class StopTexts(StoppingCriteria):
    """Stops a row whose answer holds one of the texts; unlike transformers' own it knows words of the prompt.

    Args:
        tokenizer (`CpmBeeTokenizer`): decodes.
        texts (`list[str]`): may be spelled as `decode` does with or without special tokens.
        prompt_length (`int`, tokens): what comes before the answer.
        ext_tables (`list[dict]`): of the samples, for `decode`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        texts: list[str],
        prompt_length: int,
        ext_tables: list[dict[int, str]] | None,
    ):
        self.tokenizer, self.texts, self.start, self.ext_tables = tokenizer, texts, prompt_length, ext_tables

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        rows = input_ids[:, self.start :].tolist()  # whole answers: an assistant adds any number of tokens at once
        stops = [
            self._stops(ids, self.ext_tables[row * len(self.ext_tables) // len(rows)]) for row, ids in enumerate(rows)
        ]
        return torch.tensor(stops, device=input_ids.device)

    def _stops(self, ids, table):
        written = [self.tokenizer.decode(ids, skip_special_tokens=skip, ext_table=table) for skip in (True, False)]
        return any(text in answer for text in self.texts for answer in written)


def _for_rows(samples: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """What belongs to the samples `(samples, …)`, for the rows that generation made of each."""
    samples = samples.to(rows.device)
    return samples if len(samples) == len(rows) else samples.repeat_interleave(len(rows) // len(samples), dim=0)


__all__ = ["BANNED", "AnswerRepetitionPenalty", "ExtensionColumns", "StopTexts", "UnknownTokenBan"]
