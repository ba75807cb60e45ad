"""`viscpm verify`, `viscpm export` and `viscpm push`: what is done with a converted repository."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..language import printable, say
from .options import Private, Public
from .program import verb

Checkpoint = Annotated[
    Path,
    typer.Option(
        metavar="FILE",
        help=say("original .bin, .pt or safetensors file", "原版的 .bin、.pt 或 safetensors 文件"),
    ),
]


def add_to(app: typer.Typer) -> None:
    app.command(
        help=say(
            "Prove a conversion: compare every tensor with the original checkpoint, byte for byte.",
            "证明转换无误：逐字节比较每个张量与原版检查点。",
        )
    )(verify)
    app.command(
        help=say(
            "Write the original checkpoint of a converted repository again.",
            "由转换后的仓库写回原版检查点。",
        )
    )(export)
    app.command(
        help=say(
            "Upload a converted model or an adapter to the Hub, private unless --public; the same command goes on "
            "where it broke off.",
            "把转换后的模型或适配器上传到 Hub，默认私有，--public 才公开；中断后重复同一命令即可继续。",
        )
    )(push)


@verb
def verify(
    checkpoint: Checkpoint,
    repo: Annotated[
        Path,
        typer.Option(metavar="DIR", help=say("folder that was converted from it", "由它转换出的文件夹")),
    ],
) -> int:
    from ..checkpoint import listed
    from ..checkpoint.verify import verify

    results = verify(checkpoint, repo)
    # Chinese characters are two columns wide
    header = f"{'部件':<14}{'张量':>7}{'字节':>14}  结果"
    print(say(f"{'part':<16}{'tensors':>9}{'bytes':>16}  result", header))
    for part, result in results.items():
        number = len(result.differences)
        verdict = say(f"{number} DIFFER", f"{number} 个不同") if number else "OK"
        print(f"{part:<16}{result.tensors:>9}{result.nbytes:>16}  {verdict}")
    differences = [difference for result in results.values() for difference in result.differences]
    if differences:
        first, more = listed(differences[:5]), len(differences) - 5
        rest = say(f" and {more} more", f"，另有 {more} 处") if more > 0 else ""
        print(say("First differences: ", "前几处不同：") + first + rest)
    return 1 if differences else 0


@verb
def export(
    repo: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help=say("converted repository, also after fine-tuning", "转换后的仓库，微调之后的也可以"),
        ),
    ],
    checkpoint: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help=say("file to create; safetensors if it ends so", "要创建的文件；以 .safetensors 结尾则为该格式"),
        ),
    ],
) -> None:
    from ..checkpoint import export_original

    print(say("Wrote", "已写入"), printable(str(export_original(repo, checkpoint))))


@verb
def push(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help=say(
                "converted repository, also fine-tuned or quantized, or LoRA adapter",
                "转换后的仓库（微调、量化之后的也可以）或 LoRA 适配器",
            ),
        ),
    ],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help=say("user/name on the Hub", "Hub 上的 user/name"))],
    public: Public = False,
    private: Private = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help=say("only say what would be uploaded", "只列出将要上传的内容"))
    ] = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=say("the original: compare every byte with it first", "原版检查点：上传前逐字节比较"),
        ),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            metavar="REPO_ID", help=say("of an adapter: its model on the Hub", "适配器所属的模型在 Hub 上的名称")
        ),
    ] = None,
    space: Annotated[
        bool,
        typer.Option(
            "--space",
            help=say("also make a Space of this name, with its web page", "另建同名 Space，提供该模型的网页"),
        ),
    ] = False,
) -> None:
    from ..checkpoint import listed
    from ..checkpoint.publishing import Upload
    from .remarks import only_ours, tell

    upload = Upload(folder, repo_id, public, private, base_model, checkpoint, space)
    with only_ours():
        contents = upload.contents()
        if dry_run:
            return _list(upload, contents)
        if contents.left_out:
            tell(say("Not uploaded: ", "不上传：") + listed(contents.left_out))
        try:
            address = upload.run(contents)
        except KeyboardInterrupt:
            tell(say("What has arrived stays; to go on: ", "已上传的部分保留；继续上传：") + upload.command())
            raise
    print(say("Uploaded: ", "已上传：") + address)


def _list(upload, contents) -> None:
    """Says what would be uploaded, and to what."""
    from ..checkpoint import listed
    from ..checkpoint.files.sizes import shown
    from ..checkpoint.publishing import HubError
    from .remarks import tell

    for name, size in contents.files.items():
        print(f"{shown(size):>9}  {printable(name)}")
    if contents.left_out:
        print(say("Not uploaded: ", "不上传：") + listed(contents.left_out, 40))
    if contents.is_adapter:
        base = upload.base_model or say("none named with --base-model", "未用 --base-model 指定")
        print(
            say(
                f"README.md is made from a template; the adapter's model: {base}",
                f"README.md 由模板生成；适配器所属的模型：{base}",
            )
        )
    number, size, name = len(contents.files), shown(contents.nbytes), upload.repo_id
    print(say(f"{number} files, {size}, for {name}", f"{number} 个文件，{size}，上传到 {name}"))
    created = say("public", "公开") if upload.public else say("private", "私有")
    for kind in ("model", "space")[: 1 + upload.space]:
        what = say("The repository", "该仓库") if kind == "model" else say("The Space", "该 Space")
        try:
            found = upload.look(kind)
        except HubError as error:
            tell(say(f"{what} was not looked at: {error.why}.", f"未能查看{what}：{error.why}。"))
            return
        says = {
            "absent": say(f"{what} would be created, {created}.", f"{what}不存在，将创建为{created}。"),
            "private": say(f"{what} exists and is private.", f"{what}已存在，为私有。"),
            "public": say(f"{what} exists and is public.", f"{what}已存在，为公开。"),
        }
        print(says[found])


def warn_of_a_local_model(model: str | Path) -> None:
    """Says that an adapter names a model which others do not have.

    Args:
        model: folder or repository that the adapter was made for.
    """
    if Path(model).is_dir():
        name = printable(str(model))
        english = (
            f"note: the adapter names {name}, a folder of this machine; for others see --base-model in "
            "`viscpm push --help`"
        )
        chinese = f"提示：适配器中记录的模型 {name} 是本机文件夹；供他人使用见 `viscpm push --help` 中的 --base-model"
        print(say(english, chinese), file=sys.stderr)
