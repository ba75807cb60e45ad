"""`viscpm serve`: Chat and Paint over HTTP."""

import math
import os
import re
import signal
from contextlib import ExitStack
from typing import Annotated, Literal

import typer

from ..language import say
from ..serving.replicas import Replicas, parse_gpus
from .engines import GRADIO, LIBRARIES, RAY, check_libraries, checked_names, load_cluster, load_engine, usual_batch
from .examples import for_pages
from .options import ChatModel, Device, Dtype, Host, PaintModel, Port
from .program import verb


def add_to(app: typer.Typer) -> None:
    app.command(
        help=say(
            "Serve Chat and Paint over HTTP: OpenAI's API and the original's endpoint.",
            "以 HTTP 提供 Chat 与 Paint：OpenAI 风格的 API 和原版的接口。",
        )
    )(serve)


def _pixels(text: str) -> int:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (1 <= number <= 1e12 and number == int(number)):
        raise typer.BadParameter(f"Got {text[:40]!r}, expected a whole number of pixels such as 40e6.")
    return int(number)


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= 1e9:
        raise typer.BadParameter(f"Got {text[:40]!r}, expected seconds such as 120.")
    return number


def _replicas(text: str) -> Replicas:
    try:
        return Replicas.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _gpus(text: str) -> float:
    try:
        return parse_gpus(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _origin(text: str) -> str:
    if text != "*" and not re.fullmatch(r"https?://[^\s/?#@]+", text):
        raise typer.BadParameter(f"Got {text[:100]!r}, expected an origin such as https://example.org, or *.")
    return text


def serve(
    chat: ChatModel = "tiny",
    paint: PaintModel = "tiny",
    host: Host = "127.0.0.1",
    port: Port = 8000,
    max_batch: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=4096,
            help=say(
                "how many requests go through a model at once (default: 8; 1 with --memory, which is counted for one)",
                "一次最多同时处理的请求数（默认：8；给了 --memory 则为 1，因其按单个请求估算）",
            ),
        ),
    ] = None,
    max_queue: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=1_000_000,
            help=say("how many may wait for a model; more are told to come again", "每个模型最多排队的请求数"),
        ),
    ] = 64,
    timeout: Annotated[
        float,
        typer.Option(
            parser=_seconds,
            metavar="SECONDS",
            help=say("for a request, waiting included (default: 120)", "每个请求的时限（秒），含排队（默认：120）"),
            show_default=False,
        ),
    ] = 120.0,
    max_pixels: Annotated[
        int,
        typer.Option(
            parser=_pixels,
            metavar="N",
            help=say("that a picture may have (default: 40e6)", "一张图片最多的像素数（默认：40e6）"),
            show_default=False,
        ),
    ] = 40_000_000,
    api_key_env: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=say(
                "environment variable with the key that clients must send", "环境变量名，其值为客户端必须提供的密钥"
            ),
        ),
    ] = None,
    allow_image_urls: Annotated[
        bool,
        typer.Option(
            "--allow-image-urls",
            help=say("fetch pictures that clients name by a public address", "允许客户端用公网地址给出图片"),
        ),
    ] = False,
    ui: Annotated[
        bool,
        typer.Option(
            "--ui",
            help=say(
                "also the pages of viscpm demo, at /; the key is their password",
                "同时提供 viscpm demo 的网页（/），密钥即其密码",
            ),
        ),
    ] = False,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            parser=_origin,
            metavar="ORIGIN",
            help=say("let pages of this origin use it in browsers; may come again", "允许该来源的网页访问，可重复"),
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help=say(
                "what each model may take of the GPU, or without one of main memory, such as 5GB",
                "每个模型最多占用的显存（没有 GPU 时为内存），如 5GB",
            ),
        ),
    ] = None,
    quantization: Annotated[
        Literal["auto", "int8", "4bit"] | None,
        typer.Option(
            metavar="HOW",  # the other verbs' list of choices would leave too little room here
            help=say(
                "auto, int8 or 4bit: quantize language models; auto: only what does not fit into --memory",
                "auto、int8 或 4bit：量化语言模型；auto 仅当未量化时放不进 --memory",
            ),
        ),
    ] = None,
    dtype: Dtype = None,
    device: Device = None,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help=say(
                "run the models in processes of their own, on one machine or many, with Ray",
                "用 Ray Serve 多进程、多机运行",
            ),
        ),
    ] = False,
    replicas: Annotated[
        str | None,
        typer.Option(
            parser=_replicas,
            metavar="N",
            help=say("of each model, with --ray; 1-4: by load", "每个模型的副本数；1-4 表示按负载增减"),
        ),
    ] = None,
    gpus_per_replica: Annotated[
        str | None,
        typer.Option(
            parser=_gpus,
            metavar="X",
            help=say(
                "with --ray, such as 0.5; by default what there are is shared out",
                "每个副本占用的 GPU，如 0.5；默认均分",
            ),
        ),
    ] = None,
) -> int:
    if not ray and (replicas is not None or gpus_per_replica is not None):
        name = "--gpus-per-replica" if replicas is None else "--replicas"
        raise typer.TyperException(f"Got {name} without --ray, which alone starts replicas: add --ray.")
    models = {"chat": chat, "paint": paint}
    if set(models.values()) == {"none"}:
        raise typer.TyperException("Got --chat none and --paint none, which leaves nothing to serve: name a model.")
    loading = {"memory": memory, "quantization": quantization, "dtype": dtype, "device": device}
    max_batch = max_batch or usual_batch(memory)
    engine = {"max_batch": max_batch, "max_queue": max_queue, "timeout": timeout}
    api = {"max_pixels": max_pixels, "allow_image_urls": allow_image_urls, "cors": cors or ()}
    if ui and ray:
        raise typer.TyperException("Got --ui and --ray, of which one works at a time: leave one out.")
    cluster = {"replicas": replicas or Replicas(), "gpus": gpus_per_replica} if ray else None
    return _serve(models, host, port, api_key_env, loading, engine, api, cluster, ui)


@verb
def _serve(models, host, port, api_key_env, loading, limits, api, cluster, ui):
    try:
        return _load_and_serve(models, host, port, api_key_env, loading, limits, api, cluster, ui)
    except SystemExit as stop:  # of SIGTERM while it loads
        return 0 if stop.code == 128 + signal.SIGTERM else stop.code


def _load_and_serve(models, host, port, api_key_env, loading, limits, api, cluster, ui):
    check_libraries({**LIBRARIES, **(RAY if cluster else {}), **(GRADIO if ui else {})})
    from .remarks import only_ours, tell

    key = None if api_key_env is None else _key(api_key_env)
    with only_ours():
        from ..serving.server import bound_socket, is_loopback

        with bound_socket(host, port) as listening, ExitStack() as stack:
            names = checked_names(models)
            if key is None and not is_loopback(listening):
                tell(
                    say(
                        f"warning: whoever reaches {host} may use it: --api-key-env names a variable with a key.",
                        f"警告：凡能访问 {host} 的人都可使用：请用 --api-key-env 指定存有密钥的环境变量。",
                    )
                )
            if cluster:
                engine = stack.enter_context(load_cluster(models, names, listening, loading, limits, cluster))
            else:
                engine = load_engine(models, names, loading, limits)
            return _run(engine, names, models if ui else None, listening, limits["timeout"], {"api_key": key, **api})


def _key(variable):
    key = os.environ.get(variable, "")
    if not key:
        raise ValueError(f"Got --api-key-env {variable}, but {variable} is not set or empty: put the key into it.")
    if not re.fullmatch(r"[!-~]+", key):
        raise ValueError(
            f"The key in {variable} has a space, a line break or a character that is not ASCII, which no client can "
            "send: choose another."
        )
    return key


def _run(engine, names, pages, listening, timeout, api):
    from ..serving.api import create_app
    from ..serving.server import run, url_of
    from .remarks import tell

    def banner():
        served = " · ".join(f"{kind.capitalize()}: {name}" for kind, name in names.items())
        url = url_of(listening)
        return say(
            f"{served}\nServing at {url}, described at {url}/docs; Ctrl-C stops it.",
            f"{served}\n服务地址 {url}，接口说明 {url}/docs；按 Ctrl-C 停止。",
        )

    app = create_app(engine, names, **api)
    if pages is not None:
        from ..serving.pages import create_pages

        limits = {"max_pixels": api["max_pixels"], "password": api["api_key"]}
        app = create_pages(engine, app, **limits, **for_pages(pages))
    return run(app, engine, listening, timeout, banner, tell)
