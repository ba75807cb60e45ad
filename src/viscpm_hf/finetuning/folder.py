"""The folder of a run: what it is of, who is at work in it, and what must not be written there."""

import dataclasses
import json
import os
import sys
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from ..language import printable, say
from .check import write_left_out
from .dataset import ChatDataset, ChatStream, summary
from .settings import RunSettings
from .trainer import resume_from

BEGUN, LEFT_OUT, LOCK = "finetune.json", "left_out.jsonl", ".lock"
# settings that may change when a run goes on
_FREE = ("output", "show_answers", "eval_data", "eval_split")


def refuse_other(output: Path, settings: RunSettings) -> None:
    """Raises a ValueError if the output folder holds the result of other settings, or something else."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is no folder: give another --output.")
    file = output / BEGUN
    if not file.is_file():
        if output.is_dir() and any(path.name != LOCK for path in output.iterdir()):
            raise ValueError(
                f"{output} is not empty, and nothing there says it is a run of this command: give a new one."
            )
        return
    last = resume_from(output)
    if last and not any(Path(last).glob("rng_state*.pth")):  # of every checkpoint that is more than weights
        raise ValueError(
            f"{last} was saved with --save_only_model, and from weights alone a run cannot go on: give another "
            "--output."
        )
    if not last and not any(output.glob("*.safetensors")) and not (output / "model_index.json").exists():
        return  # nothing was learned yet
    try:
        begun = json.loads(file.read_text(encoding="utf-8"))
        other = [name for name, value in _fixed(settings).items() if begun.get(name, value) != value]
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{file} cannot be read: give another --output.") from error
    if other:
        name = other[0]
        raise ValueError(
            f"{output} holds a run with {name}={begun[name]!r}, and this one has {getattr(settings, name)!r}: give "
            "another --output, or the same settings to go on with it."
        )


def alone(output: Path) -> FileLock:
    """Makes the folder of a run, and holds it until what is returned is released, or the process ends.

    Args:
        output (`Path`): of the run.

    Raises:
        ValueError: another process trains into it.
    """
    output.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"Another run is at work in {output}: wait for its end, or give another --output.") from error
    return lock


def _fixed(settings: RunSettings) -> dict:
    return {name: value for name, value in dataclasses.asdict(settings).items() if name not in _FREE}


def begin(output: Path, settings: RunSettings, train: ChatDataset | ChatStream, held_out: ChatDataset | None) -> None:
    """Writes what this run is and which rows it leaves out into its folder, and says it.

    Args:
        output (`Path`): the folder, made if it is not there.
        settings (`RunSettings`): of the run.
        train, held_out: as `open_data` returns them.
    """
    output.mkdir(parents=True, exist_ok=True)
    partial = output / f".{BEGUN}.partial"
    partial.write_text(json.dumps(_fixed(settings), ensure_ascii=False, indent=2), encoding="utf-8")
    os.replace(partial, output / BEGUN)
    # rows held out of `train` share its list
    evaluated = held_out.left_out if settings.eval_data else []
    left_out = [*train.left_out, *evaluated]
    if not isinstance(train, ChatStream):
        write_left_out(output / LEFT_OUT, left_out)
        line = say(f"{len(train)} samples to train on", f"训练样本 {len(train)}")
    else:
        line = say("training on rows as they are read", "边读取边训练")
    if held_out is not None:
        line += say(f", {len(held_out)} to evaluate with", f"，评估样本 {len(held_out)}")
    if last := resume_from(output):
        line += say(f", going on from {Path(last).name}", f"，从 {Path(last).name} 继续")
    print(line, file=sys.stderr)
    if left_out:
        file, reasons = printable(str(output / LEFT_OUT)), printable(summary(left_out))
        english = f"{len(left_out)} row(s) left out, listed in {file}: {reasons}"
        print(say(english, f"略过 {len(left_out)} 行，列于 {file}：{reasons}"), file=sys.stderr)


def require_numbers_left(model: torch.nn.Module, output: Path) -> None:
    """Raises a ValueError if training has made something of a model that is no number, which no answer comes from.

    Args:
        model (`torch.nn.Module`): that has been trained.
        output (`Path`): of the run.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not parameter.isfinite().all():
            raise ValueError(
                f"The training came to nothing: {name} holds NaN or infinity. Give a lower --learning_rate, or --bf16 "
                f"in place of --fp16, and another --output; the checkpoints of {output} may be older than that."
            )


def require_space_left(error: Exception, output: str | Path) -> None:
    """Raises a ValueError if an error is one of a full disk, for which torch and safetensors have no class.

    Args:
        error (`Exception`): while something was saved.
        output (`str` or `Path`): where.
    """
    if any(words in str(error) for words in ("No space left", "PytorchStreamWriter", "unexpected pos")):
        raise ValueError(
            f"The disk of {output} is full: make room, or give --save_total_limit 1; the same command goes on from "
            "the last whole checkpoint."
        ) from error
