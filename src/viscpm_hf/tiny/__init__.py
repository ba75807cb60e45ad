"""A tiny, really trained VisCPM-Chat in the original's layout, its drawn world, its vocabulary and its pictures."""

import hashlib
import os
import shutil
from pathlib import Path

CHECKPOINT = Path(__file__).parent / "chat"
VOCABULARY = Path(__file__).parent / "vocab.txt"
PICTURES = Path(__file__).parent / "images"


def cache_folder() -> Path:
    """Where converted tiny checkpoints are kept: `viscpm_hf` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "viscpm_hf"


def convert_tiny_chat(output: str | os.PathLike) -> Path:
    """Convert the shipped checkpoint into a Hub-style folder.

    Args:
        output: Folder to create.

    Returns:
        The folder, ready for `AutoProcessor.from_pretrained` and `AutoModelForImageTextToText.from_pretrained`.
    """
    from ..checkpoint import convert_chat

    return convert_chat(
        CHECKPOINT / "pytorch_model.bin",
        VOCABULARY,
        output,
        llm_config=CHECKPOINT / "llm_config.json",
        vision_config=CHECKPOINT / "vision_config.json",
        progress=False,
    )


def tiny_chat_repo() -> Path:
    """The converted tiny checkpoint, made once per version of weights and code and kept in the user's cache."""
    from .. import checkpoint, remote_code

    sources = [VOCABULARY, *CHECKPOINT.iterdir()]
    sources += [path for room in (remote_code, checkpoint) for path in Path(room.__file__).parent.glob("*.py")]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources) if path.is_file())).hexdigest()
    folder = cache_folder() / f"tiny-chat-{digest[:12]}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        for stale in folder.parent.glob("tiny-chat-*"):
            shutil.rmtree(stale, ignore_errors=True)
        try:
            convert_tiny_chat(folder)
        except ValueError:
            if not folder.exists():  # otherwise another process has just made it
                raise
    return folder
