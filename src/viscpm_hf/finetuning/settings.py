"""The settings of a run, our own and transformers' TrainingArguments, from the command line and one YAML file."""

import dataclasses
import difflib
import json
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml
from transformers import Seq2SeqTrainingArguments, TrainingArguments

from .dataset import CAPTIONS
from .model import MODES
from .rows import LANGUAGES
from .setting_checks import SettingsError, require_choices, require_lora, require_numbers, require_rates
from .training_arguments import CHAT_REFUSED, make_training_arguments, todays_names

DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class RunSettings:
    """What both verbs have beside TrainingArguments.

    Args:
        model: a converted model.
        output: the folder of the run, which is `output_dir` of TrainingArguments.
        data: files, folders or ids, see `finetuning.sources`.
        images: the folder relative paths of pictures start from.
        mode: what is trained.
        eval_data: as `data`, for evaluation.
        eval_rows: rows of `data` that are held out for evaluation, where there is no `eval_data`.
        split, eval_split: of data sets that have several.
        language: `"zh"` or `"en"` take only what is in it.
        strict: stop at the first broken row.
        dtype: of what is frozen; by default that of `bf16` or `fp16`, else float32.
        lora_r, lora_alpha, lora_dropout, lora_targets: of LoRA.
        learning_rates: regular expression → learning rate, see `parameter_groups`.
    """

    model: str | None = None
    output: str | None = None
    data: list[str] = field(default_factory=list)
    images: str | None = None
    mode: str = "lora"
    eval_data: list[str] = field(default_factory=list)
    eval_rows: int = 0
    split: str = "train"
    eval_split: str = "train"
    language: str = "both"
    strict: bool = False
    dtype: str | None = None
    lora_r: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    lora_targets: str | None = None
    learning_rates: dict | None = None

    modes: ClassVar[tuple[str, ...]]
    refused: ClassVar[dict[str, str]]  # of TrainingArguments
    warms_up_by_log: ClassVar[bool] = False  # as DeepSpeed's WarmupLR

    def check(self) -> None:
        """Raises a SettingsError for a value that means nothing."""
        require_choices(self, {"mode": self.modes, "language": LANGUAGES, "dtype": DTYPES})
        for name in ("model", "output", "data"):
            if not getattr(self, name):
                raise SettingsError(f"--{name} is missing: give it here or in the file of --config.")
        require_numbers(self, ("lora_r", 1, None), ("lora_dropout", 0, 0.99), ("eval_rows", 0, None))
        require_lora(self)
        if self.eval_data and self.eval_rows:
            raise SettingsError("Got eval_data and eval_rows, expected one of them.")
        require_rates(self.learning_rates)


@dataclass
class ChatSettings(RunSettings):
    """What `viscpm finetune chat` has beside TrainingArguments; each is an option of the command line and of the YAML.

    Args, beside those of `RunSettings`:
        mode: `"full"`, `"lora"` or `"qlora"`.
        tune_llm, tune_vision: what is trained, see `finetuning.model`.
        captions: how a caption is asked for: `"question"`, or `"input"` as in the original.
        augment: whether pictures are varied as in the original.
        min_side: pixels; smaller pictures are left out. By default 4/7 of the model's, 128 of 224 as in the original.
        max_length: tokens of a sample; longer ones lose their oldest turns.
        streaming, buffer: read rows when they are wanted, shuffled among so many.
        decay_all: whether weights decay in norms and biases as well.
        show_answers: samples of the evaluation data that are answered at every evaluation.
    """

    tune_llm: bool = False
    tune_vision: bool = False
    captions: str = "question"
    augment: bool = False
    min_side: int | None = None
    max_length: int = 512
    streaming: bool = False
    buffer: int = 1000
    decay_all: bool = False
    show_answers: int = 4

    modes = MODES
    refused = CHAT_REFUSED
    warms_up_by_log = True

    def check(self) -> None:
        """See `RunSettings`."""
        super().check()
        require_choices(self, {"captions": CAPTIONS})
        require_numbers(
            self, ("max_length", 8, None), ("min_side", 0, None), ("buffer", 1, None), ("show_answers", 0, None)
        )
        if self.streaming and self.eval_rows:
            raise SettingsError("Got eval_rows with streaming, where nobody knows the rows: give eval_data.")

    @property
    def usual(self) -> dict[str, Any]:
        """Values of TrainingArguments, unless they are given."""
        # a batch may have no picture, and then the vision side takes no part
        return {"ddp_find_unused_parameters": self.mode == "full" or self.tune_vision}

    @property
    def orders(self) -> tuple[str, ...]:
        """In which samples can be taken, as `train_sampling_strategy` names them."""
        return ("random",) if self.streaming else ("random", "sequential", "group_by_length")


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
    return chosen, make_training_arguments(chosen, options, training)


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
