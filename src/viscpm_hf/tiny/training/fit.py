"""What the training of both tiny models is made of: data computed once, an optimizer, a phase."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from ...finetuning import parameter_groups, resume_from


def computed_once(path: Path, compute: Callable[[], dict]) -> dict:
    """What `compute` returns, computed by the first process and kept in a file that all share and map.

    Args:
        path (`Path`): of the file, which appears only when it is complete.
        compute (`Callable`): returns tensors by name.
    """
    with PartialState(cpu=not torch.cuda.is_available()).local_main_process_first():
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            torch.save(compute(), partial)
            partial.rename(path)
    return torch.load(path, mmap=True, weights_only=True)


def adamw(module: torch.nn.Module, learning_rates: dict[str, float], weight_decay: float) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`; arguments as there."""
    return torch.optim.AdamW(parameter_groups(module, learning_rates, weight_decay), betas=(0.9, 0.98), fused=True)


def fit(
    trainer_class: type[Trainer],
    model: nn.Module,
    collator: Callable,
    optimizer: torch.optim.Optimizer,
    folder: Path,
    steps: int,
    batch_size: int,
    args: argparse.Namespace,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Runs one phase to its end, from its last checkpoint if there is one.

    Args:
        trainer_class (`type`): `Trainer` or a subclass.
        model (`torch.nn.Module`): returns `{"loss": …}`; trained in place.
        collator: makes a batch of row numbers; its length is the number of rows.
        optimizer (`torch.optim.Optimizer`): over the model's parameters.
        folder (`Path`): for checkpoints.
        steps (`int`): optimizer steps of the whole phase.
        batch_size (`int`): rows per process and step.
        args (`argparse.Namespace`): with `seed`, `save_steps` and `logging_steps`.
        callbacks: for the trainer.
    """
    trainer = trainer_class(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=batch_size,
            lr_scheduler_type="cosine",
            warmup_steps=min(200, steps // 10),
            max_grad_norm=0.3,
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            ddp_find_unused_parameters=True,  # nobody reads branch A's last outputs
            logging_steps=args.logging_steps,
            save_steps=args.save_steps,
            save_total_limit=1,
            remove_unused_columns=False,
            dataloader_drop_last=True,
            report_to=[],
            seed=args.seed,
        ),
        train_dataset=range(len(collator)),
        data_collator=collator,
        optimizers=(optimizer, None),
        callbacks=list(callbacks),
    )
    trainer.train(resume_from_checkpoint=resume_from(folder))
