"""The memory of CPM-Bee's generation: beams that share their prompt, and a cache that is not copied at every step."""

import torch
from torch import nn
from transformers.cache_utils import DynamicCache, DynamicLayer, StaticCache
from transformers.modeling_outputs import BaseModelOutputWithPooling


class GrowingCacheLayer(DynamicLayer):
    """Keys and values with room behind them, so that a new token is written down and not all earlier ones copied."""

    room = 64  # tokens

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.key_memory = self.value_memory = None

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.key_memory, self.keys = self._append(self.key_memory, self.keys, key_states)
        self.value_memory, self.values = self._append(self.value_memory, self.values, value_states)
        return self.keys, self.values

    def _append(self, memory, states, new):
        """The memory, a larger one if there was no room, and the part of it in use."""
        length = states.shape[-2] if states.numel() else 0
        end = length + new.shape[-2]
        if not self._fits(memory, states, end):
            memory = new.new_empty(*new.shape[:-2], end + self.room, new.shape[-1])
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
        generation_config (`GenerationConfig`): for the prompt, and for whether to compile.
    """

    def __init__(self, model, model_kwargs, num_beams, max_new_tokens, generation_config):
        self.model, self.num_beams, self.generation_config = model, num_beams, generation_config
        self.max_new_tokens = max_new_tokens
        self.inputs = _first_of_each(model_kwargs, num_beams) | {"use_cache": True}
        self.cache = model_kwargs.get("past_key_values")

    def read_prompt(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits `(batch * beams, width)` of the first token, from prompts `(batch, length)`."""
        prompt = input_ids if input_ids.shape[1] else self.inputs["inputs_embeds"]
        batch_size, self.prompt_length = prompt.shape[:2]
        self.cache = self._fitting_cache(self.cache)
        self.inputs["past_key_values"] = self.cache
        outputs = self.model._prefill(input_ids, self.generation_config, self.inputs)
        # where the tokens in the cache stand on their branches (batch, tokens), and on whose those of all beams lie
        self.position = torch.arange(self.prompt_length, device=prompt.device).expand(batch_size, -1)
        self.ancestors = input_ids.new_zeros((batch_size, self.num_beams, 0), dtype=torch.bool)
        self.length = self.prompt_length  # of each branch
        compiles = self.model._valid_auto_compile_criteria(self.inputs, self.generation_config)
        self.forward = (
            self.model.get_compiled_call(self.generation_config.compile_config) if compiles else self.model.__call__
        )
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
        bias = self.model._language_model().attention_bias(
            read - num_beams,
            num_beams,
            key_length,
            batch_size,
            tokens.device,
            **{key: self.inputs.get(key) for key in ("attention_mask", "segment_ids", "context_mask", "segment_rel")},
            position=nn.functional.pad(self.position, (0, key_length - read)),
            on_branch=nn.functional.pad(on_branch, (0, key_length - read)),
        )
        tables = ("ext_table_ids", "ext_table_subs", "ext_table_mask")
        outputs = self.forward(
            input_ids=tokens,
            attention_mask=bias,
            past_key_values=self.cache,
            use_cache=True,
            return_dict=True,
            **{key: self.inputs.get(key) for key in tables},
        )
        return outputs.logits.flatten(0, 1)

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
        if cache is None:
            return DynamicCache(config=self.model._language_model().config)
        needed = self.prompt_length + self.num_beams * (self.max_new_tokens - 1)
        if isinstance(cache, StaticCache) and cache.get_max_length() < needed:
            # transformers made room for one beam's tokens only
            return StaticCache(config=self.model._language_model().config, max_cache_len=needed)
        return cache


def _first_of_each(model_kwargs, num_beams):
    """The side inputs of one beam per sample."""
    first = {key: value[::num_beams] if torch.is_tensor(value) else value for key, value in model_kwargs.items()}
    if model_kwargs.get("mm_encoder_outputs"):
        first["mm_encoder_outputs"] = {
            modality: BaseModelOutputWithPooling(pooler_output=output.pooler_output[::num_beams])
            for modality, output in model_kwargs["mm_encoder_outputs"].items()
        }
    return first


__all__ = ["BeamTree", "GrowingCacheLayer"]
