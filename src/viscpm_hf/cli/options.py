"""Options that several verbs have."""

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
