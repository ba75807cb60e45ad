"""`viscpm verify`, `viscpm export` and `viscpm push`: what is done with a converted repository."""

from pathlib import Path
from typing import Annotated

import typer

from ..language import printable, say
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
    app.command(help=say("Upload a converted repository to the Hub.", "把转换后的仓库上传到 Hub。"))(push)


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
    folder: Annotated[Path, typer.Argument(metavar="DIR", help=say("converted repository", "转换后的仓库"))],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help=say("user/name on the Hub", "Hub 上的 user/name"))],
    private: Annotated[
        bool, typer.Option("--private", help=say("create it private if it does not exist", "不存在时创建为私有"))
    ] = False,
) -> None:
    from ..checkpoint import push_to_hub
    from ..checkpoint.files.hub import require_repo_id
    from ..checkpoint.repo import kind_of

    require_repo_id(repo_id)
    kind_of(folder)
    print(say("Uploaded: ", "已上传：") + push_to_hub(folder, repo_id, private=private))
