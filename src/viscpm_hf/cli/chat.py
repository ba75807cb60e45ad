"""`viscpm chat`: an answer, or a conversation."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from ..language import say
from .examples import chat_examples, examples_option
from .options import Device, Dtype, Memory, Model, Quantization
from .program import verb


def add_to(app: typer.Typer) -> None:
    app.command(
        help=say(
            "Answer a question about a picture, or without --question hold a conversation about it.",
            "回答关于图片的问题；不给 --question 则进入对话。",
        )
    )(chat)


def chat(
    model: Model = None,
    image: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=say(
                "the picture; without one text alone, for the tiny model one in the package",
                "图片；不给则只有文字，自带小模型则用包内的一张",
            ),
        ),
    ] = None,
    question: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help=say("print the answer and nothing else (beam search, 3 beams)", "只打印回答（束搜索，束宽 3）"),
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help=say("print the answer as JSON, with context and seconds", "以 JSON 打印回答，含上下文与秒数"),
        ),
    ] = False,
    examples: Annotated[
        bool,
        examples_option(
            chat_examples, say("list what the tiny model understands, and pictures", "列出小模型能理解的问题与图片")
        ),
    ] = False,
    adapter: Annotated[
        str | None,
        typer.Option(
            metavar="DIR_OR_REPO",
            help=say("LoRA for the model, see viscpm finetune", "用于该模型的 LoRA，见 viscpm finetune"),
        ),
    ] = None,
    memory: Memory = None,
    quantization: Quantization = None,
    dtype: Dtype = None,
    device: Device = None,
) -> int:
    if question is not None and not question.strip():
        raise typer.TyperException("Got an empty --question: ask something, or leave it out for a conversation.")
    if as_json and question is None:
        raise typer.TyperException("Got --json without --question: it is for a single answer.")
    options = {"memory": memory, "quantization": quantization, "dtype": dtype, "device": device, "adapter": adapter}
    return _chat(model, image, question, as_json, options)


@verb
def _chat(model, image, question, as_json, options):
    from ..tiny import PICTURES, tiny_chat_repo, use_one_thread
    from .conversation import converse, of_the_class, open_picture, states_of
    from .remarks import is_terminal, only_ours, tell

    shipped = PICTURES / "1_cat_and_apple.png"
    if model is None and image is None:  # of words alone the tiny model knows nothing
        image = shipped
    picture = None if image is None else open_picture(image)  # before a model is loaded in vain
    with only_ours():
        from ..chat import VisCPMChat

        if model is None:
            use_one_thread()
            tell(_about_the_tiny_model(shipped))
        chat = VisCPMChat(tiny_chat_repo() if model is None else model, **options)
        name = "VisCPM-Chat-tiny" if model is None else model
        if question is None:
            return converse(chat, name, image, picture, interactive=is_terminal(sys.stdin))
        started = time.perf_counter()
        states = None if picture is None else states_of(chat, image, picture)
        try:
            answer, context, _ = chat.chat(None, question, vision_hidden_states=states)
        except ValueError as error:
            raise ValueError(of_the_class(error)) from error
        seconds = time.perf_counter() - started
    if as_json:
        found = {"question": question, "answer": answer, "context": context, "seconds": round(seconds, 3)}
        found |= {"model": name, "image": None if image is None else str(image)}
        answer = json.dumps(found, ensure_ascii=False)
    print(answer)


def _about_the_tiny_model(shipped):
    return say(
        f"Without --model the tiny model in the package answers, without --image about {shipped}. It knows simple "
        'drawings: ask "Where is the cat?" or "猫在哪里？"; more: viscpm chat --examples',
        f"未给 --model，由包内自带的小模型回答；未给 --image，图片是 {shipped}。它只认识简单的图画：可以问"
        "“猫在哪里？”或“Where is the cat?”；更多：viscpm chat --examples",
    )
