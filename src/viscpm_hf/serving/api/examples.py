"""Requests for the OpenAPI document, which the embedded models can answer."""

import base64
import io
from importlib.resources import files
from typing import Any

from PIL import Image


def _cat_and_apple() -> str:
    """A sample picture of the embedded Chat, so small that the document stays readable."""
    path = files("viscpm_hf") / "tiny/images/1_cat_and_apple.png"  # the file only: serving stands beside tiny
    with path.open("rb") as stored:
        picture = Image.open(stored).convert("RGB").resize((96, 96)).quantize(128)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


_PICTURE = _cat_and_apple()
_TURN = {
    "role": "user",
    "content": [
        {"type": "text", "text": "图里有什么？"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_PICTURE}"}},
    ],
}

ORIGINAL: dict[str, Any] = {
    "picture": {"summary": "A question about a picture", "value": {"image": _PICTURE, "question": "图里有什么？"}},
}
CHAT: dict[str, Any] = {
    "picture": {"summary": "A question about a picture", "value": {"messages": [_TURN]}},
    "second": {
        "summary": "The next question, streamed",
        "value": {
            "messages": [
                _TURN,
                {"role": "assistant", "content": "图里有一只猫和一个苹果。"},
                {"role": "user", "content": "苹果在哪里？"},
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    },
    "sampling": {
        "summary": "Two answers by sampling",
        "value": {"messages": [_TURN], "temperature": 0.7, "top_p": 0.9, "n": 2, "seed": 1, "max_tokens": 32},
    },
}
PAINT: dict[str, Any] = {
    "picture": {"summary": "A picture", "value": {"prompt": "草地上有一只猫"}},
    "settings": {
        "summary": "Two pictures, which come again the same",
        "value": {"prompt": "a rocket at night", "n": 2, "seed": 7, "steps": 20, "guidance": 4},
    },
}
