"""Text generation with CPM-Bee: `generate()`, and the language model with its head.

With several beams and no sampling, `generate()` runs the original's search token for token; it differs from
transformers' own in when hypotheses are accepted, when the search stops and what the repetition penalty sees. Greedy
search, sampling, streaming and assisted generation are transformers' own.
"""

import copy
import math
import numbers
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import StoppingCriteriaList
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import ModelOutput, can_return_tuple

from .beams_cpmbee import beam_search, with_room
from .logits_cpmbee import BANNED, AnswerRepetitionPenalty, ExtensionColumns, StopTexts, UnknownTokenBan
from .modeling_cpmbee import CACHE, CpmBeeConfig, CpmBeeModel, CpmBeePreTrainedModel, check_embeddings, one_cache
from .words_cpmbee import GeneratedIds, read_words, with_words

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
_REFUSED = {  # and the value that means nothing
    "assistant_early_exit": None,
    "constraints": None,
    "diversity_penalty": 0,
    "dola_layers": None,
    "force_words_ids": None,
    "num_beam_groups": 1,
    "penalty_alpha": 0,
    "prefill_chunk_size": None,
    "token_healing": False,
}
_SWITCHES = ("do_sample", "use_cache", "return_dict_in_generate", "output_scores", "output_logits")
_IDS = ("eos_token_id", "pad_token_id", "bos_token_id", "forced_bos_token_id", "forced_eos_token_id")


class CpmBeeGenerationMixin(GenerationMixin):
    """Generation for models with a CPM-Bee inside: the original's beam search and the inputs a prefix LM needs.

    `generation_config` keys beyond transformers': `beam_temperature` (divides the logits during beam search) and
    `repetition_window` (tokens the repetition penalty looks back, None for all).
    """

    def get_decoder(self) -> CpmBeeModel:
        return getattr(self.model, "language_model", self.model)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """See `CpmBeePreTrainedModel.resize_token_embeddings`."""
        return CpmBeePreTrainedModel.resize_token_embeddings(self, new_num_tokens, pad_to_multiple_of)

    def generate(
        self,
        inputs: torch.LongTensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | ModelOutput:
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
        own = self.generation_config if generation_config is None else generation_config
        if not callable(getattr(own, "get_generation_mode", None)):
            raise ValueError(f"Got {type(own).__name__} as generation_config, expected a GenerationConfig.")
        given = {key: value for key, value in vars(own).items() if value is not None}
        settings = {**vars(self.generation_config), **given, **kwargs}
        _check_settings(settings)
        self._check_inputs(kwargs, _is_search(settings))
        kwargs = {key: value for key, value in kwargs.items() if key not in ("beam_temperature", "repetition_window")}
        kwargs = self._with_pictures(_with_columns_on_the_left(_prompts_of(kwargs)))
        tables = read_words(kwargs.pop("ext_table_words", None))
        if isinstance(kwargs.get("input_ids"), GeneratedIds):  # an answer that goes on
            kwargs["input_ids"] = kwargs["input_ids"].as_subclass(torch.Tensor)

        processors = [*self._processors(settings, kwargs), *_listed(logits_processor, "logits_processor")]
        criteria = StoppingCriteriaList(_listed(stopping_criteria, "stopping_criteria"))
        changed = {}
        if settings.get("repetition_penalty") is not None:
            changed["repetition_penalty"] = 1.0  # transformers' own would look at the prompt, too
        if settings.get("stop_strings") is not None:
            texts, tokenizer = _as_list(settings["stop_strings"]), settings["tokenizer"]
            criteria.append(StopTexts(tokenizer, texts, _prompt_length(kwargs), tables or [{}]))
            changed["stop_strings"] = None  # transformers' own has no word for an extension token
        if generation_config is None:
            kwargs.update(changed)
        else:
            generation_config = copy.deepcopy(generation_config)
            for key, value in changed.items():
                setattr(generation_config, key, value)

        if _is_search(settings) and settings.get("custom_generate") is None:
            kwargs["custom_generate"] = beam_search
            if settings.get("beam_temperature") is not None:
                kwargs["beam_temperature"] = settings["beam_temperature"]
        cache = _pop_cache(kwargs)
        if cache is None and settings.get("use_cache") is not False and not settings.get("cache_implementation"):
            cache = DynamicCache(config=self.get_decoder().config)
        if cache is not None:
            kwargs[CACHE] = with_room(cache, self.get_decoder().config)
        output = super().generate(
            inputs,
            generation_config,
            LogitsProcessorList(processors),
            criteria,
            **kwargs,
        )
        return with_words(output, tables)

    def _check_inputs(self, model_kwargs: dict, searches: bool) -> None:
        """Raises a ValueError for inputs that do not fit together; gives the mask what the ids are longer."""
        input_ids, columns = model_kwargs.get("input_ids"), model_kwargs.get("ext_table_ids")
        size = self.get_decoder().config.vocab_size + (0 if columns is None else columns.shape[1])
        if input_ids is not None and input_ids.numel() and int(input_ids.max()) >= size:
            raise ValueError(
                f"Got the id {int(input_ids.max())}, expected ids below {size}: those of unknown words need "
                "ext_table_ids and ext_table_subs, so hand over all that the processor or tokenizer returned."
            )
        cache = one_cache(model_kwargs.get("cache"), model_kwargs.get("past_key_values"))
        if cache is not None and not isinstance(cache, Cache):
            raise ValueError(f"Got {type(cache).__name__} as cache, expected a Cache such as DynamicCache().")
        mask = model_kwargs.get("attention_mask")
        if input_ids is not None and mask is not None and mask.ndim == 2 and 0 < mask.shape[1] < input_ids.shape[1]:
            # an answer that goes on, with the mask of its prompt
            mask = nn.functional.pad(mask, (0, input_ids.shape[1] - mask.shape[1]), value=1)
            model_kwargs["attention_mask"] = mask
        length = 0 if cache is None else int(cache.get_seq_length())
        if (
            length
            and input_ids is not None
            and length >= max(input_ids.shape[1], 0 if mask is None else mask.shape[1])
        ):
            raise ValueError(
                f"Got a cache of {length} tokens and {input_ids.shape[1]} input_ids, expected a cache of their "
                "beginning: take a new one for another prompt."
            )
        # peft puts its prefix or virtual tokens in where transformers prepares the inputs of a step
        owner = getattr(vars(self).get("prepare_inputs_for_generation"), "__self__", None)
        if searches and getattr(getattr(owner, "active_peft_config", None), "is_prompt_learning", False):
            raise ValueError(
                "Got prompt learning of peft with beams, expected num_beams=1, or another kind of adapter."
            )

    def _processors(self, settings: dict, model_kwargs: dict) -> list:
        """What changes the logits as the original does; `unk_allowed` is for it alone."""
        config, columns = self.get_decoder().config, model_kwargs.get("ext_table_ids")
        unk_allowed, penalty = model_kwargs.pop("unk_allowed", None), settings.get("repetition_penalty")
        processors = []
        if columns is not None and settings.get("prompt_lookup_num_tokens"):
            processors.append(ExtensionColumns(config.vocab_size + columns.shape[1]))
        if unk_allowed is not None and not unk_allowed.all():
            processors.append(UnknownTokenBan(config.unk_token_id, unk_allowed))
        if penalty is not None and penalty != 1.0:
            length, window = _prompt_length(model_kwargs), settings.get("repetition_window")
            processors.append(AnswerRepetitionPenalty(penalty, length, config.vocab_size, window, columns))
        return processors

    def _with_pictures(self, model_kwargs: dict) -> dict:
        """The inputs with pictures encoded once, before they are repeated for beams; a text model has none."""
        return model_kwargs

    def prepare_inputs_for_generation(
        self, input_ids: torch.LongTensor, inputs_embeds: torch.FloatTensor | None = None, **kwargs: Any
    ) -> dict:
        cache = kwargs[CACHE] = _pop_cache(kwargs)
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

    def compute_transition_scores(
        self,
        sequences: torch.Tensor,
        scores: tuple[torch.Tensor, ...],
        beam_indices: torch.Tensor | None = None,
        normalize_logits: bool = False,
    ) -> torch.Tensor:
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
        logits = self.lm_head(hidden_states / (1 / language_model.config.logit_scale))
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
        if self.training and labels is None and shift_labels is not None and "num_items_in_batch" in kwargs:
            raise ValueError(
                "Got shift_labels without labels, which is what transformers' Trainer leaves of a batch for "
                "label_smoothing_factor: it would smooth other places' targets, over columns that cannot be written. "
                "Use ChatTrainer of viscpm_hf.finetuning; for a compute_loss_func leave shift_labels out of batches."
            )
        if labels is None and shift_labels is None:
            return None
        return self.loss_function(logits, labels, logits.shape[-1], shift_labels=shift_labels, **kwargs)


def _listed(given, name: str) -> list:
    """A user's processors or criteria, which may be one alone."""
    given = [] if given is None else [given] if callable(given) else given
    if not isinstance(given, (list, tuple)) or not all(callable(one) for one in given):
        raise ValueError(f"Got {type(given).__name__} as {name}, expected a list of callables.")
    return list(given)


def _numbers_in(value) -> list:
    """The floats of a setting, which may be a tuple, list or dict of them."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        return [number for one in value for number in _numbers_in(one)]
    return [value] if isinstance(value, float) else []


def _pop_cache(kwargs: dict) -> Cache | None:
    """The cache under whichever name it was given."""
    return one_cache(kwargs.pop("cache", None), kwargs.pop("past_key_values", None))


def _is_search(settings: dict) -> bool:
    """Whether this is the original's beam search; sampling with beams is transformers'."""
    return (settings.get("num_beams") or 1) > 1 and not settings.get("do_sample")


def _as_list(texts) -> list:
    return list(texts) if isinstance(texts, (list, tuple)) else [texts]


def _are_texts(texts: list) -> bool:
    return bool(texts) and all(isinstance(text, str) and text for text in texts)


def _prompt_length(model_kwargs: dict) -> int:
    return 0 if model_kwargs.get("input_ids") is None else model_kwargs["input_ids"].shape[1]


def _check_settings(settings: dict) -> None:
    """Raises a ValueError for a setting of `generate()` that is out of range or has no meaning here."""
    for name, nothing in _REFUSED.items():
        value = settings.get(name)
        if value is None or value == nothing:
            continue
        why = (
            "as the prompt is bidirectional, it must be read in one piece"
            if name == "prefill_chunk_size"
            else "CPM-Bee generates greedily, by sampling, with beams or with an assistant"
        )
        raise ValueError(f"Got {name}={value!r}, expected it to be left unset: {why}.")
    for name in _SWITCHES:
        if settings.get(name) not in (None, True, False):
            raise ValueError(f"Got {name}={settings[name]!r}, expected True or False.")
    for name in _IDS:
        ids = settings.get(name)
        ids = ids.flatten().tolist() if torch.is_tensor(ids) else ids if isinstance(ids, (list, tuple)) else [ids]
        if not all(one is None or isinstance(one, numbers.Integral) for one in ids):
            raise ValueError(f"Got {name}={settings[name]!r}, expected an id.")
    for name in vars(GenerationConfig()).keys() & settings.keys():
        if not all(map(math.isfinite, _numbers_in(settings[name]))):
            raise ValueError(f"Got {name}={settings[name]!r}, expected finite numbers.")
    for name, (whole, lowest, highest) in _LIMITS.items():
        value = settings.get(name)
        if value is None:
            continue
        kind = numbers.Integral if whole else numbers.Real
        if isinstance(value, bool) or not isinstance(value, kind) or not lowest <= value <= highest:
            shown = "a whole number" if whole else "a number"
            raise ValueError(f"Got {name}={value!r}, expected {shown} from {lowest} to {highest}.")
    if settings.get("do_sample") and settings.get("temperature") == 0:
        raise ValueError("Got temperature=0 with do_sample=True, expected more than 0; do_sample=False is greedy.")
    if _is_search(settings):
        if (settings.get("repetition_penalty") or 1.0) < 1:
            raise ValueError(
                f"Got repetition_penalty={settings['repetition_penalty']}, expected at least 1; "
                "use 1.0 to switch the penalty off."
            )
        if settings.get("early_stopping") == "never":
            raise ValueError(
                "Got early_stopping='never', expected True or False: the original's search has its own end."
            )
        for name in ("streamer", "assistant_model", "prompt_lookup_num_tokens", "synced_gpus"):
            if settings.get(name):
                raise ValueError(
                    f"Got {name} with num_beams={settings['num_beams']}, expected num_beams=1: beams cannot have it."
                )
    texts, tokenizer = settings.get("stop_strings"), settings.get("tokenizer")
    if texts is not None and (tokenizer is None or not _are_texts(_as_list(texts))):
        raise ValueError(
            f"Got stop_strings={texts!r} and tokenizer={type(tokenizer).__name__}, expected texts and the tokenizer: "
            "generate(..., stop_strings=[…], tokenizer=processor.tokenizer)."
        )
    if settings.get("ext_table_ids") is not None and settings.get("guidance_scale") not in (None, 1, 1.0):
        raise ValueError(
            f"Got guidance_scale={settings['guidance_scale']} and words outside the vocabulary, expected one of them: "
            "without the prompt these words have no logits."
        )


def _prompts_of(batch: dict) -> dict:
    """The inputs without `labels`; where there were any, without the answers, too, and padded on the left.

    A training batch has them: `labels` (batch, length) are -100 before the answer, `shift_labels` one place earlier.
    """
    batch = dict(batch)
    labels, shift_labels = batch.pop("labels", None), batch.pop("shift_labels", None)
    if labels is None and shift_labels is None:
        return batch
    if labels is None:
        labels = nn.functional.pad(shift_labels, (1, 0), value=-100)[:, :-1]
    length, answered = labels.shape[1], labels != -100
    end = torch.where(answered.any(dim=1), answered.int().argmax(dim=1), length)
    mask = batch.get("attention_mask")
    if mask is None:
        mask = batch["attention_mask"] = torch.ones_like(labels)
    end = torch.minimum(end, length - mask.flip(1).int().argmax(dim=1))  # padding behind a prompt without an answer
    place = torch.arange(int(end.max()), device=labels.device) - end.max() + end[:, None]  # (batch, longest prompt)
    cut = {
        key: value.gather(1, place.clamp(min=0)).masked_fill(place < 0, 0)
        for key, value in batch.items()
        if torch.is_tensor(value) and value.shape == labels.shape
    }
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
        **kwargs: Any,
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
        cache = one_cache(cache, past_key_values)
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
