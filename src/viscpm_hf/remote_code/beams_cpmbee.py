"""The original's beam search, with beams that share their prompt and a cache that is not copied at every step."""

from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, StaticCache
from transformers.generation import GenerateBeamDecoderOnlyOutput, StoppingCriteriaList

from .modeling_cpmbee import CACHE


class GrowingCacheLayer(DynamicLayer):
    """Keys and values with room behind them, so that a new token is written down and not all earlier ones copied."""

    room = 64  # tokens

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.key_memory = self.value_memory = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length = self._read_length(self.get_seq_length(), key_states.shape[-2])
        self.key_memory, self.keys = self._append(self.key_memory, self.keys, key_states)
        self.value_memory, self.values = self._append(self.value_memory, self.values, value_states)
        return self.key_memory[..., :length, :], self.value_memory[..., :length, :]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._read_length(self.get_seq_length(), query_length), 0

    def _read_length(self, length, new):
        """How many tokens attention is given, of which the last may be room that the bias hides.

        On a GPU a multiple of `room` once there is a prompt: for each other number cuDNN makes a kernel anew, which
        takes longer than all other work for a token (on an H200, torch 2.11: 70 ms instead of 33).
        """
        end = length + new
        return self._rounded(end) if length and self.keys.is_cuda else end

    def _rounded(self, length):
        return -(-length // self.room) * self.room

    def _append(self, memory, states, new):
        """The memory, a larger one if there was no room, and the part of it in use."""
        length = states.shape[-2] if states.numel() else 0
        end = length + new.shape[-2]
        if not self._fits(memory, states, end):
            memory = new.new_zeros(*new.shape[:-2], self._rounded(end + self.room), new.shape[-1])
            if length:
                memory[..., :length, :] = states
        memory[..., length:end, :] = new
        return memory, memory[..., :end, :]

    @staticmethod
    def _fits(memory, states, end):
        # whoever selects or repeats rows leaves a copy in `states`, which is then no longer the start of the memory
        return memory is not None and memory.data_ptr() == states.data_ptr() and end <= memory.shape[-2]

    def has_room(self, count: int) -> bool:
        """Whether as many tokens can be written down before everything has to move."""
        return self._fits(self.key_memory, self.keys, self.keys.shape[-2] + count)

    def keep(self, start: int, index: torch.Tensor) -> None:
        """Keeps, of the tokens from `start` on, those of `index` (batch, kept), in that order."""
        self.keys, self.values = self._kept(self.keys, start, index), self._kept(self.values, start, index)

    @staticmethod
    def _kept(states, start, index):
        index = index.to(states.device)[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
        end = start + index.shape[2]
        states[..., start:end, :] = states[..., start:, :].gather(2, index)
        return states[..., :end, :]


def with_room(cache: Cache, config: PreTrainedConfig) -> Cache:
    """The cache itself, if it is an empty `DynamicCache` with room behind what it will hold.

    Args:
        cache (`Cache`): any.
        config (`CpmBeeConfig`): of the language model.
    """
    if type(cache) is DynamicCache and not cache.offloading and not cache.get_seq_length():
        cache.layers = [GrowingCacheLayer() for _ in range(config.num_hidden_layers)]
    return cache


class BeamTree:
    """Reads a batch of prompts, then token after token of their beams; all beams of a sample are one row.

    A step's tokens of a sample's beams go through the model side by side, and their keys and values follow the
    earlier ones in the cache. Nothing is copied when beams change places: the attention bias hides from each beam
    what does not lie on its own branch, and counts distances along it (the tree attention of SpecInfer, 2023). Before
    the cache grows, what no longer lies on any branch is dropped from it.

    Args:
        model: with a head, of `CpmBeeGenerationMixin`.
        model_kwargs (`dict`): of `generate()`, for all beams.
        num_beams (`int`): beams of each sample.
        max_new_tokens (`int`): tokens of each beam, of which the last is not read.
        generation_config (`GenerationConfig`): for whether to compile.
        device (`torch.device`): of the tokens to read.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        model_kwargs: dict,
        num_beams: int,
        max_new_tokens: int,
        generation_config: GenerationConfig,
        device: torch.device,
    ):
        self.model, self.num_beams, self.generation_config = model, num_beams, generation_config
        self.language_model = model.get_decoder()
        self.max_new_tokens = max_new_tokens
        # the side inputs of one beam for each sample
        self.inputs = {
            key: value[::num_beams].to(device) if torch.is_tensor(value) else value
            for key, value in model_kwargs.items()
            if key not in (CACHE, "use_cache")
        }
        self.cache = model_kwargs.get(CACHE)

    def read_prompt(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits `(batch * beams, width)` of the first token, from prompts `(batch, length)`."""
        prompt = input_ids if input_ids.shape[1] else self.inputs["inputs_embeds"]
        batch_size, self.prompt_length = prompt.shape[:2]
        self.cache = self._fitting_cache(self.cache)
        inputs = dict(self.inputs)
        # of a prompt continued with its cache only the end is new
        if input_ids.shape[1]:
            inputs |= {"input_ids": input_ids[:, self.cache.get_seq_length() :], "inputs_embeds": None}
        outputs = self._read(self.model, **inputs)
        # where the tokens in the cache stand on their branches (batch, tokens), and on whose those of all beams lie
        self.position = torch.arange(self.prompt_length, device=prompt.device).expand(batch_size, -1)
        self.ancestors = input_ids.new_zeros((batch_size, self.num_beams, 0), dtype=torch.bool)
        self.length = self.prompt_length  # of each branch
        self.forward = (
            self.model.get_compiled_call(self.generation_config.compile_config) if self._compiles() else self.model
        )
        self.states = self._for_each_beam(outputs.hidden_states), self._for_each_beam(outputs.attentions)
        return outputs.logits[:, -1].repeat_interleave(self.num_beams, dim=0)

    def read_next(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """Logits `(batch * beams, width)` after `tokens`, by which beams `parents` go on, both `(batch, beams)`."""
        batch_size, num_beams = tokens.shape
        itself = torch.eye(num_beams, dtype=torch.bool, device=tokens.device).expand(batch_size, -1, -1)
        inherited = self.ancestors.gather(1, parents[..., None].expand_as(self.ancestors))
        inherited = self._without_dead_branches(inherited)
        self.ancestors = torch.cat([inherited, itself], dim=2)  # (batch, beams, tokens of all beams)
        self.position = nn.functional.pad(self.position, (0, num_beams), value=self.length)
        self.length += 1

        read = self.position.shape[1]
        key_length = self.cache.get_mask_sizes(num_beams, 0)[0]
        on_branch = nn.functional.pad(self.ancestors, (self.prompt_length, 0), value=True)
        bias = self.language_model.attention_bias(
            read - num_beams,
            num_beams,
            key_length,
            batch_size,
            tokens.device,
            **{key: self.inputs.get(key) for key in ("attention_mask", "segment_ids", "context_mask", "segment_rel")},
            position=nn.functional.pad(self.position, (0, key_length - read)),
            on_branch=nn.functional.pad(on_branch, (0, key_length - read)),
        )
        kept = ("ext_table_ids", "ext_table_subs", "ext_table_mask", "output_hidden_states", "output_attentions")
        outputs = self._read(
            self.forward, input_ids=tokens, attention_mask=bias, **{key: self.inputs.get(key) for key in kept}
        )
        self.states = self._beams_as_rows(outputs)
        return outputs.logits.flatten(0, 1)

    def branches(self, parents: torch.Tensor) -> DynamicCache:
        """The cache of beams `parents` (batch, beams) as transformers keeps it: a row for each beam of each sample."""
        branch = self._branch()
        branch = branch.gather(1, parents[..., None].expand(-1, -1, branch.shape[2]))
        separate = DynamicCache(config=self.language_model.config)
        for index, layer in enumerate(self.cache.layers):
            rows = (_taken(states, branch) for states in (layer.keys, layer.values))
            separate.update(*(states.transpose(1, 2).flatten(0, 1) for states in rows), index)
        return separate

    def _read(self, forward, **inputs):
        return forward(**inputs, **{CACHE: self.cache}, use_cache=True, return_dict=True)

    def _branch(self):
        """Where in the cache each beam's tokens are, in their order (batch, beams, length of each branch)."""
        answers = self.ancestors.nonzero()[:, 2].view(*self.ancestors.shape[:2], -1) + self.prompt_length
        prompt = torch.arange(self.prompt_length, device=answers.device)
        return torch.cat([prompt.expand(*answers.shape[:2], -1), answers], dim=2)

    def _for_each_beam(self, states):
        return states and tuple(state.repeat_interleave(self.num_beams, dim=0) for state in states)

    def _beams_as_rows(self, outputs):
        """Hidden states `(batch * beams, 1, hidden)`, attentions `(batch * beams, heads, 1, keys)`, of each layer."""
        hidden_states, attentions = outputs.hidden_states, outputs.attentions
        if hidden_states is not None:
            # copies: where it is compiled, the next step writes to where these are
            hidden_states = tuple(state.flatten(0, 1)[:, None].clone() for state in hidden_states)
        if attentions is not None:  # of the keys those on the own branch
            index = self._branch()[:, None].expand(-1, attentions[0].shape[1], -1, -1)
            attentions = tuple(
                weights.gather(3, index.to(weights.device)).transpose(1, 2).flatten(0, 1)[:, :, None]
                for weights in attentions
            )
        return hidden_states, attentions

    def _compiles(self):
        """Whether the steps run compiled: as transformers decides it for greedy search."""
        config, devices = self.generation_config, set(getattr(self.model, "hf_device_map", {}).values())
        quantizer = getattr(self.model, "hf_quantizer", None)
        return (
            self.cache.is_compileable
            and type(self.cache) is not DynamicCache
            and not config.disable_compile
            and (config.compile_config is not None or self.model.device.type in ("cuda", "xpu"))
            and (quantizer is None or quantizer.is_compileable)
            and "disk" not in devices
            and not ("cpu" in devices and len(devices) > 1)
        )

    def _without_dead_branches(self, ancestors):
        """`ancestors` (batch, beams, tokens) of the tokens that are left, if there was no room for more."""
        layers = self.cache.layers  # all alike
        if type(layers[0]) is not GrowingCacheLayer or layers[0].has_room(self.num_beams):
            return ancestors
        alive = ancestors.any(dim=1)
        count = int(alive.sum(dim=1).max())
        if alive.shape[1] - count < GrowingCacheLayer.room // 2:  # moving everything would soon be needed again
            return ancestors
        # those alive first, in their order; where a sample has fewer than another, dead ones that nobody sees follow
        index = alive.int().argsort(dim=1, descending=True, stable=True)[:, :count]
        for layer in layers:
            layer.keep(self.prompt_length, index)
        prompt, answers = self.position.tensor_split([self.prompt_length], dim=1)
        self.position = torch.cat([prompt, answers.gather(1, index)], dim=1)
        return ancestors.gather(2, index[:, None].expand(-1, self.num_beams, -1))

    def _fitting_cache(self, cache):
        config = self.language_model.config
        if cache is None:
            return with_room(DynamicCache(config=config), config)
        needed = self.prompt_length + self.num_beams * (self.max_new_tokens - 1)
        if isinstance(cache, StaticCache) and cache.get_max_length() < needed:
            # transformers made room for one beam's tokens only
            return StaticCache(config=config, max_cache_len=needed)
        return cache


def _taken(states, index):
    """Of `states` (batch, heads, tokens, size) those of `index` (batch, beams, kept): (batch, heads, beams, …)."""
    size, beams = states.shape[3], index.shape[1]
    index = index.to(states.device).flatten(1)[:, None, :, None].expand(-1, states.shape[1], -1, size)
    return states.gather(2, index).unflatten(2, (beams, -1))


class BeamHypotheses:
    """The best `num_beams` finished answers of one sample, scored by log-probability / length ** length_penalty."""

    def __init__(self, num_beams: int, length_penalty: float, early_stopping: bool = False):
        self.num_beams, self.length_penalty, self.early_stopping = num_beams, length_penalty, early_stopping
        self.kept: list[tuple] = []  # (score, sequence, beams it came from)
        self.worst = 1e9

    def add(
        self, sequence: torch.Tensor, log_probability: float, length: int, beams: torch.Tensor | None = None
    ) -> None:
        score = log_probability / length**self.length_penalty
        if len(self.kept) < self.num_beams or score > self.worst:
            self.kept.append((score, sequence, beams))
            if len(self.kept) > self.num_beams:
                # of equal scores the older goes first
                self.kept.pop(min(range(len(self.kept)), key=lambda i: (self.kept[i][0], i)))
                self.worst = min(score for score, *_ in self.kept)
            else:
                self.worst = min(self.worst, score)

    def is_done(self, best_log_probability: float, step: int) -> bool:
        """Whether no open beam can still win; the original divides by the 0-based step, not by the length."""
        if len(self.kept) < self.num_beams:
            return False
        return self.early_stopping or self.worst >= best_log_probability / step**self.length_penalty

    def best(self, count: int) -> list[tuple]:
        return sorted(self.kept, key=lambda hypothesis: -hypothesis[0])[:count]


class BeamRecord:
    """What `return_dict_in_generate` asks of a search, in the form that transformers' beam search gives it."""

    def __init__(self, generation_config: GenerationConfig):
        asked = ("output_scores", "output_logits", "output_hidden_states", "output_attentions")
        scores, logits, hidden_states, attentions = (getattr(generation_config, name) for name in asked)
        self.steps = {"scores": scores, "logits": logits, "hidden_states": hidden_states, "attentions": attentions}
        self.steps = {name: [] for name, wanted in self.steps.items() if wanted}

    def add(self, **step: Any) -> None:
        for name, values in self.steps.items():
            values.append(step[name])

    def outputs(self) -> dict:
        return {name: tuple(values) for name, values in self.steps.items()}


@torch.no_grad()
def beam_search(
    model: PreTrainedModel,
    input_ids: torch.LongTensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    beam_temperature: float = 1.0,
    **model_kwargs: Any,
) -> torch.Tensor | GenerateBeamDecoderOnlyOutput:
    """The original's beam search (SPEC: VisCPM `CPMBeeBeamSearch._decode`) on a batch of prompts.

    A sample's prompt is read and kept once, not once per beam. A function for the argument `custom_generate` of
    transformers' `generate()`, which prepares the arguments and repeats each prompt for its beams.

    Args:
        beam_temperature (`float`): divides the logits after the processors.

    Returns:
        Ids `(batch * num_return_sequences, prompt and answer)`, or `GenerateBeamDecoderOnlyOutput`.
    """
    num_beams, length_penalty = generation_config.num_beams, generation_config.length_penalty
    batch_size, prompt_length = input_ids.shape[0] // num_beams, input_ids.shape[1]
    max_new_tokens = generation_config.max_length - prompt_length
    device = model.get_input_embeddings().weight.device
    if device.type == "meta":  # weights are brought in when needed, to where the inputs are
        device = input_ids.device
    input_ids = input_ids.to(device)
    hypotheses = [
        BeamHypotheses(num_beams, length_penalty, bool(generation_config.early_stopping)) for _ in range(batch_size)
    ]
    done = [False] * batch_size
    record = BeamRecord(generation_config) if generation_config.return_dict_in_generate else None
    lineage = input_ids.new_empty(len(input_ids), 0)  # the row each token of a beam was chosen from

    # the beams of a sample start as copies of one prompt
    beams = BeamTree(model, model_kwargs, num_beams, max_new_tokens, generation_config, device)
    logits = beams.read_prompt(input_ids[::num_beams])
    beam_scores = torch.full((batch_size, num_beams), -1e9, device=device)
    beam_scores[:, 0] = 0.0  # all beams are equal at first: only one may propose
    for step in range(max_new_tokens):
        logits = logits.to(device)
        scores = logits_processor(input_ids, logits) / beam_temperature
        scores = nn.functional.log_softmax(scores, dim=-1)
        if record is not None:
            hidden_states, attentions = beams.states
            record.add(scores=scores, logits=logits.clone(), hidden_states=hidden_states, attentions=attentions)
        scores = scores + beam_scores.view(-1, 1)
        # the best of each beam, beams side by side on a CPU's cores, then of all beams; best first
        count = min(2 * num_beams, scores.shape[-1])
        scores, tokens = scores.topk(count, dim=-1)
        scores, candidates = scores.view(batch_size, -1).topk(2 * num_beams, dim=-1)
        parents, tokens = candidates // count, tokens.view(batch_size, -1).gather(1, candidates)
        rows = (parents + torch.arange(0, len(input_ids), num_beams, device=device)[:, None]).flatten()
        sequences = torch.cat([input_ids[rows], tokens.view(-1, 1)], dim=1)
        if record is not None:
            lineage = torch.cat([lineage[rows], rows[:, None]], dim=1)
        so_far = tuple(record.steps["scores"]) if record is not None and "scores" in record.steps else None
        finished = stopping_criteria(sequences, so_far).view(batch_size, -1)
        finished, score_list = torch.stack([finished.to(scores.dtype), scores]).tolist()  # one wait per step
        if any(ranked[0] != ranked[0] for ranked in score_list):
            raise ValueError(
                "Got logits that are not numbers: from the weights in this precision, picture features, or a "
                "logits_processor."
            )

        chosen = []  # flat indices of the candidates that become the next beams
        for sample in range(batch_size):
            first = sample * 2 * num_beams
            done[sample] = done[sample] or hypotheses[sample].is_done(score_list[sample][0], step)
            going_on = []
            if not done[sample]:
                for rank in range(2 * num_beams):
                    if finished[sample][rank]:
                        came_from = lineage[first + rank] if record is not None else None
                        hypotheses[sample].add(sequences[first + rank], score_list[sample][rank], step + 1, came_from)
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
        if record is not None:
            lineage = lineage[chosen.flatten()]
        logits = beams.read_next(tokens.reshape(-1)[chosen], parents.view(-1)[chosen])

    best = [hypothesis for sample in hypotheses for hypothesis in sample.best(generation_config.num_return_sequences)]
    answer = nn.utils.rnn.pad_sequence(
        [sequence for _, sequence, _ in best], batch_first=True, padding_value=generation_config.pad_token_id or 0
    )
    if record is None:
        return answer
    return GenerateBeamDecoderOnlyOutput(
        sequences=answer,
        sequences_scores=torch.tensor([score for score, *_ in best], device=device),
        beam_indices=nn.utils.rnn.pad_sequence(
            [came_from for *_, came_from in best], batch_first=True, padding_value=-1
        ),
        **record.outputs(),
        # of the beams that the last step's best candidates continue
        **({CACHE: beams.branches(parents[:, :num_beams])} if generation_config.use_cache else {}),
    )


__all__ = ["BeamHypotheses", "BeamTree", "GrowingCacheLayer", "beam_search", "with_room"]
