"""`viscpm refresh`: the code and card of a converted repository as this version writes them."""

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from ..language import say
from .program import verb
from .remarks import only_ours


def add_to(app: typer.Typer) -> None:
    app.command(
        help=say(
            "Bring the code and card of a converted repository up to this version; weights stay untouched.",
            "把转换后仓库的代码和模型卡更新到当前版本；不改动权重。",
        )
    )(refresh)


def refresh(
    repository: Annotated[
        str,
        typer.Argument(
            metavar="DIR_OR_REPO",
            help=say("converted folder, or user/name on the Hub", "转换后的文件夹，或 Hub 上的 user/name"),
        ),
    ],
    push: Annotated[
        bool, typer.Option("--push", help=say("on the Hub: commit what is new", "Hub 仓库：直接提交更新"))
    ] = False,
    pull_request: Annotated[
        bool, typer.Option("--pull-request", help=say("on the Hub: propose it instead", "Hub 仓库：改为发起合并请求"))
    ] = False,
    card: Annotated[
        bool, typer.Option("--card", help=say("also replace a card that was edited", "模型卡被改动过也覆盖"))
    ] = False,
) -> Callable[[], int | None]:
    if push and pull_request:
        raise typer.TyperException("Give --push or --pull-request, not both.")
    if (push or pull_request) and (os.path.lexists(repository) or repository.count("/") != 1):
        raise typer.TyperException(
            f"--push and --pull-request are for a repository on the Hub, given as `owner/name`, not for "
            f"{repository[:100]!r}; a refreshed folder is uploaded with `viscpm push DIR REPO_ID`."
        )
    return _refresh(repository, push, pull_request, card)


@verb
def _refresh(repository: str, push: bool, pull_request: bool, card: bool) -> None:
    from ..checkpoint.errors import listed, printable
    from ..checkpoint.files.hub import is_repo_id
    from ..checkpoint.refresh import refresh, refresh_on_hub

    on_disk = os.path.lexists(repository) or not is_repo_id(repository)
    with only_ours():
        done = refresh(repository, card) if on_disk else refresh_on_hub(repository, push, pull_request, card)
    for sentence in done.kept:
        print(say("Note: ", "注意：") + sentence, file=sys.stderr)
    name, files = printable(repository), listed(done.changed, 40)
    if not done.changed:
        print(say(f"{name} is already up to date.", f"{name} 已是最新。"))
    elif on_disk or done.address:
        print(say(f"Refreshed {name}: {files}", f"已更新 {name}：{files}"))
    else:
        print(say(f"Of {name} these would change: {files}", f"{name} 中将会改动：{files}"))
        print(
            say(
                "Nothing was uploaded: give --push to commit them or --pull-request to propose them.",
                "没有上传任何内容：加 --push 直接提交，或加 --pull-request 发起合并请求。",
            )
        )
    if done.address:
        print(say("Uploaded: ", "已上传：") + done.address)
