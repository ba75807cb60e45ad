"""Tiny, really trained VisCPM-Chat and VisCPM-Paint in the original's layout, their drawn world and vocabulary."""

import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

CHAT_CHECKPOINT = Path(__file__).parent / "chat"
PAINT_CHECKPOINT = Path(__file__).parent / "paint"
VOCABULARY = Path(__file__).parent / "vocab.txt"
PICTURES = Path(__file__).parent / "images"
GUIDANCE_SCALE = 4.0  # suits the tiny Paint model; more makes its colours garish


def cache_folder() -> Path:
    """Where converted tiny checkpoints are kept: `viscpm_hf` in the user's cache folder.

    Where nothing can be written there, it is a folder of this user among the temporary ones.

    Raises:
        ValueError: nothing can be written there either, or that folder is somebody else's.
    """
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "viscpm_hf"
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)  # only its owner may
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    except (OSError, RuntimeError, ValueError):  # RuntimeError: nobody knows whose home it is
        pass
    try:
        user = os.getuid() if hasattr(os, "getuid") else "user"
        folder = Path(tempfile.gettempdir()) / f"viscpm_hf-{user}"
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()  # not of what a link leads to
        if not stat.S_ISDIR(status.st_mode) or user not in ("user", status.st_uid):
            raise PermissionError
        folder.chmod(0o700)
        os.utime(folder)
    except OSError as error:
        raise ValueError(
            "There is no folder to keep the tiny model in: set XDG_CACHE_HOME to one that can be written to."
        ) from error
    return folder


def convert_tiny_chat(output: str | os.PathLike) -> Path:
    """Convert the shipped Chat checkpoint into a Hub-style folder.

    Args:
        output: Folder to create.

    Returns:
        The folder, ready for `AutoProcessor.from_pretrained` and `AutoModelForImageTextToText.from_pretrained`.
    """
    from ..checkpoint import convert_chat

    return convert_chat(
        CHAT_CHECKPOINT / "pytorch_model.bin",
        VOCABULARY,
        output,
        llm_config=CHAT_CHECKPOINT / "llm_config.json",
        vision_config=CHAT_CHECKPOINT / "vision_config.json",
        progress=False,
    )


def convert_tiny_paint(output: str | os.PathLike) -> Path:
    """Convert the shipped Paint checkpoint into a Hub-style folder.

    Args:
        output: Folder to create.

    Returns:
        The folder, ready for `DiffusionPipeline.from_pretrained`.
    """
    from ..checkpoint import convert_paint

    return convert_paint(
        PAINT_CHECKPOINT / "pytorch_model.bin",
        VOCABULARY,
        PAINT_CHECKPOINT / "sd_base",
        output,
        llm_config=PAINT_CHECKPOINT / "llm_config.json",
        progress=False,
    )


def use_one_thread() -> None:
    """For programs that run nothing but the tiny models, which are so small that threads wait for each other.

    Where other work keeps the processor busy, they wait very long.
    """
    import torch

    torch.set_num_threads(1)


def tiny_chat_repo() -> Path:
    """The converted tiny Chat checkpoint, made once per version of weights and code and kept in the user's cache."""
    return _cached("tiny-chat", CHAT_CHECKPOINT, convert_tiny_chat)


def tiny_paint_repo() -> Path:
    """The converted tiny Paint checkpoint, made once per version of weights and code and kept in the user's cache."""
    return _cached("tiny-paint", PAINT_CHECKPOINT, convert_tiny_paint)


def _cached(name: str, checkpoint: Path, convert: Callable[[Path], Path]) -> Path:
    from .. import checkpoint as converters
    from .. import remote_code

    sources = [VOCABULARY, *checkpoint.rglob("*")]
    sources += [path for room in (remote_code, converters) for path in Path(room.__file__).parent.rglob("*.py")]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources) if path.is_file())).hexdigest()
    folder = cache_folder() / f"{name}-{digest[:12]}"
    if not folder.exists():
        for stale in folder.parent.rglob(f"{name}-*"):
            if time.time() - stale.stat().st_mtime > 7 * 86400:  # a younger one may be in use, by another checkout
                shutil.rmtree(stale, ignore_errors=True)
        try:
            convert(folder)
        except ValueError:
            if not folder.exists():  # otherwise another process has just made it
                raise
    with suppress(OSError):  # made by somebody else
        os.utime(folder)  # in use
    return folder
