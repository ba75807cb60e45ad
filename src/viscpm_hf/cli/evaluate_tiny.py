"""`viscpm evaluate tiny`: all that can be measured offline, in one table."""

from typing import Annotated, Literal

import typer

from ..language import say
from .evaluate_qa90 import Format
from .program import verb

PRECISIONS = ("float32", "bfloat16", "int8", "4bit")


def add_to(group: typer.Typer) -> None:
    group.command(
        help=say(
            "The tiny models in the package: what Chat answers, what Paint paints, what Chat says of it.",
            "包内自带的小模型：Chat 的回答、Paint 的图片，以及 Chat 对这些图片的回答。",
        ),
        epilog=say("Nothing is downloaded. It takes about ten minutes.", "不下载任何内容，约需十分钟。"),
    )(tiny)


def _count(english: str, chinese: str, most: int = 10_000):
    return Annotated[int, typer.Option(min=1, max=most, metavar="N", help=say(english, chinese))]


def tiny(
    precisions: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            metavar="NAME",
            help=say(
                "float32, bfloat16, int8 or 4bit; may come again (default: all)",
                "float32、bfloat16、int8 或 4bit；可多次给出，默认全部",
            ),
        ),
    ] = None,
    questions: _count("to Chat in each language", "每种语言向 Chat 提问的个数") = 550,
    prompts: _count("to Paint in each language and split", "每种语言、每个划分的提示词数") = 200,
    beams: _count("of Chat's answers; 3 is the original's search", "束宽；原版为 3", 16) = 1,
    scheduler: Annotated[
        Literal["ddpm", "dpm++"], typer.Option(help=say("of Paint's pictures", "作画用的调度器"))
    ] = "dpm++",
    steps: _count("of denoising", "去噪步数", 1000) = 20,
    seed: Annotated[
        int,
        typer.Option(min=0, max=2**31, metavar="N", help=say("of what is asked, and of noise", "问题与噪声的种子")),
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help=say("counts as JSON", "以 JSON 打印计数"))] = False,
    form: Format = "text",
) -> int:
    chosen = tuple(dict.fromkeys(precisions or PRECISIONS))
    for name in chosen:
        if name not in PRECISIONS:
            raise typer.TyperException(f"Got {name[:40]!r} as --precision, expected one of {', '.join(PRECISIONS)}.")
    settings = {"questions": questions, "prompts": prompts, "beams": beams}
    settings |= {"scheduler": scheduler, "steps": steps, "seed": seed}
    return _tiny(chosen, settings, "json" if as_json else form)


@verb
def _tiny(chosen, settings, form):
    from .remarks import only_ours

    with only_ours():
        from ..evaluation.tables import table
        from ..tiny import use_one_thread
        from ..tiny.measures.precisions import Settings, as_json, measure, table_rows

        use_one_thread()
        settings = Settings(**settings)
        measured = {precision: measure(precision, settings) for precision in chosen}
    print(as_json(measured, settings) if form == "json" else table(*table_rows(measured), form == "markdown"))
