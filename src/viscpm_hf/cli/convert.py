"""`viscpm convert chat|paint|cpmbee|lora`: from an original checkpoint to a repository."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..language import printable, say
from .options import Private, Public
from .program import verb
from .repositories import Checkpoint, warn_of_a_local_model

CHECKER = "CompVis/stable-diffusion-safety-checker"
PROMPT_CHECKER = "openbmb/VisCPM-Paint/text-security-checker"
CHINESE = {"safety_checker": "图像安全检查器", "prompt_checker": "提示词检查器", "ranker": "重排序模型"}
RANKER = "OFA-Sys/chinese-clip-vit-base-patch16"

Vocab = Annotated[
    Path,
    typer.Option(
        metavar="FILE",
        help=say("vocabulary file of CPM-Bee (bee.txt or vocab.txt)", "CPM-Bee 的词表文件（bee.txt 或 vocab.txt）"),
    ),
]
Output = Annotated[Path, typer.Option(metavar="DIR", help=say("folder to create", "要创建的文件夹"))]
LlmConfig = Annotated[
    Path | None,
    typer.Option(
        metavar="JSON",
        help=say(
            "the original's JSON for the language model; default: as published",
            "原版语言模型的 JSON；默认：已发布的那份",
        ),
    ),
]
Precision = Annotated[
    Literal["keep", "float16", "bfloat16", "float32"],
    typer.Option(
        metavar="TYPE",
        help=say(
            "keep (every byte as it is), float16, bfloat16 or float32",
            "keep（保持每个字节不变）、float16、bfloat16 或 float32",
        ),
    ),
]
ShardSize = Annotated[
    str, typer.Option(metavar="SIZE", help=say("of one weight file at most", "单个权重文件的大小上限"))
]
SafetyChecker = Annotated[
    str,
    typer.Option(
        metavar="DIR_OR_REPO",
        help=say(
            "image safety checker to put in, or none",
            "要放入的图像安全检查器，或 none",
        ),
    ),
]
PushToHub = Annotated[str | None, typer.Option(metavar="REPO_ID", help=say("upload the result", "上传结果"))]


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(
        help=say(
            "Convert an original checkpoint to a repository for from_pretrained.",
            "把原版检查点转换为 from_pretrained 可用的仓库。",
        ),
        no_args_is_help=False,
    )
    checker = say("The original's safety checker: ", "原版的图像安全检查器：") + CHECKER
    prompts = say("Its prompt checker: ", "提示词检查器：") + PROMPT_CHECKER
    ranker = say("Its ranker: ", "重排序模型：") + RANKER
    group.command(help=say("VisCPM-Chat, for transformers.", "VisCPM-Chat，供 transformers 使用。"), epilog=checker)(
        chat
    )
    group.command(
        help=say("VisCPM-Paint, for diffusers.", "VisCPM-Paint，供 diffusers 使用。"),
        epilog="\n\n".join((checker, prompts, ranker)),
    )(paint)
    group.command(help=say("CPM-Bee, a text model, for transformers.", "纯文本的 CPM-Bee，供 transformers 使用。"))(
        cpmbee
    )
    group.command(
        help=say(
            "LoRA weights of CPM-Bee by OpenDelta, to a peft adapter.",
            "OpenDelta 为 CPM-Bee 训练的 LoRA 权重，转为 peft 适配器。",
        )
    )(lora)
    app.add_typer(group, name="convert")


@verb
def chat(
    checkpoint: Checkpoint,
    vocab: Vocab,
    output: Output,
    llm_config: LlmConfig = None,
    vision_config: Annotated[
        Path | None,
        typer.Option(
            metavar="JSON",
            help=say(
                "JSON with torchscale's names and query_num; default: as published",
                "含 torchscale 名称与 query_num 的 JSON；默认：已发布的那份",
            ),
        ),
    ] = None,
    dtype: Precision = "keep",
    max_shard_size: ShardSize = "5GB",
    variant: Annotated[
        Literal["v1.1", "balance", "zhplus"] | None,
        typer.Option(
            metavar="NAME",
            help=say(
                "which release it is, for the model card: v1.1, balance or zhplus",
                "是哪个版本，写入模型卡：v1.1、balance 或 zhplus",
            ),
        ),
    ] = None,
    safety_checker: SafetyChecker = "none",
    push_to_hub: PushToHub = None,
    public: Public = False,
    private: Private = False,
) -> None:
    upload = _upload(output, push_to_hub, public, private)
    from ..checkpoint import convert_chat

    folder = convert_chat(
        checkpoint,
        vocab,
        output,
        llm_config=llm_config,
        vision_config=vision_config,
        dtype=dtype,
        max_shard_size=max_shard_size,
        variant=variant,
        safety_checker=_source(safety_checker),
    )
    _tell(checkpoint, folder)
    if safety_checker == "none":
        print(
            say(
                "Note: no image safety checker was put in; add one with --safety-checker.",
                "注意：没有放入图像安全检查器；可用 --safety-checker 添加。",
            )
        )
    _push(upload)


@verb
def paint(
    checkpoint: Checkpoint,
    vocab: Vocab,
    sd_base: Annotated[
        str,
        typer.Option(
            metavar="DIR_OR_REPO",
            help=say(
                "Stable Diffusion 2.1 base: gives vae/ and, if there, unet/config.json",
                "Stable Diffusion 2.1 base：提供 vae/，若有也提供 unet/config.json",
            ),
        ),
    ],
    output: Output,
    llm_config: LlmConfig = None,
    unet_config: Annotated[
        Path | None,
        typer.Option(
            metavar="JSON",
            help=say(
                "JSON for the UNet as diffusers writes it; default: that of --sd-base",
                "diffusers 格式的 UNet 配置；默认：--sd-base 的",
            ),
        ),
    ] = None,
    dtype: Precision = "keep",
    max_shard_size: ShardSize = "5GB",
    variant: Annotated[
        Literal["balance", "zhplus"] | None,
        typer.Option(
            metavar="NAME",
            help=say(
                "which release it is, for the model card: balance or zhplus",
                "是哪个版本，写入模型卡：balance 或 zhplus",
            ),
        ),
    ] = None,
    safety_checker: SafetyChecker = "none",
    prompt_checker: Annotated[
        str,
        typer.Option(
            metavar="DIR_OR_REPO",
            help=say(
                "prompt checker to put in, or none",
                "要放入的提示词检查器，或 none",
            ),
        ),
    ] = "none",
    ranker: Annotated[
        str,
        typer.Option(
            metavar="DIR_OR_REPO",
            help=say(
                "ranker to put in, or none",
                "要放入的重排序模型，或 none",
            ),
        ),
    ] = "none",
    push_to_hub: PushToHub = None,
    public: Public = False,
    private: Private = False,
) -> None:
    upload = _upload(output, push_to_hub, public, private)
    from ..checkpoint import convert_paint

    parts = {"safety_checker": safety_checker, "prompt_checker": prompt_checker, "ranker": ranker}
    folder = convert_paint(
        checkpoint,
        vocab,
        sd_base,
        output,
        llm_config=llm_config,
        unet_config=unet_config,
        dtype=dtype,
        max_shard_size=max_shard_size,
        variant=variant,
        **{name: _source(source) for name, source in parts.items()},
    )
    _tell(checkpoint, folder)
    for name, source in parts.items():
        if source == "none":
            option = f"--{name.replace('_', '-')}"
            warning = f"warning: without {option} there is no {name.replace('_', ' ')}"
            print(say(warning, f"警告：未给出 {option}，仓库中没有{CHINESE[name]}"), file=sys.stderr)
    _push(upload)


@verb
def cpmbee(
    checkpoint: Checkpoint,
    vocab: Vocab,
    output: Output,
    llm_config: LlmConfig = None,
    dtype: Precision = "keep",
    max_shard_size: ShardSize = "5GB",
    push_to_hub: PushToHub = None,
    public: Public = False,
    private: Private = False,
) -> None:
    upload = _upload(output, push_to_hub, public, private)
    from ..checkpoint import convert_cpmbee

    folder = convert_cpmbee(
        checkpoint, vocab, output, llm_config=llm_config, dtype=dtype, max_shard_size=max_shard_size
    )
    _tell(checkpoint, folder)
    _push(upload)


@verb
def lora(
    source: Annotated[
        Path,
        typer.Option(
            "--input",
            metavar="FILE",
            help=say(
                ".bin, .pt or safetensors file with lora_A and lora_B",
                "含 lora_A 与 lora_B 的 .bin、.pt 或 safetensors 文件",
            ),
        ),
    ],
    model: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help=say("converted VisCPM-Chat or CPM-Bee they are for", "所对应的转换后的 VisCPM-Chat 或 CPM-Bee"),
        ),
    ],
    output: Output,
    alpha: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help=say(
                "they were trained with; default: of a config.json beside them, else 16",
                "训练时的 lora_alpha；默认：同目录 config.json 中的值，否则 16",
            ),
        ),
    ] = None,
) -> None:
    from ..checkpoint import convert_lora
    from ..checkpoint.adapter import describe

    folder = convert_lora(source, model, output, alpha=alpha)
    _tell(source, folder)
    print(describe(folder))
    warn_of_a_local_model(model)


def _upload(output: Path, repo_id: str | None, public: bool, private: bool):
    """What is uploaded in the end; what the Hub would refuse is known before hours of work, not after them."""
    if repo_id is None:
        return None
    from ..checkpoint.publishing import HubError, Upload

    upload = Upload(output, repo_id, public, private)
    with suppress(HubError):  # as without a network, which may be there when it is done
        upload.look()
    return upload


def _source(given: str) -> str | None:
    return None if given == "none" else given


def _tell(checkpoint: Path, folder: Path) -> None:
    print(printable(say(f"Converted {checkpoint} to {folder}", f"已将 {checkpoint} 转换为 {folder}")))


def _push(upload) -> None:
    if upload is not None:
        upload.name_card()
        print(say("Uploaded: ", "已上传：") + upload.run())
