"""`viscpm finetune paint`: a model learns to paint from pictures with captions."""

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
from .program import verb


def paint(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option(metavar="DIR_OR_REPO", help=say("converted VisCPM-Paint", "转换后的 VisCPM-Paint")),
    ] = None,
    data: Data = None,
    images: Images = None,
    output: Output = None,
    config: Config = None,
    mode: Annotated[
        Literal["full", "lora"] | None,
        typer.Option(metavar="NAME", help=say("full or lora; default: lora", "训练方式 full 或 lora；默认：lora")),
    ] = None,
    eval_data: EvalData = None,
    eval_rows: EvalRows = None,
    validation_prompts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help=say(
                "prompt painted at every evaluation or save; may be given again",
                "每次评估或保存时绘制的提示词；可多次给出",
            ),
        ),
    ] = None,
    negative_prompt: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help=say("what must not be in these pictures", "这些图片的反向提示词")),
    ] = None,
    validation_seed: Annotated[
        int | None,
        typer.Option(metavar="N", help=say("of the first of them; default: 0", "第一张图的随机种子；默认：0")),
    ] = None,
    validation_steps: Annotated[
        int | None,
        typer.Option(metavar="N", help=say("steps of denoising; default: 50", "去噪步数；默认：50")),
    ] = None,
    validation_guidance: Annotated[
        float | None,
        typer.Option(metavar="X", help=say("their guidance scale; default: 7.5", "引导系数；默认：7.5")),
    ] = None,
    split: Split = None,
    eval_split: EvalSplit = None,
    language: Language = None,
    resolution: Annotated[
        int | None,
        typer.Option(
            metavar="N", help=say("pixels of both sides; default: the model's", "图片边长（像素）；默认：模型的边长")
        ),
    ] = None,
    min_side: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=say(
                "leave out smaller pictures; default: half of the resolution", "略过更小的图片；默认：分辨率的一半"
            ),
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=say("leave out captions of more tokens; default: 256", "略过 token 数更多的描述；默认：256"),
        ),
    ] = None,
    random_crop: Annotated[
        bool | None,
        switch(
            "--random-crop",
            "cut pictures anywhere, unless the caption says left or right",
            "随机裁剪图片，描述中有左右的除外",
        ),
    ] = None,
    random_flip: Annotated[
        bool | None,
        switch(
            "--random-flip",
            "mirror pictures, unless the caption says left or right",
            "随机左右翻转图片，描述中有左右的除外",
        ),
    ] = None,
    caption_dropout: Annotated[
        float | None,
        typer.Option(
            metavar="X", help=say("share of samples without a caption; default: 0.1", "去掉描述的样本比例；默认：0.1")
        ),
    ] = None,
    padding: Annotated[
        Literal["own", "batch"] | None,
        typer.Option(
            metavar="NAME",
            help=say(
                "own: as in painting; batch: as in the original's training; default: own",
                "补齐方式：own 与绘图时相同，batch 与原版训练相同；默认：own",
            ),
        ),
    ] = None,
    offset_noise: Annotated[
        float | None,
        typer.Option(
            metavar="X", help=say("noise that all pixels share; default: 0", "各像素共有的噪声强度；默认：0")
        ),
    ] = None,
    snr_gamma: Annotated[
        float | None,
        typer.Option(
            metavar="X", help=say("gamma of min-SNR weights; default: none", "min-SNR 加权的 gamma；默认：不加权")
        ),
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help=say(
                "decay of a moving average of the weights; default: none", "权重滑动平均的衰减系数；默认：不使用"
            ),
        ),
    ] = None,
    strict: Strict = None,
    cache: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help=say(
                "where states of captions and latents are kept; default: in the output",
                "隐藏状态和潜变量的缓存文件夹；默认：在输出文件夹内",
            ),
        ),
    ] = None,
    cache_latents: Annotated[
        bool | None,
        switch(
            "--cache-latents",
            "encode each picture once; default: unless pictures are varied",
            "每张图片只编码一次；默认：图片不做增强时如此",
        ),
    ] = None,
    prepare_only: Annotated[
        bool | None,
        switch("--prepare-only", "read captions and encode pictures, then stop", "只计算隐藏状态和潜变量，然后停止"),
    ] = None,
    states_dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(
            metavar="TYPE", help=say("of the language model; default: as stored", "语言模型的类型；默认：与存储的相同")
        ),
    ] = None,
    states_device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE",
            help=say(
                "where it reads the captions; default: where the training runs", "语言模型所在设备；默认：训练所用设备"
            ),
        ),
    ] = None,
    dtype: Dtype = None,
    lora_r: Annotated[
        int | None,
        typer.Option(metavar="N", help=say("rank of LoRA; default: 16", "LoRA 的秩；默认：16")),
    ] = None,
    lora_alpha: Annotated[
        float | None,
        typer.Option(metavar="X", help=say("its strength; default: 16", "LoRA 的强度；默认：16")),
    ] = None,
    lora_dropout: LoraDropout = None,
    lora_targets: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help=say("its layers in the UNet; default: the attention", "LoRA 作用于 UNet 的层；默认：注意力层"),
        ),
    ] = None,
    learning_rates: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help=say(
                'by part in place of --learning_rate: {"unet": 1e-5, "": 1e-4}',
                '按部件设置学习率：{"unet": 1e-5, "": 1e-4}',
            ),
        ),
    ] = None,
):
    own = {name: value for name, value in locals().items() if name not in ("context", "config")}
    return _paint(own, list(context.args), config)


@verb
def _paint(own: dict, arguments: list[str], config: str | None) -> int | None:
    from .remarks import only_ours

    with only_ours():
        from ..finetuning.paint import finetune_paint
        from ..finetuning.paint_settings import read_paint_settings

        return train(
            lambda: read_paint_settings(own, arguments, config), finetune_paint, "viscpm finetune paint --help"
        )
