"""Text generation with CPM-Bee: `generate()`, and the language model with its head.

With several beams and no sampling, `generate()` runs the original's search token for token; it differs from
transformers' own in when hypotheses are accepted, when the search stops and what the repetition penalty sees. Greedy
search, sampling, streaming and assisted generation are transformers' own.
"""

import copy
import math
import numbers

import torch
from torch import nn
from transformers import GenerationMixin, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import StoppingCriteria, StoppingCriteriaList
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .beams_cpmbee import beam_search, with_room
from .modeling_cpmbee import CACHE, CpmBeeConfig, CpmBeeModel, CpmBeePreTrainedModel, check_embeddings

BANNED = -10000.0  # the original's logit for tokens that cannot be written

# settings of generate(): whether whole, lowest, highest
_LIMITS = {
    "max_new_tokens": (True, 1, 2**31),
    "max_length": (True, 1, 2**31),
    "min_new_tokens": (True, 0, 2**31),
    "min_length": (True, 0, 2**31),
    "num_beams": (True, 1, 1000),
    "num_return_sequences": (True, 1, 2**31),
    "repetition_window": (True, 1, 2**31),
    "no_repeat_ngram_size": (True, 0, 2**31),
    "top_k": (True, 0, 2**31),
    "prompt_lookup_num_tokens": (True, 1, 2**31),
    "top_p": (False, 0, 1),
    "min_p": (False, 0, 1),
    "typical_p": (False, 0, 1),
    "temperature": (False, 0, 1e6),
    "beam_temperature": (False, 1e-6, 1e6),
    "repetition_penalty": (False, 1e-6, 1e6),
    "length_penalty": (False, -50, 50),
    "guidance_scale": (False, 0, 1e6),
    "max_time": (False, 0, 1e9),
}
# settings of searches that are not here; each would be without effect, or fetch code
_REFUSED = (
    "constraints",
    "diversity_penalty",
    "dola_layers",
    "force_words_ids",
    "num_beam_groups",
    "penalty_alpha",
    "prefill_chunk_size",
)


class UnknownTokenBan(LogitsProcessor):
    """Forbid `<unk>` where the sample has no unknown word it could stand for.

    Args:
        unk_token_id (`int`): Id of `<unk>`.
        unk_allowed (`torch.Tensor`): `(samples,)`, true where `<unk>` prints a word of the sample.
    """

    def __init__(self, unk_token_id: int, unk_allowed: torch.Tensor):
        self.unk_token_id, self.banned = unk_token_id, ~unk_allowed.bool()

    def __call__(self, input_ids, scores):
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

    def __init__(self, penalty, prompt_length, vocab_size, window=None, ext_table_ids=None):
        self.penalty, self.start, self.vocab_size = penalty, max(prompt_length - 1, 0), vocab_size
        self.window, self.ext_table_ids = window, ext_table_ids

    def __call__(self, input_ids, scores):
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

    def __call__(self, input_ids, scores):
        return nn.functional.pad(scores, (0, max(self.width - scores.shape[1], 0)), value=1.0)


class StopTexts(StoppingCriteria):
    """Stops a row whose answer holds one of the texts; unlike transformers' own it knows words of the prompt.

    Args:
        tokenizer (`CpmBeeTokenizer`): decodes.
        texts (`list[str]`): may be spelled as `decode` does with or without special tokens.
        prompt_length (`int`, tokens): what comes before the answer.
        ext_tables (`list[dict]`): of the samples, for `decode`.
    """

    def __init__(self, tokenizer, texts, prompt_length, ext_tables):
        self.tokenizer, self.texts, self.start, self.ext_tables = tokenizer, texts, prompt_length, ext_tables
        self.longest = max(map(len, texts))  # every token has a character, so no text has more tokens

    def __call__(self, input_ids, scores, **kwargs):
        rows = input_ids[:, max(self.start, input_ids.shape[1] - self.longest) :].tolist()
        stops = [
            self._stops(ids, self.ext_tables[row * len(self.ext_tables) // len(rows)]) for row, ids in enumerate(rows)
        ]
        return torch.tensor(stops, device=input_ids.device)

    def _stops(self, ids, table):
        written = [self.tokenizer.decode(ids, skip_special_tokens=skip, ext_table=table) for skip in (True, False)]
        return any(text in answer for text in self.texts for answer in written)


class GeneratedIds(torch.Tensor):
    """Ids from `generate()` where a prompt has words outside the vocabulary: a tensor that brings these words along.

    `ext_tables` lists for each row the dict from ids to words that `CpmBeeTokenizer.decode` takes. Rows, columns,
    reshaped and moved copies keep theirs; whatever else is made of it is a plain tensor.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # torch's documented way to get plain tensors

    @classmethod
    def of(cls, ids: torch.Tensor, rows: torch.Tensor, tables: list[dict[int, str]]) -> "GeneratedIds":
        """`rows` has the shape of `ids` and says which of `tables` each element is to be read with."""
        if ids.ndim == 0:  # a number
            return ids.as_subclass(torch.Tensor)
        self = ids.as_subclass(cls)
        self.rows, self.tables = rows, tables
        return self

    @property
    def ext_tables(self) -> list[dict[int, str]]:
        rows = self.rows.reshape(-1, self.rows.shape[-1]) if self.rows.ndim > 1 else self.rows.reshape(1, -1)
        return [self.tables[int(row[0])] if len(row) and (row == row[0]).all() else {} for row in rows]

    def __deepcopy__(self, memo):
        return self.clone()

    def __repr__(self, **kwargs):
        return repr(self.as_subclass(torch.Tensor))


def _keeping_words(name):
    move = getattr(torch.Tensor, name)

    def method(self, *args, **kwargs):
        ids, rows = move(self, *args, **kwargs), move(self.rows, *args, **kwargs)
        if isinstance(ids, tuple):
            return tuple(GeneratedIds.of(*pair, self.tables) for pair in zip(ids, rows, strict=True))
        return GeneratedIds.of(ids, rows, self.tables)

    return method


for _name in ("__getitem__", "clone", "contiguous", "cpu", "cuda", "detach", "flatten", "reshape", "squeeze", "to"):
    setattr(GeneratedIds, _name, _keeping_words(_name))
for _name in ("unbind", "unsqueeze", "view"):
    setattr(GeneratedIds, _name, _keeping_words(_name))


class CpmBeeGenerationMixin(GenerationMixin):
    """Generation for models with a CPM-Bee inside: the original's beam search and the inputs a prefix LM needs.

    `generation_config` keys beyond transformers': `beam_temperature` (divides the logits during beam search) and
    `repetition_window` (tokens the repetition penalty looks back, None for all).
    """

    def get_decoder(self) -> CpmBeeModel:
        return getattr(self.model, "language_model", self.model)

    def resize_token_embeddings(self, new_num_tokens=None, pad_to_multiple_of=None, mean_resizing=True):
        """See `CpmBeePreTrainedModel.resize_token_embeddings`."""
        return CpmBeePreTrainedModel.resize_token_embeddings(self, new_num_tokens, pad_to_multiple_of)

    def generate(self, inputs=None, generation_config=None, logits_processor=None, stopping_criteria=None, **kwargs):
        """transformers' `generate()`, see there; takes the processor's or tokenizer's output as keyword arguments.

        A batch of training samples is taken, too: `labels` say where the answers begin, which are left out.

        Args:
            beam_temperature, repetition_window (*optional*): see the class.

        Returns:
            As transformers' `generate()`. If a prompt has words outside the vocabulary, the ids are `GeneratedIds`.

        Raises:
            ValueError: For a setting out of range, or one that CPM-Bee's generation has not.
        """
        if inputs is not None and kwargs.get("input_ids") is None:
            inputs, kwargs["input_ids"] = None, inputs
        settings = {
            **vars(self.generation_config),
            **{
                key: value
                for key, value in vars(generation_config or self.generation_config).items()
                if value is not None
            },
            **kwargs,
        }
        _check_settings(settings)
        labels, shift_labels = kwargs.pop("labels", None), kwargs.pop("shift_labels", None)
        if shift_labels is not None:
            labels = nn.functional.pad(shift_labels, (1, 0), value=-100)[:, :-1]
        if labels is not None:
            kwargs = _prompts_of(kwargs, labels)
        kwargs = self._with_pictures(_with_columns_on_the_left(kwargs))

        words, unk_allowed = kwargs.pop("ext_table_words", None), kwargs.pop("unk_allowed", None)
        tables = _read_words(words)
        temperature = settings.get("beam_temperature")
        window = settings.get("repetition_window")
        kwargs = {key: value for key, value in kwargs.items() if key not in ("beam_temperature", "repetition_window")}
        input_ids = kwargs.get("input_ids")
        prompt_length = 0 if input_ids is None else input_ids.shape[1]
        if isinstance(input_ids, GeneratedIds):  # an answer that goes on
            kwargs["input_ids"] = input_ids.as_subclass(torch.Tensor)

        vocab_size = self.get_decoder().config.vocab_size
        columns, penalty = kwargs.get("ext_table_ids"), settings.get("repetition_penalty")
        processors, changed = LogitsProcessorList(), {}
        if columns is not None and settings.get("prompt_lookup_num_tokens"):
            processors.append(ExtensionColumns(vocab_size + columns.shape[1]))
        if unk_allowed is not None and not unk_allowed.all():
            processors.append(UnknownTokenBan(self.get_decoder().config.unk_token_id, unk_allowed))
        if penalty is not None and penalty != 1.0:
            processors.append(AnswerRepetitionPenalty(penalty, prompt_length, vocab_size, window, columns))
            changed["repetition_penalty"] = 1.0  # transformers' own would look at the prompt, too
        criteria = StoppingCriteriaList(stopping_criteria or [])
        if settings.get("stop_strings"):
            criteria.append(_stop_texts(settings, prompt_length, tables))
            changed["stop_strings"] = None

        cache = next((kwargs.pop(name) for name in ("cache", "past_key_values") if kwargs.get(name) is not None), None)
        searches = (settings.get("num_beams") or 1) > 1 and not settings.get("do_sample")
        if searches and settings.get("custom_generate") is None:
            kwargs["custom_generate"] = beam_search
            if temperature is not None:
                kwargs["beam_temperature"] = temperature
        kwargs = {key: value for key, value in kwargs.items() if key not in ("cache", "past_key_values")}
        if cache is None and settings.get("use_cache") is not False and not settings.get("cache_implementation"):
            cache = DynamicCache(config=self.get_decoder().config)
        if cache is not None:
            kwargs[CACHE] = with_room(cache, self.get_decoder().config)

        if generation_config is None:
            kwargs.update(changed)
        else:
            generation_config = copy.deepcopy(generation_config)
            for key, value in changed.items():
                setattr(generation_config, key, value)
        output = super().generate(
            inputs,
            generation_config,
            LogitsProcessorList([*processors, *(logits_processor or [])]),
            criteria,
            **kwargs,
        )
        return _with_words(output, tables)

    def _with_pictures(self, model_kwargs: dict) -> dict:
        """The inputs with pictures encoded once, before they are repeated for beams; a text model has none."""
        return model_kwargs

    def prepare_inputs_for_generation(self, input_ids, inputs_embeds=None, **kwargs):
        cache = kwargs.get(CACHE)
        if kwargs.get("image_features") is not None and cache is not None and cache.get_seq_length():
            kwargs["image_features"] = None  # they are in the cache
        if cache is not None and cache.is_compileable and not isinstance(cache, DynamicCache):
            # With a static cache transformers would build a plain causal mask. Ours is made here, outside of the
            # compiled forward, so that its shape never changes.
            prompt = input_ids if input_ids.shape[1] else inputs_embeds
            length = kwargs.get("next_sequence_length") or prompt.shape[1]
            kwargs["attention_mask"] = self.get_decoder().attention_bias(
                cache.get_seq_length(),
                length,
                cache.get_mask_sizes(length, 0)[0],
                len(prompt),
                prompt.device,
                **{key: kwargs.get(key) for key in ("attention_mask", "segment_ids", "context_mask", "segment_rel")},
            )
        return super().prepare_inputs_for_generation(input_ids, inputs_embeds=inputs_embeds, **kwargs)

    def compute_transition_scores(self, sequences, scores, beam_indices=None, normalize_logits=False):
        """Log-probability of each generated token `(rows, new tokens)`; see transformers' method of this name.

        Unlike that one it knows that scores are wider than the vocabulary where there are extension tokens.
        """
        scores = torch.stack(scores, dim=1)  # (beams of all samples, new tokens, width)
        if normalize_logits:
            scores = scores.log_softmax(dim=-1)
        if beam_indices is None:  # each row is its only beam
            beam_indices = torch.arange(len(scores), device=scores.device)[:, None].expand(-1, scores.shape[1])
        beam_indices = beam_indices[:, : int((beam_indices >= 0).sum(dim=1).max())].long()
        new_tokens = sequences[:, sequences.shape[1] - beam_indices.shape[1] :].to(scores.device)
        step = torch.arange(beam_indices.shape[1], device=scores.device)
        chosen = scores[beam_indices.clamp(min=0), step, new_tokens]
        return chosen.masked_fill(beam_indices < 0, 0.0)

    def _lm_logits(self, hidden_states, ext_table_ids=None, ext_table_subs=None, ext_table_mask=None):
        """Logits `(batch, length, vocab_size + columns)`; columns that cannot be written get the original's -10000."""
        language_model = self.get_decoder()
        logits = self.lm_head(hidden_states / math.sqrt(language_model.config.hidden_size))
        if ext_table_ids is None or ext_table_ids.shape[-1] == 0:
            return logits
        extension = language_model.extension_embeddings(ext_table_ids, ext_table_subs)
        extension_logits = hidden_states @ extension.to(hidden_states).transpose(1, 2)
        if ext_table_mask is not None:
            extension_logits = extension_logits.masked_fill(
                ext_table_mask[:, None].to(extension_logits.device) == 0, BANNED
            )
        return torch.cat([logits, extension_logits.to(logits)], dim=-1)

    def _lm_loss(self, logits, labels=None, shift_labels=None, **kwargs):
        """Cross-entropy, or None without targets; the width includes extension columns, so it is not vocab_size."""
        if labels is None and shift_labels is None:
            return None
        return self.loss_function(logits, labels, logits.shape[-1], shift_labels=shift_labels, **kwargs)


def _for_rows(samples: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """What belongs to the samples `(samples, …)`, for the rows that generation made of each."""
    samples = samples.to(rows.device)
    return samples if len(samples) == len(rows) else samples.repeat_interleave(len(rows) // len(samples), dim=0)


def _check_settings(settings: dict) -> None:
    """Raises a ValueError for a setting of `generate()` that is out of range or has no meaning here."""
    for name in _REFUSED:
        if settings.get(name) not in (None, False, 0, 0.0) and not (name == "num_beam_groups" and settings[name] == 1):
            why = (
                "as the prompt is bidirectional, it must be read in one piece"
                if name == "prefill_chunk_size"
                else "CPM-Bee generates greedily, by sampling, with beams or with an assistant"
            )
            raise ValueError(f"Got {name}={settings[name]!r}, expected it to be left unset: {why}.")
    for name, (whole, lowest, highest) in _LIMITS.items():
        value = settings.get(name)
        if value is None:
            continue
        kind = numbers.Integral if whole else numbers.Real
        if isinstance(value, bool) or not isinstance(value, kind) or not lowest <= value <= highest:
            shown = "a whole number" if whole else "a number"
            raise ValueError(f"Got {name}={value!r}, expected {shown} from {lowest} to {highest}.")
    searches = (settings.get("num_beams") or 1) > 1 and not settings.get("do_sample")
    if settings.get("do_sample") and settings.get("temperature") == 0:
        raise ValueError("Got temperature=0 with do_sample=True, expected more than 0; do_sample=False is greedy.")
    if searches and (settings.get("repetition_penalty") or 1.0) < 1:
        raise ValueError(
            f"Got repetition_penalty={settings['repetition_penalty']}, expected at least 1; "
            "use 1.0 to switch the penalty off."
        )
    if searches and settings.get("early_stopping") == "never":
        raise ValueError("Got early_stopping='never', expected True or False: the original's search has its own end.")
    if searches and settings.get("streamer") is not None:
        raise ValueError(f"Got a streamer with num_beams={settings['num_beams']}, but only one beam can be streamed.")
    if searches and settings.get("synced_gpus"):
        raise ValueError("Got synced_gpus=True with beams, expected num_beams=1: beams end at different steps.")
    if settings.get("ext_table_ids") is not None and settings.get("guidance_scale") not in (None, 1, 1.0):
        raise ValueError(
            f"Got guidance_scale={settings['guidance_scale']} and words outside the vocabulary, expected one of them: "
            "without the prompt these words have no logits."
        )


def _prompts_of(batch: dict, labels: torch.Tensor) -> dict:
    """A training batch without its answers, padded on the left; answers begin where `labels` (batch, length) do."""
    length = labels.shape[1]
    answered = labels != -100
    end = torch.where(answered.any(dim=1), answered.int().argmax(dim=1), length)
    mask = batch.get("attention_mask")
    if mask is not None:  # right padding after a prompt without an answer
        last = length - mask.flip(1).int().argmax(dim=1)
        end = torch.minimum(end, last)
    place = torch.arange(int(end.max()), device=labels.device) - end.max() + end[:, None]  # (batch, longest prompt)
    cut = {
        key: value.gather(1, place.clamp(min=0)).masked_fill(place < 0, 0)
        for key, value in batch.items()
        if torch.is_tensor(value) and value.shape == labels.shape
    }
    if mask is None:
        cut["attention_mask"] = (place >= 0).long()
    return {**batch, **cut}


def _with_columns_on_the_left(batch: dict) -> dict:
    """A batch whose extension columns begin at 0.

    `pipeline(batch_size=…)` pads every input on the left, but columns count from the left; used ones have running
    numbers above 0.
    """
    subs = batch.get("ext_table_subs")
    if subs is None or subs.shape[-1] < 2:
        return batch
    columns = torch.arange(subs.shape[-1], device=subs.device)
    order = (columns + (subs > 0).int().argmax(dim=1, keepdim=True)) % subs.shape[-1]
    tables = ("ext_table_ids", "ext_table_subs", "ext_table_mask")
    return {**batch, **{key: batch[key].gather(1, order) for key in tables if batch.get(key) is not None}}


def _read_words(words: torch.Tensor | None) -> list[dict[int, str]]:
    """The dicts from ids to words of `ext_table_words` (batch, length): each word is -1 - id, then characters + 1."""
    tables = []
    for row in [] if words is None else words.tolist():
        table, index = {}, None
        for number in filter(None, row):  # 0 is padding, on either side
            if number < 0:
                index = -1 - number
                table[index] = ""
            else:
                table[index] += chr(number - 1)
        tables.append(table)
    return tables


def _stop_texts(settings: dict, prompt_length: int, tables: list[dict[int, str]]) -> StopTexts:
    texts, tokenizer = settings["stop_strings"], settings.get("tokenizer")
    texts = [texts] if isinstance(texts, str) else list(texts)
    if tokenizer is None or not all(isinstance(text, str) and text for text in texts):
        raise ValueError(
            f"Got stop_strings={settings['stop_strings']!r} and tokenizer={type(tokenizer).__name__}, expected texts "
            "and the tokenizer: generate(..., stop_strings=[…], tokenizer=processor.tokenizer)."
        )
    return StopTexts(tokenizer, texts, prompt_length, tables or [{}])


def _with_words(output, tables: list[dict[int, str]]):
    """The output of `generate()` with the words of its prompts, if they have any."""
    if not any(tables):
        return output
    ids = output if torch.is_tensor(output) else output.sequences
    rows = torch.arange(len(ids), device=ids.device) * len(tables) // len(ids)  # several answers for each prompt
    ids = GeneratedIds.of(ids, rows[:, None].expand_as(ids), tables)
    if torch.is_tensor(output):
        return ids
    output.sequences = ids
    return output


class CpmBeeForCausalLM(CpmBeeGenerationMixin, CpmBeePreTrainedModel):
    """CPM-Bee as a text model, for plain CPM-Bee checkpoints.

    Example:
        >>> inputs = tokenizer({"input": "今天天气真好，", "<ans>": ""}, return_tensors="pt")
        >>> output = model.generate(**inputs, max_new_tokens=32)
        >>> tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True)
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: CpmBeeConfig):
        super().__init__(config)
        self.model = CpmBeeModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        segment_ids: torch.LongTensor | None = None,
        context_mask: torch.LongTensor | None = None,
        segment_rel: torch.LongTensor | None = None,
        ext_table_ids: torch.LongTensor | None = None,
        ext_table_subs: torch.LongTensor | None = None,
        ext_table_mask: torch.LongTensor | None = None,
        unk_allowed: torch.Tensor | None = None,
        ext_table_words: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        cache: Cache | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast | tuple:
        """Logits for the next token; see `CpmBeeModel.forward` for the inputs.

        Args:
            ext_table_mask: 1 where the extension column may be written `(batch, columns)`.
            unk_allowed, ext_table_words: Used by `generate()` only: whether `<unk>` may be written `(batch,)`, and how
                extension tokens are spelled.
            labels: Targets `(batch, length)` aligned with `input_ids`, -100 where there is none; shifted inside.
            shift_labels: Targets already shifted: the token after each position. Takes the place of `labels`. (Not
                named in the signature, where Trainer would look for a second kind of labels.)
            logits_to_keep: Compute logits for the last so many positions only, 0 for all.
        """
        cache = past_key_values if cache is None else cache
        check_embeddings(inputs_embeds, segment_ids, cache)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            segment_ids=segment_ids,
            context_mask=context_mask,
            segment_rel=segment_rel,
            ext_table_ids=ext_table_ids,
            ext_table_subs=ext_table_subs,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            cache=cache,
            return_dict=True,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self._lm_logits(outputs.last_hidden_state[:, kept], ext_table_ids, ext_table_subs, ext_table_mask)
        loss = self._lm_loss(logits, labels, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE: outputs[CACHE] if CACHE in outputs else None},
        )


# a saved copy carries these files, so that it loads where the package is not installed
CpmBeeForCausalLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["CpmBeeForCausalLM", "CpmBeeGenerationMixin"]
