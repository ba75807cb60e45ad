"""`viscpm demo`: web pages that talk about pictures and paint them."""

import os
import secrets
import signal
from threading import Thread
from typing import Annotated, Literal

import typer

from ..language import say
from .engines import GRADIO, LIBRARIES, check_libraries, checked_names, load_engine, usual_batch
from .examples import for_pages
from .options import ChatModel, Device, Dtype, Host, Memory, PaintModel, Port, Quantization
from .program import verb

_LAST = 10.0  # seconds to finish in


def add_to(app: typer.Typer) -> None:
    app.command(
        help=say(
            "Open web pages in which to talk about pictures and to paint them.",
            "打开网页：看图对话、文生图。",
        )
    )(demo)


def demo(
    page: Annotated[
        Literal["chat", "paint"] | None,
        typer.Argument(
            metavar="PAGE", show_default=False, help=say("chat or paint; default: both", "chat 或 paint；默认：两者")
        ),
    ] = None,
    chat: ChatModel = "tiny",
    paint: PaintModel = "tiny",
    lang: Annotated[
        Literal["zh", "en"] | None,
        typer.Option(
            metavar="zh|en",
            help=say("language of the pages; default: the browser's", "页面语言；默认：按浏览器的语言"),
        ),
    ] = None,
    share: Annotated[
        bool,
        typer.Option(
            "--share",
            help=say(
                "also make a public address, through gradio's servers; for a week at most",
                "另建公网地址（经 gradio 的服务器，最长一周）",
            ),
        ),
    ] = False,
    password_env: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=say("environment variable with the password of the pages", "环境变量名，其值为页面的密码"),
        ),
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 7860,
    memory: Memory = None,
    quantization: Quantization = None,
    dtype: Dtype = None,
    device: Device = None,
) -> int:
    models = {kind: model if page in (None, kind) else "none" for kind, model in (("chat", chat), ("paint", paint))}
    if set(models.values()) == {"none"}:
        raise typer.TyperException("Got none for every page, which leaves nothing to show: name a model.")
    loading = {"memory": memory, "quantization": quantization, "dtype": dtype, "device": device}
    return _demo(models, lang, share, password_env, host, port, loading)


@verb
def _demo(models, lang, share, password_env, host, port, loading):
    try:
        return _load_and_show(models, lang, share, password_env, host, port, loading)
    except SystemExit as stop:  # of SIGTERM while it loads
        return 0 if stop.code == 128 + signal.SIGTERM else stop.code


def _load_and_show(models, lang, share, password_env, host, port, loading):
    check_libraries({**LIBRARIES, **GRADIO})
    from .remarks import only_ours, tell

    password = None if password_env is None else os.environ.get(password_env)
    if password_env is not None and not password:
        raise ValueError(f"Got --password-env {password_env}, which is not set or empty: put the password into it.")
    with only_ours():
        from ..serving.pages import create_pages
        from ..serving.server import bound_socket, is_loopback, run, url_of

        with bound_socket(host, port) as listening:
            names = checked_names(models)
            if password is None and (share or not is_loopback(listening)):
                tell(
                    say(
                        "warning: whoever has the address may use the pages: --password-env names a variable with a "
                        "password.",
                        "警告：凡知道地址的人都可使用：请用 --password-env 指定存有密码的环境变量。",
                    )
                )
            limits = {"max_batch": usual_batch(loading["memory"])}
            engine = load_engine(models, names, loading, limits)
            app = create_pages(engine, language=lang, password=password, **for_pages(models))

            def banner():
                if share:
                    Thread(target=_share, args=(*listening.getsockname()[:2], tell), daemon=True).start()
                served, url = " · ".join(names.values()), url_of(listening)
                return say(f"{served}\nOpen {url}; Ctrl-C stops it.", f"{served}\n请打开 {url}；按 Ctrl-C 停止。")

            return run(app, engine, listening, _LAST, banner, tell)


def _share(host, port, tell):
    """Asks gradio's servers for a public address; without one the pages go on at their own."""
    from gradio.networking import setup_tunnel

    try:
        url = setup_tunnel(host, port, secrets.token_urlsafe(32), None, None)
    except Exception as error:  # of the network, of a firewall, of a program that had to be fetched
        why = " ".join(str(error).split()) or type(error).__name__
        tell(say(f"warning: there is no public address: {why}", f"警告：未能取得公网地址：{why}"))
    else:
        tell(say(f"For everybody: {url}", f"公网地址：{url}"))
