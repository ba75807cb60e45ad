"""What the tiny models in the package understand. Imports nothing that takes long."""

from collections.abc import Callable, Mapping

import typer
from typer.models import OptionInfo

from ..language import say
from ..tiny import PICTURES

# picture, question, answer; each in both languages
QUESTIONS = (
    ("1_circle_and_star.png", "红色的图形在哪里？", "它在左上角。"),
    ("1_circle_and_star.png", "Where is the red object?", "It is in the top left."),
    ("1_circle_and_star.png", "五角星是什么颜色？", "它是蓝色的。"),
    ("1_circle_and_star.png", "What colour is the star?", "It is blue."),
    ("2_triangle_and_cross.png", "背景是什么颜色？", "背景是灰色的。"),
    ("2_triangle_and_cross.png", "What colour is the background?", "The background is gray."),
    ("2_triangle_and_cross.png", "描述一下这张图片。", "左侧有一个绿色的三角形，正下方有一个橙色的十字形。"),
    (
        "2_triangle_and_cross.png",
        "Describe the picture.",
        "There is a green triangle in the middle left and an orange cross in the bottom middle.",
    ),
    ("3_two_hearts.png", "图里有几个心形？", "图里有两个心形。"),
    ("3_two_hearts.png", "How many hearts are there?", "There are two hearts."),
)
PROMPTS = (
    ("一个红色的圆形", "a red circle"),
    ("左下角有一个蓝色的五角星。", "There is a blue star in the bottom left."),
    ("紫色的心形", "purple heart"),
    ("一个橙色的十字形，在右上角", "In the top right there is an orange cross."),
)


def chat_examples() -> str:
    """Pictures, and questions about them with their answers."""
    lines = [
        say(
            "The tiny Chat model in the package knows pictures of coloured shapes, and questions such as these:",
            "包内自带的小 Chat 模型只认识合成图形的图片，能回答这样的问题：",
        )
    ]
    for name in dict.fromkeys(picture for picture, _, _ in QUESTIONS):
        lines += ["", str(PICTURES / name)]
        lines += [f"  {question}  →  {answer}" for picture, question, answer in QUESTIONS if picture == name]
    return "\n".join(lines)


def paint_examples() -> str:
    """Prompts in both languages."""
    lines = [
        say(
            "The tiny Paint model in the package paints one coloured shape on white, for prompts such as these:",
            "包内自带的小 Paint 模型在白色背景上画一个彩色图形，能理解这样的提示词：",
        ),
        "",
    ]
    return "\n".join(lines + [f"  {chinese}  /  {english}" for chinese, english in PROMPTS])


def for_pages(models: Mapping[str, str]) -> dict[str, list[tuple]]:
    """For `viscpm_hf.serving.pages.create_pages`: English before Chinese, and nothing of models that are not tiny.

    Args:
        models: `chat` and `paint` → which it is.
    """
    pairs = zip(QUESTIONS[::2], QUESTIONS[1::2], strict=True)
    questions = [(PICTURES / picture, english, chinese) for (picture, chinese, _), (_, english, _) in pairs]
    prompts = [(english, chinese) for chinese, english in PROMPTS]
    return {
        "questions": questions if models["chat"] == "tiny" else [],
        "prompts": prompts if models["paint"] == "tiny" else [],
    }


def examples_option(examples: Callable[[], str], about: str) -> OptionInfo:
    """The option `--examples` of a verb: prints them, and that is all.

    Args:
        examples: makes the text.
        about: for the help.
    """

    def print_and_exit(asked: bool) -> None:
        if asked:
            print(examples())
            raise typer.Exit()

    return typer.Option("--examples", callback=print_and_exit, is_eager=True, help=about)
