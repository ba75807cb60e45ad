"""`viscpm merge`: a LoRA becomes part of a model's weights."""

from pathlib import Path
from typing import Annotated

import typer

from ..language import printable, say
from .convert import Output, Precision, ShardSize
from .program import verb


def add_to(app: typer.Typer) -> None:
    app.command(
        help=say(
            "Add a LoRA to the weights of a converted VisCPM-Chat: a repository that needs no adapter.",
            "把 LoRA 合并进转换后的 VisCPM-Chat 的权重，得到不再需要适配器的仓库。",
        )
    )(merge)


@verb
def merge(
    model: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help=say("what the LoRA was trained on, not quantized", "训练该 LoRA 时所用的模型，未量化"),
        ),
    ],
    adapter: Annotated[
        str,
        typer.Option(
            metavar="DIR_OR_REPO",
            help=say("the LoRA, as viscpm finetune or peft saves it", "LoRA，由 viscpm finetune 或 peft 保存"),
        ),
    ],
    output: Output,
    dtype: Precision = "keep",
    max_shard_size: ShardSize = "5GB",
) -> None:
    from ..checkpoint import merge_adapter

    folder = merge_adapter(model, adapter, output, dtype=dtype, max_shard_size=max_shard_size)
    print(say("Written:", "已写入："), printable(str(folder)))
