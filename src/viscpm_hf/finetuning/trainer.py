"""What transformers' Trainer needs for VisCPM-Chat: order of samples, smoothed loss, parameter groups, resuming."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler, SequentialSampler
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .dataset import ChatDataset


class EpochSampler(Sampler):
    """A shuffled order that depends on seed and epoch alone, so that a run that was broken off goes on with it.

    It yields (epoch, index), so that a `ChatDataset` draws anew in every epoch, whichever process reads the sample.

    Args:
        length (`int`): samples.
        seed (`int`): of the order.
        shuffled (`bool`): whether there is any other than that of the data.
        lengths (`list[int]`, *optional*): of the samples; those of a batch are then about equally long.
        batch_size (`int`, defaults to 1): in which they are grouped.
    """

    def __init__(
        self, length: int, seed: int, shuffled: bool = True, lengths: list[int] | None = None, batch_size: int = 1
    ):
        self.length, self.seed, self.epoch, self.shuffled = length, seed, 0, shuffled
        self.lengths, self.batch_size = lengths, batch_size

    def set_epoch(self, epoch: int) -> None:
        """Whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        if not self.shuffled:
            order = range(self.length)
        elif self.lengths is not None:
            order = get_length_grouped_indices(self.lengths, self.batch_size, generator=generator)
        else:
            order = torch.randperm(self.length, generator=generator).tolist()
        yield from ((self.epoch, index) for index in order)


class ChatTrainer(Seq2SeqTrainer):
    """transformers' Trainer for VisCPM-Chat, with `ChatDataset` or `ChatStream` and `ChatCollator`.

    Beyond what transformers' own do with them: a run that was broken off goes on exactly, samples are varied in every
    epoch, batches can be grouped by length, and `label_smoothing_factor` is right. transformers' own smoothing does
    not know that our targets are shifted, nor that some columns of our logits cannot be written; the model refuses it.

    Args:
        learning_rates (`dict[str, float]`, *optional*): see `parameter_groups`; in place of `args.learning_rate`.
        decay_all (`bool`): whether weights decay in norms and biases as well, as in the original.
        kwargs: for `Seq2SeqTrainer`. In `args.lr_scheduler_kwargs`, `"warmup_type": "log"` is the rise of DeepSpeed's
            WarmupLR, for `lr_scheduler_type="warmup_stable_decay"` without decay.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        args: Seq2SeqTrainingArguments,
        learning_rates: dict[str, float] | None = None,
        decay_all: bool = False,
        **kwargs: Any,
    ):
        super().__init__(model, args, **kwargs)
        self.learning_rates, self.decay_all = learning_rates, decay_all
        self.smoothing, self.label_smoother = args.label_smoothing_factor, None

    def _get_train_sampler(self, train_dataset=None):
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(dataset, ChatDataset):
            return super()._get_train_sampler(train_dataset)
        grouped = self.args.train_sampling_strategy == "group_by_length"
        if grouped and dataset.lengths is None:
            raise ValueError("Grouping by length needs the lengths of the samples: call check_samples before.")
        return EpochSampler(
            len(dataset),
            self.args.seed if self.args.data_seed is None else self.args.data_seed,
            self.args.train_sampling_strategy != "sequential",
            dataset.lengths if grouped else None,
            self.args.train_batch_size * self.args.gradient_accumulation_steps,
        )

    def _get_eval_sampler(self, eval_dataset):
        if not isinstance(eval_dataset, ChatDataset):
            return super()._get_eval_sampler(eval_dataset)
        return SequentialSampler(eval_dataset) if self.args.world_size == 1 else None

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The model's loss; with label smoothing, a share of it is the mean over all columns that can be written.

        Args:
            model, inputs, return_outputs, num_items_in_batch: see Trainer.
        """
        if self.compute_loss_func is not None:  # the model's own loss is not wanted
            inputs = {name: value for name, value in inputs.items() if name != "shift_labels"}
        if not self.smoothing or self.compute_loss_func is not None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        targets, columns = inputs["shift_labels"], inputs.get("ext_table_mask")
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        smooth = smooth_loss(outputs["logits"], targets, columns, num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            smooth = smooth * self.accelerator.num_processes  # as Trainer has done with the loss
        loss = (1 - self.smoothing) * loss + self.smoothing * smooth
        return (loss, outputs) if return_outputs else loss

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """All names with `decay_all`, else those of matrices."""
        if self.decay_all:
            return [name for name, _ in model.named_parameters()]
        return super().get_decay_parameter_names(model)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """With a learning rate for each part if there are several."""
        if self.optimizer is None and self.learning_rates:
            optimizer, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            groups = parameter_groups(self.model, self.learning_rates, self.args.weight_decay)
            self.optimizer = optimizer(groups, **options)
        return super().create_optimizer(model)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """See the class for what it knows beyond transformers' schedules."""
        options = self.args.lr_scheduler_kwargs or {}
        if self.lr_scheduler is None and options.get("warmup_type") == "log":
            steps, least = self.args.get_warmup_steps(num_training_steps), options.get("min_lr_ratio", 0)
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, lambda step: least + (1 - least) * log_warmup(step, steps)
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)


def log_warmup(step: int, steps: int) -> float:
    """How far DeepSpeed's WarmupLR has come, 0 to 1."""
    return 1.0 if step >= steps else math.log(step + 1) / math.log(steps)


def smooth_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    ext_table_mask: torch.Tensor | None = None,
    num_items_in_batch: int | torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy with a uniform distribution over the vocabulary and the columns that can be written.

    Args:
        logits (`torch.Tensor`): `(batch, length, vocab_size + columns)`.
        targets (`torch.Tensor`): shifted, -100 where there is none, `(batch, length)`.
        ext_table_mask (`torch.Tensor`, *optional*): 1 for columns that can be written, `(batch, columns)`.
        num_items_in_batch (`int`, *optional*): targets among which the sum is divided; by default those that are here.
    """
    rows, places = (targets != -100).nonzero(as_tuple=True)
    log_probabilities = logits[rows, places].float().log_softmax(dim=-1)  # (targets, width)
    count = torch.full_like(rows, logits.shape[-1])
    if ext_table_mask is not None:
        written = ext_table_mask[rows].bool()  # (targets, columns)
        width = logits.shape[-1] - written.shape[-1]
        count = width + written.sum(-1)
        log_probabilities = torch.cat(
            [log_probabilities[:, :width], log_probabilities[:, width:].masked_fill(~written, 0.0)], dim=-1
        )
    losses = -log_probabilities.sum(-1) / count
    return losses.sum() / (len(rows) if num_items_in_batch is None else num_items_in_batch)


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
    """The last checkpoint a Trainer left in this folder, or `None`: for `trainer.train(resume_from_checkpoint=…)`.

    One that was being written when the process was killed does not count: Trainer writes its state last.
    """
    checkpoints = []
    for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        number = folder.name.rpartition("-")[2]
        try:
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if number.isdigit():
            checkpoints.append((int(number), str(folder)))
    return max(checkpoints)[1] if checkpoints else None
