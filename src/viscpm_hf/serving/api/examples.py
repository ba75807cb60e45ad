"""Requests for the OpenAPI document, which the embedded models can answer."""

import base64
import io
from typing import Any

from PIL import Image, ImageDraw


def _red_circle() -> str:
    picture = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(picture).ellipse((16, 16, 48, 48), fill=(220, 40, 40))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


_PICTURE = _red_circle()
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
                {"role": "assistant", "content": "一个红色的圆。"},
                {"role": "user", "content": "它是什么颜色的？"},
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
    "picture": {"summary": "A picture", "value": {"prompt": "一个红色的圆形"}},
    "settings": {
        "summary": "Two pictures, which come again the same",
        "value": {"prompt": "There is a blue star in the bottom left.", "n": 2, "seed": 7, "steps": 20, "guidance": 4},
    },
}
