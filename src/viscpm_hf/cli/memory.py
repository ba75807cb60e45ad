"""`viscpm fit` and `viscpm quantize`: what a model needs, and a copy that needs less."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..language import printable, say
from .options import Device, Dtype
from .program import complain, verb


def add_to(app: typer.Typer) -> None:
    app.command(
        help=say(
            "What a converted model needs of memory and what fits, before anything is loaded.",
            "加载之前，先看转换后的模型需要多少内存、哪种方式放得下。",
        )
    )(fit)
    app.command(
        help=say(
            "Copy a converted model with 8-bit or 4-bit weights; those of Paint are calibrated.",
            "把转换后的模型另存为 8 或 4 比特量化的一份；Paint 的 4 比特按提示词校准。",
        )
    )(quantize)


def fit(
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help=say(
                "converted VisCPM-Chat or VisCPM-Paint; with --train by default the released VisCPM-Chat",
                "转换后的 VisCPM-Chat 或 VisCPM-Paint；用 --train 时默认为已发布的 VisCPM-Chat",
            ),
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help=say("budget such as 8GB (default: all of the device's)", "预算，如 8GB（默认：设备的全部）"),
        ),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Annotated[
        Literal["auto", "int8", "4bit"] | None,
        typer.Option(
            metavar="NAME",
            help=say(
                "auto also takes plans that quantize weights; int8 or 4bit: only that",
                "auto：也接受量化权重；int8、4bit：只看这一种",
            ),
        ),
    ] = None,
    allow_lossy: Annotated[bool, typer.Option("--allow-lossy", hidden=True)] = False,  # what auto was called first
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="PNG",
            help=say("draw the plans' memory by component to this new file", "把各方案的内存按部件画到这个新文件"),
        ),
    ] = None,
    train: Annotated[
        Literal["full", "lora", "qlora"] | None,
        typer.Option(
            metavar="NAME",
            help=say("what fine-tuning needs: full, lora or qlora", "微调所需内存：full、lora 或 qlora"),
        ),
    ] = None,
    tune_llm: Annotated[
        bool, typer.Option("--tune-llm", help=say("full: also the language model", "full：也训练语言模型"))
    ] = False,
    tune_vision: Annotated[
        bool, typer.Option("--tune-vision", help=say("also the vision tower", "也训练视觉编码器"))
    ] = False,
    batch: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, max=2**16, help=say("samples at once; default: 1", "每个设备的批大小；默认：1")
        ),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=8,
            max=2**20,
            help=say("tokens of a sample; default: 512", "一个样本的 token 数；默认：512"),
        ),
    ] = None,
    lora_r: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=2**16, help=say("rank of LoRA; default: 8", "LoRA 的秩；默认：8")),
    ] = None,
    no_checkpointing: Annotated[
        bool,
        typer.Option(
            "--no-checkpointing", help=say("save states inside of layers, too", "也保存各层的中间结果（不重计算）")
        ),
    ] = False,
) -> int | None:
    training = {"tune_llm": tune_llm, "tune_vision": tune_vision, "batch": batch, "length": length, "r": lora_r}
    given = {name: value for name, value in training.items() if value}
    if train:
        if plot is not None or allow_lossy or quantization:
            return complain("--plot and --quantization do not go with --train; see `viscpm fit --help`.", 2)
        option, its = ("--lora-r", "lora or qlora") if train == "full" else ("--tune-llm", "full")
        if lora_r if train == "full" else tune_llm:
            return complain(f"Got {option}, which belongs to --train {its}, with --train {train}: choose one.", 2)
        return _fit_training(
            model, memory, device, dtype, {"mode": train, "checkpointing": not no_checkpointing} | given
        )
    if given or no_checkpointing:
        return complain("Options of training need --train full, lora or qlora; see `viscpm fit --help`.", 2)
    if model is None:
        return complain("--model is missing; see `viscpm fit --help`.", 2)
    return _fit(model, memory, device, dtype, "auto" if allow_lossy and not quantization else quantization, plot)


@verb
def _fit(
    model: Path, memory: str | None, device: str | None, dtype: str | None, quantization: str | None, plot: str | None
) -> None:
    import torch

    from ..checkpoint.errors import CheckpointError
    from ..checkpoint.files.sizes import parse_size
    from ..checkpoint.files.staging import refuse_existing, staged
    from ..memory.budget import WORDS, choose, faster_quantized, is_stored_in, of_method
    from ..memory.machine import default_device, this_machine
    from ..memory.plans import Workload, list_plans
    from ..memory.report import as_text, draw
    from ..memory.sizes import read_model
    from ..memory.timing import with_times

    picture = None if plot is None else Path(plot)
    if picture is not None:
        if picture.suffix.lower() != ".png":
            raise CheckpointError(f"Got {plot!r} as --plot, expected the name of a new picture, ending in .png.")
        refuse_existing(picture)
    budget = None if memory is None else parse_size(memory, "--memory")
    sizes, workload = read_model(model), Workload()
    machine = this_machine(device or default_device(), model)
    precision = dtype and getattr(torch, dtype)
    machine = with_times(machine, sizes, list_plans(sizes, machine, budget, precision, workload), workload)
    plans = list_plans(sizes, machine, budget, precision, workload)
    if quantization in WORDS and not is_stored_in(sizes, quantization):
        plans = of_method(plans, quantization, sizes, machine.device, str(model))
    taken = refusal = None
    try:
        taken = choose(plans, machine, budget, quantization is not None, str(model))
    except ValueError as error:
        refusal = error
    faster = taken and faster_quantized(plans, machine, budget, taken)
    print(as_text(model, sizes, machine, workload, plans, taken, budget, faster))
    if picture is not None:
        try:
            with staged(picture) as path:
                draw(plans, taken, budget, path)
        except OSError as error:  # which names a hidden file beside it
            raise CheckpointError(f"Could not write {plot!r} ({error.strerror or error}).") from error
        print(say("\nDrawn to", "\n已画入"), printable(plot))
    if refusal:
        sys.stdout.flush()
        raise refusal


@verb
def _fit_training(model: Path | None, memory: str | None, device: str | None, dtype: str | None, given: dict) -> None:
    import torch

    from ..checkpoint.errors import CheckpointError
    from ..checkpoint.files.sizes import parse_size
    from ..memory.machine import default_device, this_machine
    from ..memory.sizes import read_model, released_chat
    from ..memory.training import Training
    from ..memory.training_report import as_text, refusal, training_plans

    budget = None if memory is None else parse_size(memory, "--memory")
    sizes = released_chat() if model is None else read_model(model)
    name = say("VisCPM-Chat as released", "已发布的 VisCPM-Chat") if model is None else str(model)
    if sizes.kind != "chat" or sizes.quantized:
        what = "is quantized" if sizes.quantized else "is a VisCPM-Paint"
        raise CheckpointError(f"{name} {what}, but --train is for a converted VisCPM-Chat in its own precision.")
    machine = this_machine(device or default_device())
    if budget is None:
        budget = machine.ram if machine.device == "cpu" else machine.device_memory
    if budget is None:
        raise CheckpointError("There is no GPU here to look at: give its size, such as --memory 80GB.")
    # as `viscpm finetune chat` with --bf16 on a GPU, without on a CPU
    chosen = getattr(torch, dtype or ("float32" if machine.device == "cpu" else "bfloat16"))
    plans = training_plans(sizes, machine, Training(**given, dtype=chosen))
    print(as_text(name, sizes, machine, plans, budget))
    sentence = refusal(name, plans, budget)
    if sentence:
        sys.stdout.flush()
        raise ValueError(sentence)


@verb
def quantize(
    model: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help=say("converted VisCPM-Chat or VisCPM-Paint", "转换后的 VisCPM-Chat 或 VisCPM-Paint")
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="DIR", help=say("folder to create", "要创建的文件夹"))],
    method: Annotated[
        Literal["int8", "4bit"] | None,
        typer.Option(
            metavar="NAME",
            help=say(
                "int8 halves the language model, 4bit makes it a quarter; for Paint by default 4bit",
                "int8 使语言模型减半，4bit 减到四分之一；Paint 默认为 4bit",
            ),
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=say(
                "Paint, 4bit: texts like those to be painted, one a line",
                "Paint 的 4bit：与将要作画的提示词相似的文本，每行一条",
            ),
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(metavar="N", help=say("prompts to draw from it; default: 128", "从中抽取的条数；默认：128")),
    ] = None,
    device: Device = None,
) -> None:
    from ..checkpoint import repo
    from ..checkpoint.errors import CheckpointError
    from ..memory.calibration_inputs import read_prompts
    from .remarks import only_ours

    is_paint = repo.kind_of(model) == repo.PAINT.model_type
    if method is None and not is_paint:
        raise CheckpointError(f"{model} is a VisCPM-Chat: say --method int8 or --method 4bit.")
    calibrated = is_paint and method != "int8"
    if calibrated and prompts is None:
        raise CheckpointError("Paint's 4 bits are fitted to texts like those to be painted: give them with --prompts.")
    given = {"--prompts": prompts, "--samples": samples, "--device": None if device == "cpu" else device}
    if not calibrated and (extra := [name for name, value in given.items() if value is not None]):
        raise CheckpointError(
            f"Got {', '.join(extra)}, which only Paint's 4 bits take: leave {'it' if len(extra) == 1 else 'them'} out."
        )
    texts = read_prompts(prompts, 128 if samples is None else samples) if calibrated else []
    with only_ours():
        from ..memory.calibration import quantize_paint
        from ..memory.rounded_repository import quantize_to_nearest

        if calibrated:
            written = quantize_paint(model, texts, output, device)
        else:
            written = quantize_to_nearest(model, output, method)
    print(say("Written:", "已写入："), printable(str(written)))
