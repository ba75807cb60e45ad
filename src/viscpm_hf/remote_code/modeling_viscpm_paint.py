"""The part of VisCPM-Paint between CPM-Bee and the UNet: it maps text states into the width the UNet attends to.

It imports no sibling: diffusers fetches a single .py for a component with weights.
"""

from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.utils import BaseOutput
from torch import nn


@dataclass
class VisCPMPaintTextProjectionOutput(BaseOutput):
    """What `VisCPMPaintTextProjection` returns.

    Args:
        hidden_states (`torch.Tensor`): `(batch, length, cross_attention_dim)`, what the UNet attends to.
    """

    hidden_states: torch.Tensor


class VisCPMPaintTextProjection(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Linear layer and layer norm over the hidden states of CPM-Bee.

    Args:
        hidden_size (`int`, defaults to 4096): Width of the text encoder.
        cross_attention_dim (`int`, defaults to 1024): Width that the UNet attends to.
        eps (`float`, defaults to 1e-6): Added to the variance in the norm.

    Source: `trans_block` of the original checkpoint.
    """

    @register_to_config
    def __init__(self, hidden_size: int = 4096, cross_attention_dim: int = 1024, eps: float = 1e-6):
        super().__init__()
        self.linear = nn.Linear(hidden_size, cross_attention_dim, bias=False)
        self.norm = nn.LayerNorm(cross_attention_dim, eps=eps)

    def forward(
        self, hidden_states: torch.Tensor, return_dict: bool = True
    ) -> VisCPMPaintTextProjectionOutput | tuple[torch.Tensor]:
        """Maps text states `(batch, length, hidden_size)` to `(batch, length, cross_attention_dim)`."""
        hidden_states = self.norm(self.linear(hidden_states))
        return VisCPMPaintTextProjectionOutput(hidden_states) if return_dict else (hidden_states,)


__all__ = ["VisCPMPaintTextProjection"]
