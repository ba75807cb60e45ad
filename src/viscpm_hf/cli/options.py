"""Options that several verbs have."""

import re
from typing import Annotated, Literal

import typer

from ..language import say

Device = Annotated[
    Literal["cuda", "cpu"] | None,
    typer.Option(
        metavar="NAME", help=say("cuda or cpu; default: cuda if there is a GPU", "cuda 或 cpu；默认：有 GPU 就用 cuda")
    ),
]
Dtype = Annotated[
    Literal["float16", "bfloat16", "float32"] | None,
    typer.Option(
        metavar="TYPE",
        help=say(
            "float16, bfloat16 or float32; default: as the classes load it",
            "float16、bfloat16、float32；默认：与类的加载方式相同",
        ),
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="DIR_OR_REPO",
        help=say("converted model; default: the tiny one in the package", "转换后的模型；默认：包内自带的小模型"),
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help=say(
            "what it may take of the GPU, or without one of main memory, such as 5GB",
            "最多占用的显存（没有 GPU 时为内存），如 5GB",
        ),
    ),
]
Quantization = Annotated[
    Literal["auto", "int8", "4bit"] | None,
    typer.Option(
        help=say(
            "quantize the language model; auto: only if it does not fit into --memory otherwise",
            "量化语言模型；auto：仅当未量化时放不进 --memory",
        )
    ),
]

_MOST = 2**26  # pixels, as for the pipeline


def _size(text: str) -> tuple[int, int]:
    """Width and height of `512x512`, or of `512` for a square."""
    found = re.fullmatch(r"(\d{1,6})(?:[xX×*](\d{1,6}))?", text.strip())
    width, height = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 0 < width * height <= _MOST:
        raise typer.BadParameter(f"Got {text[:40]!r}, expected width and height in pixels such as 512x512.")
    return width, height


def _guidance(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not -1000 <= number <= 1000:
        raise typer.BadParameter(f"Got {text[:40]!r}, expected a number from -1000 to 1000 such as 7.5.")
    return number


Steps = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1000,
        metavar="N",
        help=say("of denoising (default: 50, with dpm++ 20)", "去噪步数，默认 50（dpm++：20）"),
    ),
]
Size = Annotated[
    tuple | None,
    typer.Option(
        parser=_size,
        metavar="WxH",
        help=say("in pixels (default: the model's own)", "像素，默认为模型自身的大小"),
    ),
]
Negative = Annotated[str | None, typer.Option(metavar="TEXT", help=say("what not to paint", "反向提示词"))]
Guidance = Annotated[
    float | None,
    typer.Option(
        parser=_guidance,
        metavar="X",
        help=say(
            "how closely to follow the prompt (default: 7.5, 4 for the tiny model)",
            "遵循提示词的程度，默认 7.5，自带小模型为 4",
        ),
    ),
]
Candidates = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=64,
        metavar="N",
        help=say(
            "pictures the ranker chooses from (default: 4 with a ranker, else 1)",
            "重排序的候选数，默认 4，没有重排序模型则为 1",
        ),
    ),
]
Scheduler = Annotated[
    Literal["ddpm", "dpm++"] | None,
    typer.Option(help=say("default: the model's own, as the original's DDPM", "默认：模型自身的，即原版的 DDPM")),
]

# of a server, where `tiny` is the default
ChatModel = Annotated[
    str,
    typer.Option(
        metavar="DIR_OR_REPO",
        help=say(
            "converted VisCPM-Chat, or none; default: the tiny one in the package",
            "转换后的 VisCPM-Chat，或 none；默认：包内自带的小模型",
        ),
        show_default=False,
    ),
]
PaintModel = Annotated[
    str,
    typer.Option(
        metavar="DIR_OR_REPO",
        help=say(
            "converted VisCPM-Paint, or none; default: the tiny one in the package",
            "转换后的 VisCPM-Paint，或 none；默认：包内自带的小模型",
        ),
        show_default=False,
    ),
]
Host = Annotated[
    str,
    typer.Option(
        metavar="HOST",
        help=say("address to listen at; 0.0.0.0 for other machines, too", "监听地址；0.0.0.0 则其他机器也能访问"),
    ),
]
Port = Annotated[
    int, typer.Option(metavar="N", min=0, max=65535, help=say("0: any that is free", "端口；0 表示任一空闲端口"))
]
Public = Annotated[
    bool, typer.Option("--public", help=say("on the Hub: for everybody to see", "在 Hub 上：公开，人人可见"))
]
Private = Annotated[
    bool, typer.Option("--private", help=say("on the Hub: for yourself, as without", "在 Hub 上：私有，与不写相同"))
]
