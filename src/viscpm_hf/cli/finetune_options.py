"""What `viscpm finetune chat` and `viscpm finetune paint` share: options, None where not given, and the run."""

from collections.abc import Callable
from typing import Annotated, Literal

import typer

from ..language import printable, say
from .program import complain
from .repositories import warn_of_a_local_model


def switch(names: str, english: str, chinese: str):
    """An option that is on or off.

    Args:
        names: of it, with dashes.
        english, chinese: its line on the help page.
    """
    return typer.Option(names, help=say(english, chinese))


Data = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE_OR_ID",
        help=say(
            "JSON, JSONL, Parquet, a folder, or a data set on the Hub; may be given again",
            "数据文件、文件夹或 Hub 上的数据集；可多次给出",
        ),
    ),
]
Images = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help=say(
            "where relative paths of pictures start; default: beside the data",
            "图片相对路径的起点；默认：数据所在文件夹",
        ),
    ),
]
Output = Annotated[
    str | None,
    typer.Option(metavar="DIR", help=say("folder for checkpoints and the result", "存放检查点和结果的文件夹")),
]
Config = Annotated[
    str | None,
    typer.Option(metavar="FILE", help=say("YAML with any of the options", "写有任意选项的 YAML 文件")),
]
EvalData = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE_OR_ID", help=say("data to evaluate with", "评估数据")),
]
EvalRows = Annotated[
    int | None,
    typer.Option(metavar="N", help=say("or so many rows held out of --data", "或从 --data 中留出的行数")),
]
Split = Annotated[
    str | None,
    typer.Option(metavar="NAME", help=say("of a data set with several; default: train", "数据集的划分；默认：train")),
]
EvalSplit = Annotated[
    str | None,
    typer.Option(metavar="NAME", help=say("the same of --eval-data", "--eval-data 的划分")),
]
Language = Annotated[
    Literal["both", "zh", "en"] | None,
    typer.Option(
        metavar="NAME",
        help=say("zh, en or both; default: both", "训练文本的语言 zh、en 或 both；默认：both"),
    ),
]
Strict = Annotated[
    bool | None,
    switch("--strict", "stop at the first broken row", "遇到第一行损坏数据就停止"),
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option(
        metavar="TYPE",
        help=say(
            "of frozen weights; default: that of --bf16 or --fp16, else float32",
            "冻结权重的类型；默认：随 --bf16 或 --fp16，否则 float32",
        ),
    ),
]
LoraDropout = Annotated[
    float | None,
    typer.Option(metavar="X", help=say("before its layers; default: 0", "LoRA 层的 dropout；默认：0")),
]


def train(read: Callable[[], tuple], finetune: Callable, usage: str) -> int | None:
    """Trains with settings of the command line, and says where the result is.

    Args:
        read: gives our settings and TrainingArguments.
        finetune: takes both, and returns the output folder.
        usage: command that explains the options.

    Returns:
        The exit code: 2 if a setting means nothing, 130 after Ctrl-C.
    """
    from ..finetuning.settings import SettingsError

    try:
        settings, training = read()
    except SettingsError as error:
        return complain(f"{str(error).rstrip('.')}; see `{usage}`.", 2)
    try:
        output = finetune(settings, training)
    except KeyboardInterrupt:
        return complain("interrupted; the same command goes on from the last checkpoint.", 130)
    if training.should_save:  # of several processes
        print(say("Written:", "已写入："), printable(str(output)))
        if (output / "adapter_config.json").is_file():
            warn_of_a_local_model(settings.model)
    return None
