"""`viscpm finetune`: a model learns, Chat from conversations about pictures; Paint: finetune_paint.py."""

from typing import Annotated, Literal

import typer

from ..language import say
from .finetune_options import (
    Config,
    Data,
    Dtype,
    EvalData,
    EvalRows,
    EvalSplit,
    Images,
    Language,
    LoraDropout,
    Output,
    Split,
    Strict,
    switch,
    train,
)
from .finetune_paint import paint
from .program import verb


def add_to(app: typer.Typer) -> None:
    finetune = typer.Typer(help=say("Fine-tune a converted model.", "微调转换后的模型。"), no_args_is_help=False)
    finetune.command(
        help=say(
            "Fine-tune VisCPM-Chat; every field of transformers' TrainingArguments is an option too, "
            "such as --max_steps 100. The same command again resumes.",
            "微调 VisCPM-Chat。transformers 的 TrainingArguments 的每个字段也都是选项，如 --max_steps 100。"
            "再次运行同一命令即从检查点继续。",
        ),
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(chat)
    finetune.command(
        help=say(
            "Fine-tune VisCPM-Paint on pictures with captions; every field of transformers' TrainingArguments is an "
            "option too, such as --max_steps 100. The same command again resumes.",
            "用带描述的图片微调 VisCPM-Paint。transformers 的 TrainingArguments 的每个字段也都是选项，如 --max_steps "
            "100。再次运行同一命令即从检查点继续。",
        ),
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(paint)
    app.add_typer(finetune, name="finetune")


def chat(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option(metavar="DIR_OR_REPO", help=say("converted VisCPM-Chat", "转换后的 VisCPM-Chat")),
    ] = None,
    data: Data = None,
    images: Images = None,
    output: Output = None,
    config: Config = None,
    mode: Annotated[
        Literal["full", "lora", "qlora"] | None,
        typer.Option(
            metavar="NAME", help=say("full, lora or qlora; default: lora", "训练方式 full、lora 或 qlora；默认：lora")
        ),
    ] = None,
    tune_llm: Annotated[
        bool | None,
        switch("--tune-llm", "full: also the language model", "full：也训练语言模型"),
    ] = None,
    tune_vision: Annotated[
        bool | None,
        switch("--tune-vision", "also the vision tower", "也训练视觉编码器"),
    ] = None,
    eval_data: EvalData = None,
    eval_rows: EvalRows = None,
    show_answers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=say("of these, answered at every evaluation; default: 4", "每次评估时回答的样本数；默认：4"),
        ),
    ] = None,
    split: Split = None,
    eval_split: EvalSplit = None,
    language: Language = None,
    captions: Annotated[
        Literal["question", "input"] | None,
        typer.Option(
            metavar="NAME",
            help=say(
                "captions are asked for by a question, or by the original's key input; default: question",
                "以 question（问题）或 input（原版的键）引出图片描述；默认：question",
            ),
        ),
    ] = None,
    augment: Annotated[
        bool | None,
        switch("--augment", "vary pictures as the original does", "按原版方式做图像增强"),
    ] = None,
    min_side: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=say(
                "leave out smaller pictures; default: 128 of 224 pixels", "略过更小的图片；默认：224 像素中的 128"
            ),
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(metavar="N", help=say("tokens of a sample; default: 512", "一个样本的 token 数；默认：512")),
    ] = None,
    strict: Strict = None,
    streaming: Annotated[
        bool | None,
        switch("--streaming", "read rows when they are wanted", "需要时才读取数据行"),
    ] = None,
    buffer: Annotated[
        int | None,
        typer.Option(
            metavar="N", help=say("then shuffle among so many; default: 1000", "流式读取时的打乱缓冲行数；默认：1000")
        ),
    ] = None,
    dtype: Dtype = None,
    lora_r: Annotated[
        int | None, typer.Option(metavar="N", help=say("rank of LoRA; default: 8", "LoRA 的秩；默认：8"))
    ] = None,
    lora_alpha: Annotated[
        float | None, typer.Option(metavar="X", help=say("its strength; default: 16", "LoRA 的强度；默认：16"))
    ] = None,
    lora_dropout: LoraDropout = None,
    lora_targets: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help=say("its layers; default: all of the language model", "LoRA 作用的层；默认：语言模型的所有线性层"),
        ),
    ] = None,
    learning_rates: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help=say(
                'by part in place of --learning_rate: {"language_model": 1e-4, "": 1e-5}',
                '按部件设置学习率，代替 --learning_rate：{"language_model": 1e-4, "": 1e-5}',
            ),
        ),
    ] = None,
    decay_all: Annotated[
        bool | None,
        switch("--decay-all", "weights decay in norms and biases too", "归一化层和偏置也做权重衰减"),
    ] = None,
):
    own = {name: value for name, value in locals().items() if name not in ("context", "config")}
    return _chat(own, list(context.args), config)


@verb
def _chat(own: dict, arguments: list[str], config: str | None) -> int | None:
    from .remarks import only_ours

    with only_ours():
        from ..finetuning.chat import finetune_chat
        from ..finetuning.settings import read_settings

        return train(lambda: read_settings(own, arguments, config), finetune_chat, "viscpm finetune chat --help")
