"""The settings of a run, our own and transformers' TrainingArguments, from the command line and one YAML file."""

import dataclasses
import difflib
import json
import math
import re
import sys
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser, Seq2SeqTrainingArguments, TrainingArguments

from .dataset import CAPTIONS
from .model import MODES
from .rows import LANGUAGES


class SettingsError(ValueError):
    """A setting that means nothing; the message is one sentence."""


@dataclass
class ChatSettings:
    """What `viscpm finetune chat` has beside TrainingArguments; each is an option of the command line and of the YAML.

    Args:
        model: a converted VisCPM-Chat.
        output: the folder of the run, which is `output_dir` of TrainingArguments.
        data: files, folders or ids, see `finetuning.sources`.
        images: the folder relative paths of pictures start from.
        mode: `"full"`, `"lora"` or `"qlora"`.
        tune_llm, tune_vision: what is trained, see `finetuning.model`.
        eval_data: as `data`, for evaluation.
        eval_rows: rows of `data` that are held out for evaluation, where there is no `eval_data`.
        split, eval_split: of data sets that have several.
        language: `"zh"` or `"en"` take only what is in it.
        captions: how a caption is asked for: `"question"`, or `"input"` as in the original.
        augment: whether pictures are varied as in the original.
        min_side: pixels; smaller pictures are left out. By default 4/7 of the model's, 128 of 224 as in the original.
        max_length: tokens of a sample; longer ones lose their oldest turns.
        strict: stop at the first broken row.
        streaming, buffer: read rows when they are wanted, shuffled among so many.
        dtype: of what is frozen; by default that of `bf16` or `fp16`, else float32.
        lora_r, lora_alpha, lora_dropout, lora_targets: see `load_lora`.
        learning_rates: regular expression → learning rate, see `parameter_groups`.
        decay_all: whether weights decay in norms and biases as well.
        show_answers: samples of the evaluation data that are answered at every evaluation.
    """

    model: str | None = None
    output: str | None = None
    data: list[str] = field(default_factory=list)
    images: str | None = None
    mode: str = "lora"
    tune_llm: bool = False
    tune_vision: bool = False
    eval_data: list[str] = field(default_factory=list)
    eval_rows: int = 0
    split: str = "train"
    eval_split: str = "train"
    language: str = "both"
    captions: str = "question"
    augment: bool = False
    min_side: int | None = None
    max_length: int = 512
    strict: bool = False
    streaming: bool = False
    buffer: int = 1000
    dtype: str | None = None
    lora_r: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    lora_targets: str | None = None
    learning_rates: dict | None = None
    decay_all: bool = False
    show_answers: int = 4

    def check(self) -> None:
        """Raises a SettingsError for a value that means nothing."""
        for name, choices in (
            ("mode", MODES),
            ("language", LANGUAGES),
            ("captions", CAPTIONS),
            ("dtype", (None, "float32", "bfloat16", "float16")),
        ):
            if getattr(self, name) not in choices:
                wanted = ", ".join(choice for choice in choices if choice)
                raise SettingsError(f"Got {getattr(self, name)!r} as {name}, expected one of {wanted}.")
        for name in ("model", "output", "data"):
            if not getattr(self, name):
                raise SettingsError(f"--{name} is missing: give it here or in the file of --config.")
        require_numbers(
            self,
            ("lora_r", 1, None),
            ("lora_dropout", 0, 0.99),
            ("max_length", 8, None),
            ("min_side", 0, None),
            ("buffer", 1, None),
            ("eval_rows", 0, None),
            ("show_answers", 0, None),
        )
        require_lora(self)
        if self.eval_data and self.eval_rows:
            raise SettingsError("Got eval_data and eval_rows, expected one of them.")
        if self.streaming and self.eval_rows:
            raise SettingsError("Got eval_rows with streaming, where nobody knows the rows: give eval_data.")
        require_rates(self.learning_rates)


def require_numbers(settings: Any, *limits: tuple[str, float, float | None]) -> None:
    """Raises a SettingsError for a number that is out of its limits; None is no number.

    Args:
        settings: with numbers as attributes.
        limits: name, the least, and the most if there is one.
    """
    for name, least, most in limits:
        value = getattr(settings, name)
        if value is not None and not (least <= value <= (sys.float_info.max if most is None else most)):
            wanted = f"{least} or more" if most is None else f"a number from {least} to {most}"
            raise SettingsError(f"Got {value} as {name}, expected {wanted}.")


def require_lora(settings: Any) -> None:
    """Raises a SettingsError for a strength of LoRA that is none, or layers that no expression names.

    Args:
        settings: `ChatSettings` or `PaintSettings`.
    """
    if not 0 < settings.lora_alpha < math.inf:
        raise SettingsError(f"Got {settings.lora_alpha} as lora_alpha, expected a number above 0.")
    if settings.lora_targets is not None:
        try:
            re.compile(settings.lora_targets)
        except re.error as error:
            raise SettingsError(f"Got {settings.lora_targets!r} as lora_targets, no expression ({error}).") from error


def require_rates(learning_rates: dict[str, float] | None) -> None:
    """Raises a SettingsError unless there is a learning rate for each regular expression.

    Args:
        learning_rates (`dict[str, float]`, *optional*): see `parameter_groups`.
    """
    for pattern, rate in (learning_rates or {}).items():
        try:
            re.compile(pattern)
        except re.error as error:
            raise SettingsError(f"Got {pattern!r} in learning_rates, which is no expression ({error}).") from error
        if not 0 < rate < math.inf:
            raise SettingsError(f"Got {rate} in learning_rates for {pattern!r}, expected a rate above 0.")


def read_settings(
    given: dict[str, Any],
    arguments: Sequence[str] = (),
    config: str | Path | None = None,
    own: type = ChatSettings,
    training: type[TrainingArguments] = Seq2SeqTrainingArguments,
) -> tuple[Any, TrainingArguments]:
    """All settings of a run; the command line counts more than the file.

    Args:
        given: our own settings by name, as the command line has them; None and [] are not given.
        arguments: options of TrainingArguments as they were typed, `["--max_steps", "12"]`.
        config: a YAML file with names and values of both kinds.
        own, training: the two kinds; by default those of Chat.

    Raises:
        SettingsError: an unknown name, or a value that means nothing.
        ValueError: TrainingArguments refuses a value, or a combination.
    """
    ours = {each.name: each for each in dataclasses.fields(own)}
    theirs = {each.name: each for each in dataclasses.fields(training) if each.init}
    todays = todays_names()
    settings, options = {}, {}
    for name, value in (_read_yaml(Path(config)) if config else {}).items():
        name = str(name).replace("-", "_")
        name = todays.get(name, name)
        if name in ours:
            settings[name] = _as(value, ours[name], f"{name} in {config}")
        elif name in theirs:
            options[name] = value
        else:
            raise SettingsError(f"{config} has {name!r}, which is no setting{_meant(name, [*ours, *theirs])}.")
    settings |= {
        name: _as(value, ours[name], f"--{name.replace('_', '-')}")
        for name, value in given.items()
        if value is not None and value != []
    }
    typed = {todays.get(name, name): value for name, value in _typed(arguments, [*ours, *theirs, *todays]).items()}
    for name, value in typed.items():
        if name in ours:
            settings[name] = _as(value, ours[name], f"--{name}")
        else:
            options[name] = value
    chosen = own(**settings)
    chosen.check()
    # a file may have those of several modes
    for name in [*(name for name, value in given.items() if value not in (None, [], False)), *typed]:
        if name.startswith("lora_") if chosen.mode == "full" else name == "tune_llm":
            other = "lora" if chosen.mode == "full" else "full"
            raise SettingsError(f"Got {name}, which belongs to mode {other}, with mode {chosen.mode}: choose one.")
    return chosen, _training_arguments(chosen, options, training, theirs)


def _read_yaml(path: Path) -> dict:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} cannot be read as YAML: {' '.join(str(error).split())[:300]}.") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{path} holds a {type(content).__name__}, expected names and values.")
    return content


def _as(value: Any, wanted: dataclasses.Field, where: str) -> Any:
    """A value of a YAML file as the type of one of our settings; YAML takes 1e-5 for a text."""
    kinds = typing.get_args(wanted.type) or (wanted.type,)
    if value is None:
        return dataclasses.MISSING if wanted.default is dataclasses.MISSING else wanted.default
    if typing.get_origin(wanted.type) is list:
        return [str(each) for each in value] if isinstance(value, list) else [str(value)]
    kind = next(each for each in kinds if each is not type(None))
    try:
        if kind is bool:
            return value if isinstance(value, bool) else {"true": True, "false": False}[value]
        if kind is dict:
            value = json.loads(value) if isinstance(value, str) else value
            return {str(pattern): float(rate) for pattern, rate in value.items()}
        if kind in (int, float) and isinstance(value, bool):
            raise ValueError
        if kind is int and float(value) != int(float(value)):
            raise ValueError
        return kind(float(value)) if kind is int else kind(value)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise SettingsError(f"Got {value!r} as {where}, expected {_KINDS[kind]}.") from error


_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    dict: "names with a number each",
}


def _meant(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; {close[0]} is one" if close else ""


def _typed(arguments: Sequence[str], known: list[str]) -> dict[str, Any]:
    """What was typed: name → value, or a list of them; a switch alone is True."""
    found, rest = {}, list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise SettingsError(f"Got {word!r}, which belongs to no option.")
        name, has_value, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if name.startswith("no_") and name not in known and name[3:] in known:
            name, has_value, value = name[3:], "=", "false"
        if name not in known:
            raise SettingsError(f"Got --{name}, which is no option{_meant(name, known)}.")
        values = [value] if has_value else []
        while not has_value and rest and not (rest[0].startswith("--") and len(rest[0]) > 2):
            values.append(rest.pop(0))
        found[name] = True if not values else values[0] if len(values) == 1 else values
    return found


def _training_arguments(settings: Any, options: dict, kind: type, theirs: dict) -> TrainingArguments:
    # our own lines take the place of transformers' progress bar
    ours = {
        "output_dir": settings.output,
        "logging_steps": 10,
        "logging_first_step": True,
        "report_to": "none",
        "disable_tqdm": True,
    }
    if isinstance(settings, ChatSettings):  # a batch may have no picture, and then the vision side takes no part
        ours["ddp_find_unused_parameters"] = settings.mode == "full" or settings.tune_vision
    options = ours | options
    if settings.eval_data or settings.eval_rows:  # evaluated whenever it is saved, unless told otherwise
        options.setdefault("eval_strategy", options.get("save_strategy", "steps"))
        options.setdefault("eval_steps", options.get("save_steps", theirs["save_steps"].default))
    elif options.get("eval_strategy", "no") != "no" or options.get("load_best_model_at_end") in (True, "true", "True"):
        raise SettingsError("There is nothing to evaluate with: give --eval-data or --eval-rows.")
    words = []
    for name, value in options.items():
        if value is None:
            continue
        if isinstance(value, dict):
            value = json.dumps(value)
        words += [f"--{name}", *map(_word, value if isinstance(value, list) else [value])]
    parser = _Parser(kind, allow_abbrev=False, add_help=False)
    (arguments,) = parser.parse_args_into_dataclasses(args=words, look_for_args_file=False)
    _require_sense(arguments)
    return arguments


def _require_sense(arguments: TrainingArguments) -> None:
    """Raises a SettingsError for numbers that transformers takes and stumbles over later, or trains nothing with."""
    require_numbers(
        arguments,
        *((f"per_device_{part}_batch_size", 1, None) for part in ("train", "eval")),
        *((name, 0, None) for name in ("learning_rate", "weight_decay", "adam_epsilon", "max_grad_norm")),
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


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


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
