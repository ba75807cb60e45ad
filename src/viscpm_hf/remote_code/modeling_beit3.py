"""BEiT-3 as VisCPM uses it: patches and learned queries through one multiway transformer.

Every linear layer and norm exists twice: branch A for the picture's tokens, branch B for the queries. Attention is
joint. The queries come out as the picture's features.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import can_return_tuple

POSITION_OFFSET = 2  # torchscale's position tables start at row 2


@strict
class Beit3VisionConfig(PreTrainedConfig):
    """Sizes of the vision side; the defaults are BEiT-3 large as published with VisCPM.

    Args:
        image_size, patch_size (`int`, pixels): Side of the square picture and of a patch.
        hidden_size, intermediate_size, num_hidden_layers, num_attention_heads (`int`): Sizes.
        max_position_embeddings (`int`, defaults to 1024): Rows of the queries' position table.
        query_num (`int`, defaults to 64): Learned queries, the number of tokens a picture takes in the prompt.
        layer_norm_eps (`float`, defaults to 1e-5): Of every layer norm.
    """

    model_type = "beit3_vision"
    base_config_key = "vision_config"

    image_size: int = 224
    patch_size: int = 16
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    max_position_embeddings: int = 1024
    query_num: int = 64
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02

    @property
    def num_patches(self) -> int:
        """Patches of a picture, those of a row times those of a column."""
        return (self.image_size // self.patch_size) ** 2


class Beit3Multiway(nn.Module):
    """Two copies of a module: A for the tokens before `split`, B for the rest."""

    def __init__(self, make: Callable[[], nn.Module]):
        super().__init__()
        self.A = make()
        self.B = make()

    def forward(self, hidden_states: torch.Tensor, split: int) -> torch.Tensor:
        return torch.cat([self.A(hidden_states[:, :split]), self.B(hidden_states[:, split:])], dim=1)

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        # Adapters find layers by the end of their names: "q_proj" means CpmBee's, and this pair of layers of the same
        # name is no layer they know. It cannot be left out either, as DeepSpeed prepares what is listed.
        for name, module in super().named_modules(memo, prefix, remove_duplicate):
            yield (f"{name}.pair" if module is self and name else name), module

    @property
    def pair(self) -> "Beit3Multiway":
        """This module, by the name that it is listed under."""
        return self


class Beit3Embeddings(nn.Module):
    def __init__(self, config: Beit3VisionConfig):
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Conv2d(3, config.hidden_size, config.patch_size, stride=config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position_embedding = nn.ModuleDict(
            {
                "A": nn.Embedding(config.num_patches + 1 + POSITION_OFFSET, config.hidden_size),
                "B": nn.Embedding(config.max_position_embeddings, config.hidden_size),
            }
        )

    def forward(self, pixel_values: torch.Tensor, query_tokens: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)  # (images, patches, hidden), row-major
        picture = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        picture = picture + self.positions("A", picture)
        queries = query_tokens.expand(len(patches), -1, -1)
        return torch.cat([picture, queries + self.positions("B", queries)], dim=1)

    def positions(self, branch: str, tokens: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(POSITION_OFFSET, POSITION_OFFSET + tokens.shape[1], device=tokens.device)
        return self.position_embedding[branch](rows)


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
    scores = torch.matmul(query * scaling, key.transpose(2, 3))
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class Beit3Attention(nn.Module):
    is_causal = False

    def __init__(self, config: Beit3VisionConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = Beit3Multiway(lambda: nn.Linear(config.hidden_size, config.hidden_size))
        self.k_proj = Beit3Multiway(lambda: nn.Linear(config.hidden_size, config.hidden_size))
        self.v_proj = Beit3Multiway(lambda: nn.Linear(config.hidden_size, config.hidden_size))
        self.inner_attn_ln = Beit3Multiway(lambda: nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps))
        self.out_proj = Beit3Multiway(lambda: nn.Linear(config.hidden_size, config.hidden_size))

    def forward(
        self, hidden_states: torch.Tensor, split: int, output_attentions: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        query, key, value = (
            projection(hidden_states, split).view(heads).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        attention = eager_attention_forward  # the other implementations have no weights to show
        if not output_attentions:
            attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, attention)
        output, weights = attention(self, query, key, value, None, scaling=self.scaling, dropout=0.0, is_causal=False)
        output = output.reshape(hidden_states.shape)
        return self.out_proj(self.inner_attn_ln(output, split), split), weights


class Beit3MLP(nn.Module):
    def __init__(self, config: Beit3VisionConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.ffn_layernorm = nn.LayerNorm(config.intermediate_size, eps=config.layer_norm_eps)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.fc1(hidden_states)
        # the original computes this activation in float32 whatever the weights' dtype
        hidden_states = nn.functional.gelu(hidden_states.float()).to(hidden_states.dtype)
        return self.fc2(self.ffn_layernorm(hidden_states))


class Beit3Layer(GradientCheckpointingLayer):
    def __init__(self, config: Beit3VisionConfig):
        super().__init__()
        self.self_attn_layer_norm = Beit3Multiway(lambda: nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps))
        self.self_attn = Beit3Attention(config)
        self.final_layer_norm = Beit3Multiway(lambda: nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps))
        self.mlp = Beit3Multiway(lambda: Beit3MLP(config))

    def forward(
        self, hidden_states: torch.Tensor, split: int, output_attentions: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        attention, weights = self.self_attn(self.self_attn_layer_norm(hidden_states, split), split, output_attentions)
        hidden_states = hidden_states + attention
        return hidden_states + self.mlp(self.final_layer_norm(hidden_states, split), split), weights


class Beit3PreTrainedModel(PreTrainedModel):
    config: Beit3VisionConfig
    config_class = Beit3VisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["Beit3Layer", "Beit3Embeddings"]
    _supports_sdpa = True
    _supports_flash_attn = False
    _supports_flex_attn = False
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, Beit3Embeddings):
            init.normal_(module.cls_token, std=self.config.initializer_range)
        elif isinstance(module, Beit3VisionModel):
            init.normal_(module.query_tokens, std=self.config.initializer_range)


class Beit3VisionModel(Beit3PreTrainedModel):
    """BEiT-3 with learned queries in place of text.

    Source: BEiT-3 (Wang et al., 2022) in torchscale's form with sub-LayerNorm; queries as in VisCPM.
    """

    def __init__(self, config: Beit3VisionConfig):
        super().__init__(config)
        self.embeddings = Beit3Embeddings(config)
        self.query_tokens = nn.Parameter(torch.zeros(config.query_num, config.hidden_size))
        self.layers = nn.ModuleList([Beit3Layer(config) for _ in range(config.num_hidden_layers)])
        self.layer_norm = Beit3Multiway(lambda: nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps))
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The convolution that makes patches."""
        return self.embeddings.patch_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the convolution that makes patches."""
        self.embeddings.patch_embedding = value

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling | tuple:
        """Encode pictures.

        Args:
            pixel_values: `(images, 3, image_size, image_size)`, scaled to [-1, 1].
            output_hidden_states, output_attentions, return_dict (*optional*): the configuration's by default.

        Returns:
            `last_hidden_state` (images, 1 + patches + query_num, hidden) and `pooler_output`, its last `query_num`
            tokens (images, query_num, hidden). If asked for, `hidden_states` before the first and after each layer,
            and `attentions` (images, heads, tokens, tokens) of each layer, which are computed eagerly.

        Raises:
            ValueError: If the pictures are not `image_size` pixels square.
        """
        size = self.config.image_size
        shape = tuple(getattr(pixel_values, "shape", ()))
        if len(shape) != 4 or shape[1:] != (3, size, size):
            raise ValueError(
                f"Got pixel_values of shape {shape}, expected (images, 3, {size}, {size}); "
                "use the processor of this checkpoint to prepare pictures."
            )
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        # under a quantized or mixed load the patch convolution decides the dtype
        pixel_values = pixel_values.to(self.embeddings.patch_embedding.weight.dtype)
        split = self.config.num_patches + 1
        hidden_states = self.embeddings(pixel_values, self.query_tokens)
        all_hidden_states = (hidden_states,) if output_hidden_states else None
        all_attentions = () if output_attentions else None
        for layer in self.layers:
            hidden_states, attention = layer(hidden_states, split, output_attentions)
            if output_hidden_states:
                all_hidden_states += (hidden_states,)
            if output_attentions:
                all_attentions += (attention,)
        hidden_states = self.layer_norm(hidden_states, split)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states,
            pooler_output=hidden_states[:, split:],
            hidden_states=all_hidden_states,
            attentions=all_attentions,
        )


__all__ = ["Beit3VisionConfig", "Beit3VisionModel", "Beit3PreTrainedModel"]
