"""TrainingArguments of a run: values of ours, and a sentence for those that would do nothing or break."""

import copy
import dataclasses
import json
import math
import os
import typing
from typing import Any

import torch
from transformers import HfArgumentParser, Seq2SeqTrainingArguments, Trainer, TrainingArguments, get_scheduler

from .setting_checks import SettingsError, require_numbers

_PUSH = "but the result is uploaded by `viscpm push`"
_METRICS = "but nothing except the loss is measured here; `viscpm evaluate` measures more"
_ANSWERS = "but evaluations measure the loss; --show-answers has questions answered"
_SPREAD = "but Paint is trained whole on each GPU: start several processes with `accelerate launch --multi_gpu`"
_TEXT = "which is for models that write"
# fields that would do nothing, or break, and what there is in their place
REFUSED = {
    **dict.fromkeys(("push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "hub_private_repo"), _PUSH),
    **dict.fromkeys(("hub_always_push", "hub_revision"), _PUSH),
    **dict.fromkeys(("include_for_metrics", "batch_eval_metrics"), _METRICS),
    **dict.fromkeys(("use_liger_kernel", "liger_kernel_config"), "which has no kernels for these models"),
    "resume_from_checkpoint": "but the same command goes on from the last checkpoint in its output by itself",
    "local_rank": "which torchrun and `accelerate launch` say themselves",
    "do_predict": "but this command trains; `viscpm batch` has a model answer",
    "label_names": "but what is learned from is the same for all data",
    "length_column_name": "but samples are measured here, whatever their columns",
    "parallelism_config": "which can be given in Python only",
}
CHAT_REFUSED = {
    **REFUSED,
    **dict.fromkeys(("predict_with_generate", "generation_max_length", "generation_num_beams"), _ANSWERS),
    "generation_config": _ANSWERS,
    "sortish_sampler": "but batches of equal length are made by --train_sampling_strategy group_by_length",
}
PAINT_REFUSED = {
    **REFUSED,
    **dict.fromkeys(("fsdp", "fsdp_config", "deepspeed"), _SPREAD),
    **dict.fromkeys(("label_smoothing_factor", "neftune_noise_alpha", "include_num_input_tokens_seen"), _TEXT),
}
_OFF = ("false", "none", "", "0", "0.0", "[]", "{}")
_OF_WORKERS = ("persistent_workers", "prefetch_factor", "multiprocessing_context")


def make_training_arguments(
    settings: Any, options: dict[str, Any], kind: type[TrainingArguments]
) -> TrainingArguments:
    """TrainingArguments of a run.

    Args:
        settings: `ChatSettings` or `PaintSettings`.
        options (`dict[str, Any]`): fields by name, as texts or as YAML has them.
        kind: the class.

    Raises:
        SettingsError: a value that means nothing, or a field that would do nothing or break.
        ValueError: TrainingArguments refuses a value, or a combination.
    """
    theirs = {each.name: each for each in dataclasses.fields(kind) if each.init}
    options = {name: value for name, value in options.items() if value is not None}
    _require_honoured(options, theirs, settings.refused)
    options = {name: value for name, value in options.items() if name not in settings.refused}  # they are off
    _require_evaluation(settings, options)
    # our own lines take the place of transformers' progress bar
    ours = {
        "output_dir": settings.output,
        "logging_steps": 10,
        "logging_first_step": True,
        "report_to": "none",
        "disable_tqdm": True,
        **settings.usual,
    }
    options = ours | options
    if settings.eval_data or settings.eval_rows:  # evaluated whenever it is saved, unless told otherwise
        usual = options.get("save_strategy", "steps")
        options.setdefault("eval_strategy", "steps" if usual == "best" else usual)
        options.setdefault("eval_steps", options.get("save_steps", theirs["save_steps"].default))
    seen = options.pop("include_num_input_tokens_seen", None)  # a text or a bool, of which the parser makes a bool
    words = []
    for name, value in options.items():
        if isinstance(value, dict):
            value = json.dumps(value)
        words += [f"--{name}", *map(_word, value if isinstance(value, list) else [value])]
    parser = _Parser(kind, allow_abbrev=False, add_help=False)
    (arguments,) = parser.parse_args_into_dataclasses(args=words, look_for_args_file=False)
    if seen is not None:
        arguments.include_num_input_tokens_seen = _tokens_seen(seen)
    _require_sense(arguments)
    _require_steps(settings, arguments)
    return arguments


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _tokens_seen(value: Any) -> str:
    found = {"true": "all", "false": "no"}.get(_word(value), value)
    if found not in ("all", "non_padding", "no"):
        raise SettingsError(f"Got {value!r} as include_num_input_tokens_seen, expected all, non_padding or no.")
    return found


def _require_honoured(options: dict[str, Any], theirs: dict[str, dataclasses.Field], refused: dict[str, str]) -> None:
    for name, value in options.items():
        usual = theirs[name].default
        usual = [] if usual is dataclasses.MISSING else usual
        if name in refused and _word(value).lower() not in (*_OFF, _word(usual).lower()):
            raise SettingsError(f"Got {name}, {refused[name]}.")
    if _word(options.get("do_train", True)).lower() == "false":
        raise SettingsError("Got do_train=false, but this command trains; `viscpm evaluate` measures a model.")
    if "ddp_backend" in options and int(os.environ.get("WORLD_SIZE") or 1) < 2:
        raise SettingsError("Got ddp_backend, but there is one process: start several with torchrun.")
    if _word(options.get("fsdp_config", "")).lower() not in _OFF and not (
        "fsdp" in options or "ACCELERATE_USE_FSDP" in os.environ
    ):
        raise SettingsError("Got fsdp_config without fsdp: start with fsdp2.yaml of examples/finetuning/accelerate.")
    if "tpu_metrics_debug" in _word(options.get("debug", "")):
        raise SettingsError("Got tpu_metrics_debug as debug, which is for TPUs.")


def _require_sense(arguments: TrainingArguments) -> None:
    """Raises a SettingsError for numbers that transformers takes and stumbles over later, or trains nothing with."""
    require_numbers(
        arguments,
        *((f"per_device_{part}_batch_size", 1, None) for part in ("train", "eval")),
        *((name, 0, None) for name in ("learning_rate", "weight_decay", "max_grad_norm")),
        ("adam_epsilon", 1e-20, None),  # without it what has no gradient is divided by zero
        *((name, 0, None) for name in ("warmup_steps", "dataloader_num_workers")),
        *((name, 0, 0.999999) for name in ("adam_beta1", "adam_beta2", "label_smoothing_factor")),
        ("gradient_accumulation_steps", 1, None),
        *((name, 0, 2**32 - 1) for name in ("seed", "data_seed")),
    )
    for kind in ("logging", "eval", "save"):
        steps = getattr(arguments, f"{kind}_steps")
        if getattr(arguments, f"{kind}_strategy") == "steps" and not (steps is not None and 0 < steps < math.inf):
            raise SettingsError(f"Got {steps} as {kind}_steps, expected a number above 0, or {kind}_strategy no.")
    if arguments.max_steps < 1 and arguments.max_steps != -1:
        raise SettingsError(f"Got {arguments.max_steps} as max_steps, expected 1 or more, or -1 to count epochs.")
    if arguments.max_steps == -1 and not 0 < arguments.num_train_epochs < math.inf:
        raise SettingsError(f"Got {arguments.num_train_epochs} as num_train_epochs, expected a number above 0.")
    for name in _OF_WORKERS:
        if getattr(arguments, f"dataloader_{name}") and not arguments.dataloader_num_workers:
            raise SettingsError(f"Got dataloader_{name}, which needs dataloader_num_workers above 0.")
    checkpointing = getattr(arguments, todays_names()["gradient_checkpointing_kwargs"])
    if checkpointing not in (None, {}, {"use_reentrant": False}):
        raise SettingsError(
            f"Got {checkpointing} for gradient checkpointing, expected use_reentrant false or nothing: otherwise "
            "layers after frozen ones learn nothing."
        )


def _require_evaluation(settings: Any, options: dict[str, Any]) -> None:
    """Raises a SettingsError if something waits for evaluations, or for numbers of them, that there are not."""
    given = {name: _word(value).lower() for name, value in options.items()}
    waits = {
        "eval_strategy": given.get("eval_strategy", "no") != "no",
        **{name: given.get(name) == "true" for name in ("load_best_model_at_end", "eval_on_start", "do_eval")},
        "save_strategy": given.get("save_strategy") == "best",
        # they look at the loss of evaluations, and stay as they are without
        "lr_scheduler_type": given.get("lr_scheduler_type") in ("reduce_lr_on_plateau", "greedy"),
    }
    name = next((name for name, wait in waits.items() if wait), None)
    if name and not (settings.eval_data or settings.eval_rows):
        raise SettingsError(
            f"Got {name} {given[name]}, but there is nothing to evaluate with: give --eval-data or --eval-rows."
        )
    metric = given.get("metric_for_best_model", "loss")
    if metric not in ("loss", "eval_loss"):
        raise SettingsError(f"Got {metric!r} as metric_for_best_model, expected loss, which is all that is measured.")


def _require_steps(settings: Any, arguments: TrainingArguments) -> None:
    """Raises a SettingsError unless optimizer and schedule can be made, tried on a single number."""
    if arguments.train_sampling_strategy not in settings.orders:
        raise SettingsError(
            f"Got {arguments.train_sampling_strategy!r} as train_sampling_strategy, expected "
            f"{' or '.join(settings.orders)} with these data."
        )
    by_layer = any(name in arguments.optim for name in ("galore", "apollo"))
    if arguments.optim_target_modules and not by_layer:
        raise SettingsError(f"Got optim_target_modules, which optim {arguments.optim.value} does not look at.")
    if by_layer:  # which need the model
        return
    without = copy.copy(arguments)
    without.optim_args = None
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
        plain = Trainer.get_optimizer_cls_and_kwargs(without)
    except ValueError as error:
        raise SettingsError(
            f"optim {arguments.optim.value} with optim_args {arguments.optim_args}: {error}."
        ) from error
    if arguments.optim_args and plain == (kind, options):
        raise SettingsError(f"Got optim_args, which optim {arguments.optim.value} does not look at.")
    given = arguments.lr_scheduler_kwargs or {}
    if settings.warms_up_by_log and isinstance(given, dict) and given.get("warmup_type") == "log":
        return
    try:
        optimizer = kind([torch.nn.Parameter(torch.zeros(1, device=arguments.device))], **options)
        get_scheduler(arguments.lr_scheduler_type, optimizer, 0, 100, given)
    except (TypeError, ValueError, AttributeError) as error:
        raise SettingsError(
            f"lr_scheduler_type {arguments.lr_scheduler_type.value} with lr_scheduler_kwargs {given}: {error}."
        ) from error


def todays_names() -> dict[str, str]:
    """Other names of settings; gradient_checkpointing is activation_checkpointing in later versions."""
    theirs, names = {each.name for each in dataclasses.fields(Seq2SeqTrainingArguments)}, {"output_dir": "output"}
    for suffix in ("", "_kwargs"):
        pair = (f"activation_checkpointing{suffix}", f"gradient_checkpointing{suffix}")
        names |= dict.fromkeys(pair, next(name for name in pair if name in theirs))
    return names


class _Parser(HfArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise SettingsError(f"{message[:1].upper()}{message[1:]}.")

    def exit(self, status: int = 0, message: str | None = None) -> typing.NoReturn:
        raise SettingsError((message or "").strip() or "The options cannot be read.")
