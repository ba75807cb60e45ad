"""`viscpm evaluate qa90|images|tiny`: the paper's tables, and the tiny models' own."""

import typer

from ..language import say
from . import evaluate_images, evaluate_qa90, evaluate_tiny


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(
        help=say(
            "Measure how good a model is: the paper's tables, and the tiny models' own.",
            "衡量模型的好坏：论文中的表格，以及自带小模型的表格。",
        ),
        no_args_is_help=False,
    )
    for verb in (evaluate_qa90, evaluate_images, evaluate_tiny):
        verb.add_to(group)
    app.add_typer(group, name="evaluate")
