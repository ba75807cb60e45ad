"""The models that a command line names, loaded as an engine: in this process, or with Ray in others."""

import os
import socket
import warnings
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec

from ..language import printable, say

# what the extra `serve` installs, with its lowest versions, by the name of the module
LIBRARIES = {
    "fastapi": "fastapi>=0.135",
    "prometheus_client": "prometheus_client>=0.21",
    "pydantic": "pydantic>=2.11",
    "requests_hardened": "requests-hardened>=1.2",
    "uvicorn": "uvicorn>=0.35",
}
# what the extra `cluster` does besides
RAY = {"ray": "ray[serve]>=2.60"}
RAY_DATA = dict.fromkeys(("ray", "pandas", "pyarrow"), "ray[data]>=2.60")  # for `viscpm batch --ray`
GRADIO = {"gradio": "gradio>=6.31"}  # of the extra `demo`


def check_libraries(libraries: Mapping[str, str], what: str = "Serving") -> None:
    """Raises ImportError, with a command that helps, if some are not here: name of the module → what to install."""
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        wanted = " ".join(f'"{each}"' for each in dict.fromkeys(libraries.values()))
        raise ImportError(f"{what} needs libraries that are not here ({', '.join(missing)}): pip install {wanted}")


def usual_batch(memory: str | None) -> int:
    """How many requests go through a model at once, if nobody says; a budget of memory is counted for one."""
    return 8 if memory is None else 1


def checked_names(models):
    """Under which the models are served; before the first is loaded, the others are looked at, too."""
    from ..checkpoint.repo import check_is_converted

    wanted = {"chat": ("VisCPM-Chat", "chat", "config.json"), "paint": ("VisCPM-Paint", "paint --sd-base SD_BASE")}
    wanted["paint"] += ("model_index.json",)
    names = {}
    for kind, model in models.items():
        if model == "none":
            continue
        if model == "tiny":
            names[kind] = f"{wanted[kind][0]}-tiny"
            continue
        check_is_converted(model, *wanted[kind])
        # the name it was given, not that of what a link leads to
        names[kind] = printable(os.path.basename(os.path.abspath(model)) if os.path.isdir(model) else model)
    if len(set(names.values())) < len(names):
        raise ValueError(
            f"Chat and Paint would both be called {names['chat']!r}: give one of the folders another name."
        )
    return names


def load_engine(models, names, loading, limits):
    """Loads the models, and says which are tiny."""
    _tell_of_tiny(models, names)
    return _loaded(models, names, loading, limits)


def _loaded(models, names, loading, limits):
    """An engine of the models."""
    from ..chat import VisCPMChat
    from ..paint import VisCPMPaint
    from ..serving.engine import Engine
    from ..tiny import GUIDANCE_SCALE, tiny_chat_repo, tiny_paint_repo, use_one_thread

    tiny = [kind for kind, model in models.items() if model == "tiny"]
    if len(tiny) == len(names):
        use_one_thread()
    chat = paint = None
    if models["chat"] != "none":
        chat = VisCPMChat(tiny_chat_repo() if "chat" in tiny else models["chat"], **loading)
        if "chat" not in tiny and chat.image_safety_checker is None:
            _tell_unchecked(names["chat"], say("pictures", "图片"))
    if "paint" in tiny:
        # which has no parts that check or choose, and needs none
        without = dict.fromkeys(("image_safety_checker", "prompt_safety_checker", "add_ranker"), False)
        paint = VisCPMPaint(tiny_paint_repo(), **without, **loading)
    elif models["paint"] != "none":
        with warnings.catch_warnings():  # said below, without arguments of the class
            warnings.filterwarnings("ignore", r"[\s\S]* has no (safety_checker|prompt_checker|ranker), so")
            paint = VisCPMPaint(models["paint"], **loading)
        if paint.pipeline.safety_checker is None:
            _tell_unchecked(names["paint"], say("pictures", "图片"))
        if paint.pipeline.prompt_checker is None:
            _tell_unchecked(names["paint"], say("prompts", "提示词"))
    guidance = GUIDANCE_SCALE if "paint" in tiny else 7.5
    return Engine(chat, paint, **limits, painting={"guidance": guidance})


def _tell_of_tiny(models, names):
    from .remarks import tell

    tiny = [kind for kind, model in models.items() if model == "tiny"]
    if tiny:
        which, flags = ", ".join(names[kind] for kind in tiny), ", ".join(f"--{kind}" for kind in tiny)
        tell(
            say(
                f"{which}: tiny models in the package, which know simple drawings only; {flags} for real ones.",
                f"{which} 是包内自带的小模型，只认识简单的图画；真正的模型用 {flags} 指定。",
            )
        )


def _tell_unchecked(name, what):
    from .remarks import tell

    tell(
        say(
            f"warning: {name} has no safety checker for {what}, which are not checked.",
            f"警告：{name} 没有{what}安全检查模型，不检查{what}。",
        )
    )


def load_cluster(models, names, listening, loading, limits, cluster):
    """Replicas that load one model each; the context of them."""
    from ..serving.cluster.service import serving
    from .remarks import tell

    _tell_of_tiny(models, names)
    # replicas have working directories of their own
    models = {kind: os.path.abspath(model) if os.path.isdir(model) else model for kind, model in models.items()}
    name = f"viscpm-{socket.gethostname()}-{listening.getsockname()[1]}"
    return serving(list(names), partial(_replica, models, names, loading), name=name, tell=tell, **cluster, **limits)


def _replica(models, names, loading, kind, **limits):
    """The engine of one model, in a process that Ray has started."""
    from .remarks import only_ours, plain_remarks

    with plain_remarks(), only_ours():
        return _loaded({"chat": "none", "paint": "none", kind: models[kind]}, {kind: names[kind]}, loading, limits)
