"""Pictures of training data, from files and bytes."""

import io
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from ..remote_code.image_processing_viscpm_chat import VisCPMChatImageProcessor
from .rows import BrokenRow

_processor = VisCPMChatImageProcessor()


def load_picture(picture: Any, folder: str | Path = ".", min_side: int = 0) -> Image.Image:
    """A picture as the model's processor would see it, in RGB and upright, as our applications turn it.

    Args:
        picture: a `PIL.Image`, an array, bytes, `{"bytes": …, "path": …}` as `datasets` keeps it, or a path (relative
            ones start from `folder`), http(s) address, data URI or base64 text.
        folder (`str` or `Path`, *optional*): see above.
        min_side (`int`, defaults to 0, pixels): the shorter side has at least that.

    Raises:
        BrokenRow: it cannot be loaded, or is too small.
    """
    if isinstance(picture, Mapping):
        picture = picture["bytes"] if picture.get("bytes") is not None else picture.get("path")
    if picture is None:
        raise BrokenRow("the picture is missing", "neither bytes nor a path")
    if isinstance(picture, (bytes, bytearray, memoryview)):
        try:
            picture = Image.open(io.BytesIO(picture))
        except Exception as error:  # Pillow's decoders raise anything
            raise BrokenRow("a picture that cannot be read", _short(error)) from error
    elif isinstance(picture, (str, Path)) and not str(picture).startswith(("http://", "https://", "data:")):
        text = str(picture).removeprefix("file://")
        path = Path(folder) / text
        try:
            found = path.is_file()
        except (OSError, ValueError):  # no name of a file: longer than one may be, or with a NUL
            found = False
        if not found and (len(text) < 256 or Path(text).suffix):
            raise BrokenRow("the picture is missing", f"there is no picture {str(path)!r}"[:300])
        picture = str(path) if found else text
    try:
        loaded = _processor.to_pil(picture)
    except Exception as error:
        raise BrokenRow("a picture that cannot be read", _short(error)) from error
    if len(loaded) != 1:
        raise BrokenRow("more than one picture", f"{len(loaded)} pictures")
    with suppress(Exception):  # odd EXIF data is no reason to refuse a picture
        loaded = [ImageOps.exif_transpose(loaded[0])]
    if min(loaded[0].size) < min_side:
        width, height = loaded[0].size
        raise BrokenRow("a picture that is too small", f"{width} x {height} pixels, wanted {min_side} at least")
    return loaded[0]


def _short(error: Exception) -> str:
    text = re.sub(r"<_io\.BytesIO object at 0x\w+>", "these bytes", str(error))
    return " ".join(f"{type(error).__name__}: {text}".split())[:300]
