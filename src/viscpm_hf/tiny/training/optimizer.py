"""The optimizer of both tiny models' training, and how its learning rate goes."""

import math

import torch

from ...finetuning import parameter_groups


def adamw(module: torch.nn.Module, learning_rates: dict[str, float], weight_decay: float) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`; arguments as there."""
    return torch.optim.AdamW(parameter_groups(module, learning_rates, weight_decay), betas=(0.9, 0.98), fused=True)


def rate_factor(progress: float, warm: float) -> float:
    """Of the learning rate, at a share `progress` of a phase: linear up to `warm`, then a cosine to a hundredth."""
    return min(1.0, (progress + 1e-3) / warm) * (0.01 + 0.99 * (1 + math.cos(math.pi * min(progress, 1))) / 2)
