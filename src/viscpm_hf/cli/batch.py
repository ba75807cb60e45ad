"""`viscpm batch chat|paint`: the rows of a file, offline, going on where a run was stopped."""

import math
import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..language import say
from .options import Candidates, Device, Dtype, Guidance, Memory, Model, Negative, Quantization, Scheduler, Size, Steps
from .program import verb


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=False)
    group.command(
        help=say(
            'Answer the questions of a file. A row is {"question": "What is it?"}, with "image", a file\'s name, and '
            '"context" if wanted; LLaVA\'s "text" is a question, too. Other fields are kept. The '
            'row\'s line has "answer", "context", "finish_reason" and counts of tokens, or "error".',
            '批量回答文件中的问题。每行形如 {"question": "这是什么？"}，可另有 "image"（图片文件名）和 "context"'
            '（之前的对话）；也接受 LLaVA 的 "text"。其他字段原样保留。输出的对应行有 "answer"、"context"、'
            '"finish_reason" 和 token 数，或者 "error"。',
        )
    )(chat)
    group.command(
        help=say(
            'Paint the prompts of a file. A row is {"prompt": "a rocket at night"}, with "negative_prompt", "seed", '
            '"size", "steps", "guidance" and "candidates" if wanted. Other fields are kept. The row\'s line '
            'has "file" and "seed", or "error".',
            '按文件中的提示词批量画图。每行形如 {"prompt": "夜空中有一枚火箭"}，可另有 "negative_prompt"、"seed"、'
            '"size"、"steps"、"guidance" 和 "candidates"。其他字段原样保留。输出的对应行有 "file" 和 "seed"，'
            '或者 "error"。',
        )
    )(paint)
    app.add_typer(
        group,
        name="batch",
        help=say(
            "Work through a file of questions or prompts; what was stopped goes on with the same command.",
            "批量处理文件中的问题或提示词；中断后用同一条命令继续。",
        ),
    )


Input = Annotated[
    str,
    typer.Option(
        metavar="FILE",
        show_default=False,
        help=say("lines of JSON, one a row; - for standard input", "JSONL 文件，每行一条；- 表示标准输入"),
    ),
]
Output = Annotated[
    Path,
    typer.Option(
        metavar="FILE",
        help=say(
            "a line for each row, in order; if it is begun, it goes on", "每条一行，顺序相同；已有一部分时接着写"
        ),
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help=say("begin anew, whatever is there", "不管已有什么，重新开始")),
]
Processes = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1024,
        metavar="N",
        help=say(
            "each with the model and, if there are several, a GPU of its own (default: 1, with --ray as many as GPUs)",
            "进程数，各有一份模型，多块 GPU 时各用一块（默认 1，用 --ray 时每块 GPU 一个）",
        ),
    ),
]
Ray = Annotated[
    bool,
    typer.Option(
        "--ray",
        help=say(
            "on the machines of the Ray cluster that RAY_ADDRESS names; without it, in a Ray on this machine",
            "在 RAY_ADDRESS 指定的 Ray 集群的各台机器上；未设置则在本机启动 Ray",
        ),
    ),
]


def _temperature(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 100:
        raise typer.BadParameter(f"Got {text[:40]!r}, expected a number from 0 to 100 such as 0.7.")
    return number


def chat(
    input: Input,
    output: Output,
    model: Model = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help=say("where the pictures are (default: beside --input)", "图片所在的文件夹（默认：--input 旁边）"),
        ),
    ] = None,
    batch: Annotated[
        int,
        typer.Option(
            min=1, max=4096, metavar="N", help=say("how many rows go through a model at once", "模型一次处理的条数")
        ),
    ] = 8,
    processes: Processes = None,
    ray: Ray = False,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1_000_000,
            metavar="N",
            help=say("of an answer (default: the model's, 514)", "每个回答的上限（默认：模型自身的，514）"),
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            parser=_temperature,
            metavar="X",
            help=say(
                "sample; 0 is greedy search (default: beam search, 3 beams)",
                "采样；0 为贪心搜索（默认：束搜索，束宽 3）",
            ),
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=2**64 - 1,
            metavar="N",
            help=say("of sampling; a row has N plus its number", "采样的随机种子：N 加行号"),
        ),
    ] = 0,
    overwrite: Overwrite = False,
    memory: Memory = None,
    quantization: Quantization = None,
    dtype: Dtype = None,
    device: Device = None,
) -> int:
    loading = {"memory": memory, "quantization": quantization, "dtype": dtype, "device": device}
    sampling = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed if temperature else None}
    return _chat(input, output, overwrite, (processes, ray), model, loading, images, batch, sampling)


def paint(
    input: Input,
    output: Output,
    model: Model = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help=say(
                "for the PNGs (default: beside --output, NAME_pictures)",
                "存放 PNG（默认：--output 旁边的 NAME_pictures）",
            ),
        ),
    ] = None,
    processes: Processes = None,
    ray: Ray = False,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=2**64 - 1,
            metavar="N",
            help=say("of rows without one: N plus the row's number", "没有 seed 的行所用：N 加行号"),
        ),
    ] = 0,
    steps: Steps = None,
    size: Size = None,
    negative: Negative = None,
    guidance: Guidance = None,
    candidates: Candidates = None,
    scheduler: Scheduler = None,
    overwrite: Overwrite = False,
    memory: Memory = None,
    quantization: Quantization = None,
    dtype: Dtype = None,
    device: Device = None,
) -> int:
    loading = {"memory": memory, "quantization": quantization, "dtype": dtype, "device": device}
    settings = {"steps": steps, "size": size, "negative": negative, "guidance": guidance, "candidates": candidates}
    return _paint(input, output, overwrite, (processes, ray), model, loading, pictures, seed, scheduler, settings)


@verb
def _chat(input, output, overwrite, processes, model, loading, images, batch, sampling):
    from ..serving.batch.output import Output
    from ..serving.batch.rows import ANSWER
    from .batching import chat_rows, run, workers

    if images is None:
        images = Path.cwd() if input == "-" else Path(input).parent
    elif not images.is_dir():
        raise ValueError(f"There is no folder {images}: give one with pictures as --images.")
    images = images.absolute()
    settings = {"verb": "batch chat", "model": _name(model), "images": str(images), **sampling, **_of_answers(loading)}
    load = partial(chat_rows, model, loading, images, batch, sampling)
    return run(input, Output(output, ANSWER, settings), overwrite, workers(load, *processes, ahead=2 * batch))


@verb
def _paint(input, output, overwrite, processes, model, loading, pictures, seed, scheduler, settings):
    from ..serving.batch.output import Output
    from ..serving.batch.rows import PICTURE
    from .batching import paint_rows, run, workers
    from .painting import check_candidates, check_size

    check_size(model, settings["size"])
    check_candidates(model, settings["candidates"])
    pictures = output.with_name(f"{output.stem}_pictures") if pictures is None else pictures
    kept = {"verb": "batch paint", "model": _name(model), "pictures": str(pictures.absolute()), "seed": seed}
    kept |= {"scheduler": scheduler, **settings, "size": settings["size"] and list(settings["size"])}
    load = partial(paint_rows, model, loading, seed, scheduler, settings)
    output = Output(output, PICTURE, kept | _of_answers(loading), pictures)
    return run(input, output, overwrite, workers(load, *processes, ahead=2))  # the next, while one is being written


def _name(model):
    return "tiny" if model is None else os.path.abspath(model) if os.path.isdir(model) else model


def _of_answers(loading):
    return {name: loading[name] for name in ("dtype", "quantization")}
