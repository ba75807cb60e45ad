"""What transformers' Trainer needs for VisCPM-Chat: parameter groups and where to resume."""

import re
from pathlib import Path

import torch
from transformers.trainer_utils import get_last_checkpoint


def parameter_groups(
    model: torch.nn.Module,
    learning_rates: dict[str, float],
    weight_decay: float = 0.01,
) -> list[dict]:
    """Optimizer groups with a learning rate per part of the model.

    CPM-Bee's linear layers and embeddings carry a factor 1/sqrt(d) in the forward pass and weights of unit scale, so
    from scratch they need about sqrt(d) times the learning rate of an ordinary layer; their weight decay shrinks by
    as much, so that learning rate times decay is the same everywhere. Vectors (norms, biases) do not decay.

    Args:
        model (`torch.nn.Module`): what is trained; parameters without gradient are left out.
        learning_rates (`dict[str, float]`): regular expression → learning rate; the first that is found in a
            parameter's name counts. `""` fits every name.
        weight_decay (`float`, defaults to 0.01): for the smallest learning rate.

    Returns:
        `list[dict]` for `torch.optim.AdamW`.

    Raises:
        ValueError: No expression fits a parameter.
    """
    groups: dict[tuple[float, bool], list] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = next((rate for pattern, rate in learning_rates.items() if re.search(pattern, name)), None)
        if rate is None:
            raise ValueError(
                f"Got no learning rate for the parameter {name} among {list(learning_rates)}; '' fits all."
            )
        groups.setdefault((rate, parameter.ndim > 1), []).append(parameter)
    lowest = min(learning_rates.values())
    return [
        {"params": parameters, "lr": rate, "weight_decay": weight_decay * lowest / rate if decays else 0.0}
        for (rate, decays), parameters in groups.items()
    ]


def resume_from(output_dir: str | Path) -> str | None:
    """The last checkpoint a Trainer left in this folder, or `None`: for `trainer.train(resume_from_checkpoint=…)`."""
    return get_last_checkpoint(str(output_dir)) if Path(output_dir).is_dir() else None
