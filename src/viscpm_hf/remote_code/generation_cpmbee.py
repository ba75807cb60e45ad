"""Text generation with CPM-Bee: the original's beam search, and the language model with its head.

With several beams and no sampling, `generate()` runs the original's search token for token; it differs from
transformers' own in when hypotheses are accepted, when the search stops and what the repetition penalty sees. Greedy
search, sampling, streaming and assisted generation are transformers' own.
"""

import math

import torch
from torch import nn
from transformers import GenerationMixin, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerateBeamDecoderOnlyOutput
from transformers.modeling_outputs import CausalLMOutputWithPast

from .beams_cpmbee import BeamTree, GrowingCacheLayer
from .modeling_cpmbee import CpmBeeConfig, CpmBeeModel, CpmBeePreTrainedModel

BANNED = -10000.0  # the original's logit for tokens that cannot be written


class UnknownTokenBan(LogitsProcessor):
    """Forbid `<unk>` where the sample has no unknown word it could stand for.

    Args:
        unk_token_id (`int`): Id of `<unk>`.
        unk_allowed (`torch.Tensor`): `(rows,)`, true where `<unk>` prints a word of the sample.
    """

    def __init__(self, unk_token_id: int, unk_allowed: torch.Tensor):
        self.unk_token_id, self.banned = unk_token_id, ~unk_allowed.bool()

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        scores[:, self.unk_token_id] = scores[:, self.unk_token_id].masked_fill(self.banned.to(scores.device), BANNED)
        return scores


class AnswerRepetitionPenalty(LogitsProcessor):
    """Penalise what the answer already holds; the prompt is not looked at, but the answer's `<s>` counts.

    As in the original, an extension token penalises its base token (so any unknown word penalises `<unk>`).

    Args:
        penalty (`float`): Negative logits are multiplied, others divided by it.
        prompt_length (`int`, tokens): Prompt length including the answer's `<s>`.
        vocab_size (`int`): Ids from here on are extension tokens.
        window (`int`, *optional*, tokens): Look at the last `window` tokens only.
        ext_table_ids (`torch.Tensor`, *optional*): Base id of each extension column `(rows, columns)`.
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
            base = self.ext_table_ids.to(history.device).gather(1, column)
            history = torch.where(history >= self.vocab_size, base, history)
        logits = scores.gather(1, history)
        penalised = torch.where(logits < 0, logits * self.penalty, logits / self.penalty)
        return scores.scatter(1, history, penalised)


class BeamHypotheses:
    """The best `num_beams` finished answers of one sample, scored by log-probability / length ** length_penalty."""

    def __init__(self, num_beams: int, length_penalty: float):
        self.num_beams, self.length_penalty = num_beams, length_penalty
        self.kept: list[tuple[float, torch.Tensor]] = []
        self.worst = 1e9

    def add(self, sequence: torch.Tensor, log_probability: float, length: int):
        score = log_probability / length**self.length_penalty
        if len(self.kept) < self.num_beams or score > self.worst:
            self.kept.append((score, sequence))
            if len(self.kept) > self.num_beams:
                # of equal scores the older goes first
                self.kept.pop(min(range(len(self.kept)), key=lambda i: (self.kept[i][0], i)))
                self.worst = min(score for score, _ in self.kept)
            else:
                self.worst = min(self.worst, score)

    def is_done(self, best_log_probability: float, step: int) -> bool:
        """Whether no open beam can still win; the original divides by the 0-based step, not by the length."""
        if len(self.kept) < self.num_beams:
            return False
        return self.worst >= best_log_probability / step**self.length_penalty

    def best(self, count: int) -> list[tuple[float, torch.Tensor]]:
        return sorted(self.kept, key=lambda hypothesis: -hypothesis[0])[:count]


class CpmBeeGenerationMixin(GenerationMixin):
    """Generation for models with a CPM-Bee inside: the original's beam search and the inputs a prefix LM needs.

    `generation_config` keys beyond transformers': `beam_temperature` (divides the logits during beam search) and
    `repetition_window` (tokens the repetition penalty looks back, None for all).
    """

    def __init__(self, config):
        super().__init__(config)
        # generate() accepts as keyword arguments only keys its generation_config already has, and keys of its own
        # are dropped on reload from a configuration marked as derived from the model's.
        self.generation_config.update(beam_temperature=1.0, repetition_window=None, allow_custom_entries=True)
        self.generation_config._from_model_config = False

    def _language_model(self) -> CpmBeeModel:
        return getattr(self.model, "language_model", self.model)

    def generate(self, *args, **kwargs):
        """transformers' `generate()`, see there; takes the processor's output as keyword arguments."""
        subs = kwargs.get("ext_table_subs")
        if subs is not None and subs.shape[-1] > 1:
            # pipeline(batch_size=...) pads every input on the left, but columns count from the left; used ones have
            # running numbers above 0.
            columns = torch.arange(subs.shape[-1], device=subs.device)
            order = (columns + (subs > 0).int().argmax(dim=1, keepdim=True)) % subs.shape[-1]
            tables = ("ext_table_ids", "ext_table_subs", "ext_table_mask")
            kwargs.update({key: kwargs[key].gather(1, order) for key in tables if kwargs.get(key) is not None})
        return super().generate(*args, **kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids,
        next_sequence_length=None,
        past_key_values=None,
        attention_mask=None,
        inputs_embeds=None,
        **kwargs,
    ):
        if (
            past_key_values is not None
            and past_key_values.is_compileable
            and not isinstance(past_key_values, DynamicCache)
        ):
            # With a static cache transformers would build a plain causal mask. Ours is made here, outside of the
            # compiled forward, so that its shape never changes.
            prompt = input_ids if input_ids.shape[1] else inputs_embeds
            length = next_sequence_length or prompt.shape[1]
            attention_mask = self._language_model().attention_bias(
                past_key_values.get_seq_length(),
                length,
                past_key_values.get_mask_sizes(length, 0)[0],
                len(prompt),
                prompt.device,
                attention_mask=attention_mask,
                **{key: kwargs.get(key) for key in ("segment_ids", "context_mask", "segment_rel")},
            )
        return super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )

    def _lm_logits(self, hidden_states, ext_table_ids=None, ext_table_subs=None, ext_table_mask=None):
        """Logits `(batch, length, vocab_size + columns)`; columns that cannot be written get the original's -10000."""
        language_model = self._language_model()
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

    def _prefill(self, input_ids, generation_config, model_kwargs, is_first_iteration=True):
        if generation_config.prefill_chunk_size is not None:
            raise ValueError(
                "Got prefill_chunk_size, but this model's prompt is bidirectional and must be read in one piece; "
                "leave prefill_chunk_size unset."
            )
        return super()._prefill(input_ids, generation_config, model_kwargs, is_first_iteration=is_first_iteration)

    def _get_logits_processor(self, generation_config, input_ids_seq_length=None, model_kwargs=None, **kwargs):
        penalty, generation_config.repetition_penalty = generation_config.repetition_penalty, None
        try:
            theirs = super()._get_logits_processor(
                generation_config, input_ids_seq_length=input_ids_seq_length, model_kwargs=model_kwargs, **kwargs
            )
        finally:
            generation_config.repetition_penalty = penalty
        model_kwargs, ours = model_kwargs or {}, LogitsProcessorList()
        language_config = self._language_model().config
        if model_kwargs.get("unk_allowed") is not None:
            ours.append(UnknownTokenBan(language_config.unk_token_id, model_kwargs["unk_allowed"]))
        if penalty is not None and penalty != 1.0:
            ours.append(
                AnswerRepetitionPenalty(
                    penalty,
                    prompt_length=input_ids_seq_length or 0,
                    vocab_size=language_config.vocab_size,
                    window=getattr(generation_config, "repetition_window", None),
                    ext_table_ids=model_kwargs.get("ext_table_ids"),
                )
            )
        return LogitsProcessorList([*ours, *theirs])

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, *args, **kwargs):
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        cache = model_kwargs.get("past_key_values")
        if type(cache) is DynamicCache and not cache.offloading and not cache.get_seq_length():
            cache.layers = [GrowingCacheLayer() for _ in cache.layers]

    @torch.no_grad()
    def _beam_search(
        self, input_ids, logits_processor, stopping_criteria, generation_config, synced_gpus=False, **model_kwargs
    ):
        """The original's beam search (SPEC: VisCPM `CPMBeeBeamSearch._decode`) on a batch of prompts.

        A sample's prompt is read and kept once, not once per beam. Takes and returns what transformers'
        `_beam_search` does; sampling with beams is left to transformers.
        """
        if generation_config.do_sample:
            return super()._beam_search(
                input_ids, logits_processor, stopping_criteria, generation_config, synced_gpus, **model_kwargs
            )
        if (generation_config.repetition_penalty or 1.0) < 1:
            raise ValueError(
                f"Got repetition_penalty={generation_config.repetition_penalty}, expected at least 1; "
                "use 1.0 to switch the penalty off."
            )
        num_beams, length_penalty = generation_config.num_beams, generation_config.length_penalty
        temperature = getattr(generation_config, "beam_temperature", None) or 1.0
        batch_size, prompt_length = input_ids.shape[0] // num_beams, input_ids.shape[1]
        max_new_tokens = generation_config.max_length - prompt_length
        device = input_ids.device
        hypotheses = [BeamHypotheses(num_beams, length_penalty) for _ in range(batch_size)]
        done = [False] * batch_size

        # the beams of a sample start as copies of one prompt
        beams = BeamTree(self, model_kwargs, num_beams, max_new_tokens, generation_config)
        logits = beams.read_prompt(input_ids[::num_beams])
        beam_scores = torch.full((batch_size, num_beams), -1e9, device=device)
        beam_scores[:, 0] = 0.0  # all beams are equal at first: only one may propose
        for step in range(max_new_tokens):
            scores = logits_processor(input_ids, logits.to(device)) / temperature
            scores = nn.functional.log_softmax(scores, dim=-1) + beam_scores.view(-1, 1)
            # the best of each beam, beams side by side on a CPU's cores, then of all beams; best first
            count = min(2 * num_beams, scores.shape[-1])
            scores, tokens = scores.topk(count, dim=-1)
            scores, candidates = scores.view(batch_size, -1).topk(2 * num_beams, dim=-1)
            parents, tokens = candidates // count, tokens.view(batch_size, -1).gather(1, candidates)
            rows = (parents + torch.arange(0, len(input_ids), num_beams, device=device)[:, None]).flatten()
            sequences = torch.cat([input_ids[rows], tokens.view(-1, 1)], dim=1)
            finished = stopping_criteria(sequences, None).view(batch_size, -1)
            finished, score_list = torch.stack([finished.to(scores.dtype), scores]).tolist()  # one wait per step

            chosen = []  # flat indices of the candidates that become the next beams
            for sample in range(batch_size):
                first = sample * 2 * num_beams
                done[sample] = done[sample] or hypotheses[sample].is_done(score_list[sample][0], step)
                going_on = []
                if not done[sample]:
                    for rank in range(2 * num_beams):
                        if finished[sample][rank]:
                            hypotheses[sample].add(sequences[first + rank], score_list[sample][rank], step + 1)
                        else:
                            going_on.append(first + rank)
                        if len(going_on) == num_beams:
                            break  # what ends at a lower rank is not even considered
                    done[sample] = not going_on
                # a finished sample, or one whose candidates all ended, goes on with copies nobody looks at
                chosen += (going_on + [first] * num_beams)[:num_beams]
            if all(done) or step == max_new_tokens - 1:
                break

            chosen = torch.tensor(chosen, device=device).view(batch_size, num_beams)
            input_ids, beam_scores = sequences[chosen.flatten()], scores.view(-1)[chosen]
            logits = beams.read_next(tokens.reshape(-1)[chosen], parents.view(-1)[chosen])

        best = [
            hypothesis for sample in hypotheses for hypothesis in sample.best(generation_config.num_return_sequences)
        ]
        answer = nn.utils.rnn.pad_sequence(
            [sequence for _, sequence in best],
            batch_first=True,
            padding_value=generation_config._pad_token_tensor.item()
            if generation_config._pad_token_tensor is not None
            else 0,
        )
        if not generation_config.return_dict_in_generate:
            return answer
        return GenerateBeamDecoderOnlyOutput(
            sequences=answer,
            sequences_scores=torch.tensor([score for score, _ in best], device=device),
        )


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
        inputs_embeds: torch.FloatTensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        labels: torch.LongTensor | None = None,
        shift_labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast | tuple:
        """Logits for the next token; see `CpmBeeModel.forward` for the inputs.

        Args:
            ext_table_mask: 1 where the extension column may be written `(batch, columns)`.
            unk_allowed: Used by `generate()` only: whether `<unk>` may be written `(batch,)`.
            labels: Targets `(batch, length)` aligned with `input_ids`, -100 where there is none; shifted inside.
            shift_labels: Targets already shifted: the token after each position. Takes the place of `labels`.
            logits_to_keep: Compute logits for the last so many positions only, 0 for all.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            segment_ids=segment_ids,
            context_mask=context_mask,
            segment_rel=segment_rel,
            ext_table_ids=ext_table_ids,
            ext_table_subs=ext_table_subs,
            inputs_embeds=inputs_embeds,
            past_key_values=past_key_values,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self._lm_logits(outputs.last_hidden_state[:, kept], ext_table_ids, ext_table_subs, ext_table_mask)
        loss = self._lm_loss(logits, labels, shift_labels, **kwargs)
        output = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return output.to_tuple() if return_dict is False else output


# a saved copy carries these files, so that it loads where the package is not installed
CpmBeeForCausalLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["CpmBeeForCausalLM", "CpmBeeGenerationMixin"]
