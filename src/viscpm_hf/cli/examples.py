"""What the tiny models in the package understand. Imports nothing that takes long."""

from collections.abc import Callable, Mapping

import typer
from typer.models import OptionInfo

from ..language import say
from ..tiny import PICTURES

# picture, question, answer; each in both languages
QUESTIONS = (
    ("1_cat_and_apple.png", "图里有什么？", "图里有一只猫和一个苹果。"),
    ("1_cat_and_apple.png", "What is in the picture?", "There is a cat and an apple."),
    ("1_cat_and_apple.png", "苹果在哪里？", "苹果在右侧。"),
    ("1_cat_and_apple.png", "Where is the apple?", "The apple is in the middle right."),
    ("2_rocket_and_moon.png", "哪些会飞？", "火箭会飞。"),
    ("2_rocket_and_moon.png", "Which of these can fly?", "The rocket can fly."),
    ("2_rocket_and_moon.png", "描述一下这张图片。", "夜里，右上角有一个大月亮，左下角有一枚大火箭。"),
    (
        "2_rocket_and_moon.png",
        "Describe the picture.",
        "At night there is a large moon in the top right and a large rocket in the bottom left.",
    ),
    ("3_two_fish.png", "图里有几条鱼？", "图里有两条鱼。"),
    ("3_two_fish.png", "How many fish are there?", "There are two fish."),
)
PROMPTS = (
    ("草地上有一只猫", "a cat on the grass"),
    ("夜空中有一枚火箭", "a rocket at night"),
    ("一个苹果在一根香蕉的左边", "an apple to the left of a banana"),
    ("左下角有一个蓝色的五角星", "a blue star in the bottom left"),
)


def chat_examples() -> str:
    """Pictures, and questions about them with their answers."""
    lines = [
        say(
            "The tiny Chat model in the package knows simple drawings, and questions such as these:",
            "包内自带的小 Chat 模型只认识简单的图画，能回答这样的问题：",
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
            "The tiny Paint model in the package paints simple things, for prompts such as these:",
            "包内自带的小 Paint 模型能画简单的东西，理解这样的提示词：",
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
