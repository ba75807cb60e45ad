"""Options that several verbs have."""

from typing import Annotated, Literal

import typer

from ..language import say

Device = Annotated[
    Literal["cuda", "cpu"] | None, typer.Option(help=say("default: cuda if there is a GPU", "默认：有 GPU 就用 cuda"))
]
Dtype = Annotated[
    Literal["float16", "bfloat16", "float32"] | None,
    typer.Option(help=say("default: as the classes load it", "默认：与类的加载方式相同")),
]
