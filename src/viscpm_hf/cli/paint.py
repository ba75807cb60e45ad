"""`viscpm paint`: pictures from prompts."""

from pathlib import Path
from typing import Annotated

import typer

from ..language import say
from .examples import examples_option, paint_examples
from .options import Candidates, Device, Dtype, Guidance, Memory, Model, Negative, Quantization, Scheduler, Size, Steps
from .program import verb


def add_to(app: typer.Typer) -> None:
    app.command(help=say("Paint pictures from prompts.", "按提示词画图（文生图）。"))(paint)


def paint(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", show_default=False, help=say("what to paint", "提示词"))
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            metavar="TXT",
            help=say("more prompts, one a line; - for standard input", "更多提示词，每行一条；- 表示标准输入"),
        ),
    ] = None,
    model: Model = None,
    lora: Annotated[
        str | None,
        typer.Option(
            metavar="DIR_OR_REPO",
            help=say("a LoRA, as viscpm finetune paint saves it", "LoRA，由 viscpm finetune paint 保存"),
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help=say("folder for the pictures", "存放图片的文件夹"))
    ] = Path("painted"),
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**64 - 1,
            metavar="N",
            help=say(
                "of every picture; a prompt that comes again gets the next one (default: drawn by lot)",
                "每张图片的随机种子；重复的提示词依次加一（默认：随机）",
            ),
        ),
    ] = None,
    steps: Steps = None,
    size: Size = None,
    negative: Negative = None,
    guidance: Guidance = None,
    candidates: Candidates = None,
    scheduler: Scheduler = None,
    sheet: Annotated[
        bool, typer.Option("--sheet", help=say("also all pictures side by side in one", "另存一张拼图"))
    ] = False,
    examples: Annotated[
        bool,
        examples_option(paint_examples, say("list what the tiny model understands", "列出小模型能理解的提示词")),
    ] = False,
    memory: Memory = None,
    quantization: Quantization = None,
    dtype: Dtype = None,
    device: Device = None,
) -> int:
    if not prompts and file is None:
        raise typer.TyperException('Got no prompt: give some, as in viscpm paint "a cat on the grass", or --file TXT.')
    if not all(prompt.strip() for prompt in prompts or ()):
        raise typer.TyperException("Got an empty prompt: say what to paint.")
    settings = {"steps": steps, "size": size, "negative": negative, "guidance": guidance, "candidates": candidates}
    loading = {"memory": memory, "quantization": quantization, "dtype": dtype, "device": device}
    loading |= {"lora": lora}
    return _paint(list(prompts or ()), file, model, output, seed, scheduler, settings, loading, sheet)


@verb
def _paint(prompts, file, model, output, seed, scheduler, settings, loading, sheet):
    from .painting import Painter, check_candidates, check_size, made, read_lines
    from .remarks import only_ours, tell

    if file is not None:
        prompts += read_lines(file)
    check_size(model, settings["size"])
    check_candidates(model, settings["candidates"])
    with made(output), only_ours():
        if model is None:
            from ..tiny import use_one_thread

            use_one_thread()
            tell(_about_the_tiny_model())
        return Painter(model, scheduler, settings, loading).paint(prompts, output, seed, sheet)


def _about_the_tiny_model():
    return say(
        'Without --model the tiny model in the package paints simple things, for prompts such as "a cat on the grass" '
        'or "夜空中有一枚火箭"; more: viscpm paint --examples',
        "未给 --model，由包内自带的小模型画简单的东西，提示词如“草地上有一只猫”或"
        "“a rocket at night”；更多：viscpm paint --examples",
    )
