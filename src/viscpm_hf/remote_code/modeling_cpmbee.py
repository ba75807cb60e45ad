"""CPM-Bee, the bilingual language model under VisCPM: configuration and model.

* a prefix language model: context tokens see each other in both directions, answer tokens see the context and what
  was answered before them;
* attention is biased by distance inside a segment and by the relation of two segments' places in the data tree;
* every linear layer carries a factor 1/sqrt(fan_in) in its forward pass, so weights have unit scale;
* words outside the vocabulary become extension tokens: the embedding of a base token, rotated by a running number.

Configuration and model share one file because diffusers fetches a single .py for a component with weights.
"""

import dataclasses
import math
import os
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import can_return_tuple

# what this version of transformers calls the cache in arguments and outputs: renamed in 5.24
CACHE = next(
    field.name for field in dataclasses.fields(BaseModelOutputWithPast) if field.name in ("cache", "past_key_values")
)


@strict
class CpmBeeConfig(PreTrainedConfig):
    """Sizes of a CPM-Bee model; the defaults are CPM-Bee-10B as published with VisCPM.

    Args:
        vocab_size (`int`, defaults to 86583): Entries of the vocabulary; ids from here on are extension tokens.
        hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, head_dim (`int`):
            Sizes; `num_attention_heads * head_dim` need not equal `hidden_size`.
        rms_norm_eps (`float`, defaults to 1e-6): Added to the mean square in every norm.
        position_bias_num_buckets (`int`, defaults to 256): Rows of the bias table for distances inside a segment.
        position_bias_num_segment_buckets (`int`, defaults to 256): Rows for relations between segments.
        position_bias_max_distance (`int`, defaults to 2048): Distance in tokens from which all share one bucket.
        rotary_dtype (`str`, defaults to "float16"): Precision of the angles that number extension tokens. The
            published model computed them in float16 whatever the weights' dtype, and they differ visibly from
            float32 ones, so this is part of the model.
        scale_down_proj_input (`bool`, defaults to `True`): Divide before `down_proj` (VisCPM) or after it (CPM-Bee).
        logit_scale (`float`, *optional*): Factor of the logits over the vocabulary, 1/sqrt(hidden_size) by default.
            Training libraries that compute logits from the head's weights, such as TRL, look for it here.
    """

    model_type = "cpmbee"
    base_config_key = "text_config"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]

    vocab_size: int = 86583
    hidden_size: int = 4096
    intermediate_size: int = 10240
    num_hidden_layers: int = 48
    num_attention_heads: int = 32
    head_dim: int = 128
    rms_norm_eps: float = 1e-6
    position_bias_num_buckets: int = 256
    position_bias_num_segment_buckets: int = 256
    position_bias_max_distance: int = 2048
    rotary_dtype: str = "float16"
    scale_down_proj_input: bool = True
    logit_scale: float | None = None
    use_cache: bool = True
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    unk_token_id: int | None = 1
    bos_token_id: int | None = 6
    eos_token_id: int | list[int] | None = 7

    def __post_init__(self, **kwargs):
        if self.logit_scale is None:
            self.logit_scale = self.hidden_size**-0.5
        super().__post_init__(**kwargs)


class CpmBeeScaledEmbedding(nn.Embedding):
    """Token embeddings `(…, hidden)` over sqrt(hidden), so that what this layer returns are the model's inputs."""

    @property
    def embed_scale(self) -> float:  # peft scales an adapter of this layer by it
        return self.embedding_dim**-0.5

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        try:
            return super().forward(input_ids) / math.sqrt(self.embedding_dim)
        except IndexError as error:
            raise ValueError(
                f"Got ids outside of 0 to {self.num_embeddings - 1}: those of unknown words need ext_table_ids and "
                "ext_table_subs, so hand over all that the processor or tokenizer returned."
            ) from error


class CpmBeeRMSNorm(nn.Module):
    def __init__(self, hidden_size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        variance = hidden_states.float().pow(2).mean(-1, keepdim=True)
        normed = (hidden_states * torch.rsqrt(variance + self.variance_epsilon)).to(hidden_states.dtype)
        return normed * self.weight


class CpmBeePositionBias(nn.Module):
    """Attention bias from the distance inside a segment or from the relation of two segments."""

    def __init__(self, config: CpmBeeConfig):
        super().__init__()
        self.num_buckets = config.position_bias_num_buckets
        self.max_distance = config.position_bias_max_distance
        self.relative_attention_bias = nn.Embedding(
            config.position_bias_num_buckets + config.position_bias_num_segment_buckets, config.num_attention_heads
        )

    def distance_bucket(self, distance: torch.Tensor) -> torch.Tensor:
        """Bucket of each distance (key - query position, in tokens): exact when near, logarithmic when far."""
        half = self.num_buckets // 2
        exact = half // 2
        magnitude = distance.abs()
        # clamped so that the unused branch of `where` stays finite; this order of float32 operations is the original's
        logarithm = torch.log(magnitude.clamp(min=exact).float() / exact)
        far = exact + (logarithm / math.log(self.max_distance / exact) * (half - exact)).to(torch.int32)
        return torch.where(magnitude < exact, magnitude, far.clamp(max=half - 1)) + (distance > 0) * half

    def forward(self, relation: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
        """Bias `(batch, heads, queries, keys)` of `relation` and `distance` (batch or without, queries, keys)."""
        row = torch.where(relation == 0, self.distance_bucket(distance), self.num_buckets - 1 + relation)
        return self.relative_attention_bias(row).permute(0, 3, 1, 2)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class CpmBeeAttention(nn.Module):
    is_causal = False  # the mask says everything; without one (a single token) nothing is hidden

    def __init__(self, config: CpmBeeConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.scaling = config.head_dim**-0.5
        inner_size = config.num_attention_heads * config.head_dim
        self.input_scale = math.sqrt(config.hidden_size)
        self.output_scale = math.sqrt(inner_size)
        # Plain nn.Linear with the factor in the caller: quantizers replace exactly this type, and LoRA merges exactly.
        self.q_proj = nn.Linear(config.hidden_size, inner_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, inner_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, inner_size, bias=False)
        self.o_proj = nn.Linear(inner_size, config.hidden_size, bias=False)

    def project(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key and value, each `(batch, length, heads * head_dim)`; they share what prepares their input."""
        return self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_bias: torch.Tensor,
        query_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        hidden_states = hidden_states / self.input_scale  # the original divides the three products, each longer
        query, key, value = (states.view(heads).transpose(1, 2) for states in self.project(hidden_states))
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)

        # only the eager form has weights to show
        implementation = "eager" if output_attentions else self.config._attn_implementation
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        output, weights = attention(
            self, query, key, value, attention_bias, scaling=self.scaling, dropout=0.0, is_causal=False
        )
        output = output.reshape(*hidden_states.shape[:-1], -1)
        if query_mask is not None:
            output = output * query_mask  # the original adds zero at padded rows
        return self.o_proj(output) / self.output_scale, weights


class CpmBeeMLP(nn.Module):
    def __init__(self, config: CpmBeeConfig):
        super().__init__()
        self.input_scale = math.sqrt(config.hidden_size)
        self.output_scale = math.sqrt(config.intermediate_size)
        self.scale_down_proj_input = config.scale_down_proj_input
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def project(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gate and value of each inner unit, `(batch, length, intermediate_size)`."""
        return self.gate_proj(hidden_states), self.up_proj(hidden_states)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = hidden_states / self.input_scale  # the original divides the two products, each longer
        gate, hidden_states = self.project(hidden_states)
        hidden_states = nn.functional.gelu(gate) * hidden_states
        if self.scale_down_proj_input:  # VisCPM divides first: in float16 the product would overflow otherwise
            return self.down_proj(hidden_states.div_(self.output_scale))
        return self.down_proj(hidden_states) / self.output_scale


class CpmBeeDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: CpmBeeConfig, layer_idx: int):
        super().__init__()
        self.input_layernorm = CpmBeeRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = CpmBeeAttention(config, layer_idx)
        self.post_attention_layernorm = CpmBeeRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = CpmBeeMLP(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_bias: torch.Tensor,
        query_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        attention, weights = self.self_attn(
            self.input_layernorm(hidden_states), attention_bias, query_mask, cache, output_attentions
        )
        hidden_states = (hidden_states + attention).div_(1.05)  # the original damps every residual sum
        hidden_states = (hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))).div_(1.05)
        return hidden_states, weights


class CpmBeePreTrainedModel(PreTrainedModel):
    config: CpmBeeConfig
    config_class = CpmBeeConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CpmBeeDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_sdpa = True
    _supports_flash_attn = False  # neither kernel takes a learned additive bias
    _supports_flex_attn = False
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            init.normal_(module.weight, mean=0.0, std=1.0)  # unit scale: the 1/sqrt(fan_in) is in the forward pass
        elif isinstance(module, CpmBeeRMSNorm):
            init.ones_(module.weight)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Refuses another size: ids from `vocab_size` on are the unknown words of a text.

        Raises:
            ValueError: If the size asked for is not the present one.
        """
        return same_embeddings(self, new_num_tokens, pad_to_multiple_of)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """See `PreTrainedModel.save_pretrained`; quantized weights are written as they are, to be loaded again."""
        super().save_pretrained(save_directory, *args, **as_quantized(self, kwargs))


def as_quantized(model: PreTrainedModel, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keywords for `save_pretrained`: what loading quantized weights did cannot be undone, and need not be."""
    if getattr(model.config, "quantization_config", None) is None:
        return kwargs
    return {"save_original_format": False} | kwargs


def one_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """The cache under either of its names; two of them are a ValueError, as one would be left out without a word."""
    if cache is not None and past_key_values is not None and cache is not past_key_values:
        raise ValueError(
            "Got two caches, as cache and as past_key_values, expected one. Prefix tuning by a peft that does not "
            "know the newer name gives both: use LoRA."
        )
    return past_key_values if cache is None else cache


def check_embeddings(
    inputs_embeds: torch.Tensor | None, segment_ids: torch.Tensor | None, cache: Cache | None
) -> None:
    """Raises a ValueError if a prompt has more embeddings than segments: which of them are the new ones?"""
    if inputs_embeds is None or segment_ids is None or inputs_embeds.shape[1] <= segment_ids.shape[1]:
        return
    if cache is None or not cache.get_seq_length():
        raise ValueError(
            f"Got {inputs_embeds.shape[1]} embeddings and segment_ids of {segment_ids.shape[1]} tokens, expected as "
            "many. Prompt tuning puts embeddings before the prompt that are in no segment: use LoRA, or input_ids and "
            "attention_mask alone."
        )


def same_embeddings(model: PreTrainedModel, new_num_tokens: int | None, pad_to_multiple_of: int | None) -> nn.Module:
    """The input embeddings of a model with CPM-Bee inside, if their number is to stay what it is."""
    embeddings, multiple = model.get_input_embeddings(), pad_to_multiple_of or 1
    size = model.config.get_text_config().vocab_size
    wanted = -(-(new_num_tokens or size) // multiple) * multiple
    if wanted != size:
        raise ValueError(
            f"Got {wanted} as the number of token embeddings, expected {size}: ids from {size} on are the unknown "
            "words of a text, so vocabulary and embeddings keep their size. Leave out resize_token_embeddings."
        )
    return embeddings


class CpmBeeModel(CpmBeePreTrainedModel):
    """The CPM-Bee stack without a head.

    Inputs beyond `input_ids` come from `CpmBeeTokenizer`; without them all tokens form one causal segment.

    Source: CPM-Bee (OpenBMB, 2023) with VisCPM's changes to the feed-forward scale and the rotary precision.
    """

    def __init__(self, config: CpmBeeConfig):
        super().__init__(config)
        self.embed_tokens = CpmBeeScaledEmbedding(config.vocab_size, config.hidden_size)
        self.position_bias = CpmBeePositionBias(config)
        self.layers = nn.ModuleList([CpmBeeDecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        self.norm = CpmBeeRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def extension_embeddings(self, ext_table_ids: torch.Tensor, ext_table_subs: torch.Tensor) -> torch.Tensor:
        """Embeddings `(batch, columns, hidden)` of extension tokens: their base token's, rotated by running number."""
        embeddings = self.embed_tokens(ext_table_ids)
        # The frequencies are float32 numbers rounded to the rotary dtype; everything after stays in it (see config).
        dtype, size = getattr(torch, self.config.rotary_dtype), self.config.hidden_size
        frequency = 1.0 / (10000 ** (torch.arange(0, size, 2, device=embeddings.device, dtype=torch.float32) / size))
        angle = (16 * ext_table_subs).to(dtype)[..., None] * frequency.to(dtype)
        cos, sin = angle.cos(), angle.sin()
        first, second = embeddings.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(embeddings.dtype)

    def embed(
        self,
        input_ids: torch.LongTensor,
        ext_table_ids: torch.LongTensor | None = None,
        ext_table_subs: torch.LongTensor | None = None,
    ) -> torch.Tensor:
        """Embeddings `(batch, length, hidden)`; the id `vocab_size + i` means column i of the sample's table."""
        if ext_table_ids is None or ext_table_ids.shape[-1] == 0:
            return self.embed_tokens(input_ids)
        column = (input_ids - self.config.vocab_size).clamp(min=0)[..., None].expand(-1, -1, self.config.hidden_size)
        extension = self.extension_embeddings(ext_table_ids, ext_table_subs).gather(1, column)
        known = self.embed_tokens(input_ids.clamp(max=self.config.vocab_size - 1))
        return torch.where((input_ids >= self.config.vocab_size)[..., None], extension, known)

    def attention_bias(
        self,
        past_length: int | torch.Tensor,
        query_length: int,
        key_length: int,
        batch_size: int,
        device: torch.device,
        attention_mask: torch.Tensor | None = None,
        segment_ids: torch.Tensor | None = None,
        context_mask: torch.Tensor | None = None,
        segment_rel: torch.Tensor | None = None,
        position: torch.Tensor | None = None,
        on_branch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Position bias and mask in one additive tensor `(batch, heads, queries, keys)`.

        Args:
            past_length, query_length, key_length: Tokens in the cache, new ones, and both together.
            batch_size: Rows.
            device: Where to make it.
            attention_mask, segment_ids, context_mask, segment_rel: See `forward`. They may be shorter than
                `key_length`: generated tokens belong to the last segment, are answer tokens and are never padding.
            position: Of which distances are differences, `(keys,)` or `(batch, keys)`; by default the place in the
                cache: the original restarts positions at the answer, but only distances inside one segment are ever
                looked up.
            on_branch: `(batch, queries, keys)`, False where several answers lie in one row and a key is not the
                query's.
        """
        position = torch.arange(key_length, device=device) if position is None else position
        queries = torch.arange(query_length, device=device) + past_length

        def extend(side_input, fill):
            if side_input is None:
                return torch.full((batch_size, key_length), fill or 0, device=device)
            missing = key_length - side_input.shape[1]
            tail = side_input[:, -1:] if fill is None else torch.full_like(side_input[:, -1:], fill)
            return torch.cat([side_input, tail.expand(-1, missing)], dim=1) if missing > 0 else side_input

        segment, context = extend(segment_ids, None), extend(context_mask, 0).bool()
        distance = position[..., None, :] - position[..., queries, None]  # (queries, keys), or one for each sample
        visible = context[:, None, :] | (~context[:, queries, None] & (distance <= 0))  # (batch, queries, keys)
        if on_branch is not None:
            visible = visible & on_branch
        if attention_mask is not None:
            real = extend(attention_mask, 1).bool()
            # a padded query may look anywhere: its output is dropped, and a row without any key would be NaN
            visible = (visible & real[:, None, :]) | ~real[:, queries, None]

        if segment_rel is None:
            relation = torch.zeros_like(visible, dtype=torch.long)
        else:
            rows = segment_rel.gather(1, segment[:, queries, None].expand(-1, -1, segment_rel.shape[-1]))
            relation = rows.gather(2, segment[:, None, :].expand(-1, query_length, -1))
        bias = self.position_bias(relation, distance).to(device)
        return bias.masked_fill_(~visible[:, None], torch.finfo(bias.dtype).min).contiguous()

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
        inputs_embeds: torch.FloatTensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast | tuple:
        """Run the stack.

        Args:
            input_ids: Token ids `(batch, length)`; `vocab_size + i` is column i of the sample's extension table.
            attention_mask: `(batch, length so far)`, 1 for real tokens, 0 for padding on either side; or a finished
                additive bias `(batch, heads, length, keys)` as `attention_bias` returns it.
            segment_ids: Segment of each token `(batch, length so far)`.
            context_mask: 1 for context tokens, 0 for answer tokens `(batch, length so far)`.
            segment_rel: Relation of query segment to key segment `(batch, segments, segments)`, 0 for the same.
            ext_table_ids, ext_table_subs: Base id and running number of each extension column `(batch, columns)`.
            inputs_embeds: What `embed_tokens` returns `(batch, length, hidden)`, in place of `input_ids`.
            cache, past_key_values: Keys and values of earlier tokens; two names for one thing.
            use_cache, output_hidden_states, output_attentions: What to return beside the last states; by default as
                the configuration says.

        Returns:
            Hidden states after the final norm `(batch, length, hidden)`, the cache, and what was asked for.

        Raises:
            ValueError: If neither or both of `input_ids` and `inputs_embeds` are given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Got both or neither of input_ids and inputs_embeds; pass exactly one of them.")
        hidden_states = (
            self.embed(input_ids, ext_table_ids, ext_table_subs) if inputs_embeds is None else inputs_embeds
        )
        batch_size, query_length = hidden_states.shape[:2]
        output_hidden_states = (
            self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        )
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        use_cache = self.config.use_cache if use_cache is None else use_cache
        cache = one_cache(cache, past_key_values)
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            use_cache, cache = False, None  # the recomputation would append to the cache a second time
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)

        query_mask = read = None
        if attention_mask is not None and attention_mask.ndim == 4:
            attention_bias = attention_mask
        else:
            past_length, key_length = 0, query_length
            if cache is not None:
                past_length = cache.get_seq_length()
                covered = None if segment_ids is None else segment_ids.shape[1]
                if covered and isinstance(past_length, int) and 0 < past_length < covered < past_length + query_length:
                    raise ValueError(
                        f"Got a cache of {past_length} tokens before {query_length} of which segment_ids cover "
                        f"{covered}. Prefix tuning puts keys before the prompt that are in no segment: use LoRA, or "
                        "input_ids and attention_mask alone."
                    )
                key_length = cache.get_mask_sizes(query_length, 0)[0]
                read = past_length + query_length  # what is behind is room
            attention_bias = self.attention_bias(
                past_length,
                query_length,
                key_length,
                batch_size,
                hidden_states.device,
                attention_mask=attention_mask,
                segment_ids=segment_ids,
                context_mask=context_mask,
                segment_rel=segment_rel,
            )
            if attention_mask is not None and query_length > 1:
                query_mask = attention_mask[:, -query_length:, None].to(hidden_states)

        all_hidden_states = (hidden_states,) if output_hidden_states else None
        all_attentions = () if output_attentions else None
        for layer in self.layers:
            # by place: transformers takes a cache given by name away from layers with gradient checkpointing
            hidden_states, attention = layer(hidden_states, attention_bias, query_mask, cache, output_attentions)
            if output_hidden_states:
                all_hidden_states += (hidden_states,)
            if output_attentions:
                # itself where it can be: a part of it has no gradient
                whole = read is None or attention.shape[-1] == read
                all_attentions += (attention if whole else attention[..., :read],)
        hidden_states = self.norm(hidden_states)
        if output_hidden_states:
            all_hidden_states = (*all_hidden_states[:-1], hidden_states)

        return BaseModelOutputWithPast(
            last_hidden_state=hidden_states,
            hidden_states=all_hidden_states,
            attentions=all_attentions,
            **{CACHE: cache if use_cache else None},
        )


# a saved copy carries this file, so that it loads where the package is not installed
CpmBeeConfig.register_for_auto_class()
CpmBeeModel.register_for_auto_class("AutoModel")

__all__ = ["CpmBeeConfig", "CpmBeeModel", "CpmBeePreTrainedModel"]
