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
            "float16、bfloat16 或 float32；默认：与类的加载方式相同",
        ),
    ),
]
