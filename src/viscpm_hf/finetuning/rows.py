"""A row of somebody's data to a picture and what is said about it, whichever of the common forms it has.

- LLaVA and ShareGPT: `conversations`, a list of `{"from": "human" | "gpt", "value": text}`;
- OpenAI and LLaMA-Factory: `messages`, a list of `{"role": "user" | "assistant", "content": text or parts}`;
- a question: `question` and `answer`;
- a caption: `text` or `caption`; in the original's files `TEXT` and `ZH_TEXT`, of which `TEXT` may be a conversation.

The picture is under `image`, `images` or, in the original's files, `BUFFER`, or among the parts of a message.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from .captions import is_chinese

IMAGE_MARK = "<image>"
LANGUAGES = ("both", "zh", "en")
PICTURE_COLUMNS = ("image", "images", "picture", "BUFFER", "image_path", "jpg", "jpeg", "png", "webp")
# the first that a row has; webdataset calls it txt
CAPTION_COLUMNS = (("TEXT", "ZH_TEXT"), ("text", "zh_text"), ("caption", "zh_caption"), ("txt", "zh_txt"))
_USER, _ASSISTANT = ("human", "user"), ("gpt", "assistant", "chatgpt", "model", "bot")


class BrokenRow(ValueError):
    """A row that cannot be trained on.

    Args:
        reason (`str`): by which such rows are counted.
        detail (`str`, *optional*): what came.
        file (`str`, *optional*): in which, where a row is a file.
    """

    def __init__(self, reason: str, detail: str = "", file: str = ""):
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason, self.detail, self.file = reason, detail, file


@dataclass
class Row:
    """What a row says.

    Args:
        picture: a `PIL.Image`, bytes, or where to load it from; None for text alone.
        versions (`list[list[tuple[str | None, str]]]`): the same conversation in one or more languages or wordings,
            each a list of (question, answer) as long as the others. The question is None for a caption.
    """

    picture: Any
    versions: list[list[tuple[str | None, str]]] = field(default_factory=list)


def read_row(row: Any, language: str = "both") -> Row:
    """Reads a row in any of the forms of this module.

    Args:
        row (`dict`): of a file or a data set; a `BrokenRow` from a reader is raised.
        language (`str`, defaults to `"both"`): `"zh"` or `"en"` take only what is in that language.

    Raises:
        BrokenRow: the row has none of the forms, no text, no answer, more than one picture, or another language.
    """
    if isinstance(row, BrokenRow):
        raise row
    if not isinstance(row, dict):
        raise BrokenRow("not a record", f"a {type(row).__name__}")
    row = {key: value for key, value in row.items() if value is not None}  # as tables fill what a row lacks
    if isinstance(row.get("json"), dict):  # of webdataset
        row = {**row, **row["json"]}
    pictures = [picture for column in PICTURE_COLUMNS for picture in _listed(row.get(column)) if picture is not None]
    if row.get("system"):
        raise BrokenRow("a system message", "the model has no place for it: put it into the first question")
    if "conversations" in row or "messages" in row:
        messages = row["conversations"] if "conversations" in row else row["messages"]
        versions = [_turns(messages, pictures)]
    elif "question" in row and "answer" in row:
        versions = [[(_text(row["question"], "question"), _text(row["answer"], "answer"))]]
    else:
        versions = _captions(row, pictures)
    if len(pictures) > 1:
        raise BrokenRow("more than one picture", f"{len(pictures)} pictures")
    marked = any(IMAGE_MARK in (question or "") for version in versions for question, _ in version)
    if marked and not pictures:
        raise BrokenRow("the picture is missing", f"{IMAGE_MARK} in the text, but no picture in the row")
    versions = [[_plain(turn) for turn in version] for version in versions]
    if len({len(version) for version in versions}) > 1:
        raise BrokenRow("not the same number of turns in both languages")
    if language != "both":
        texts = ["".join(text for turn in version for text in turn if text) for version in versions]
        versions = [v for v, text in zip(versions, texts, strict=True) if is_chinese(text) == (language == "zh")]
        if not versions:
            raise BrokenRow("another language", f"wanted {language}")
    return Row(pictures[0] if pictures else None, versions)


def name_of(row: Any) -> str:
    """What somebody finds a row again by: the file of its picture, or its name in an archive; maybe nothing."""
    if not isinstance(row, dict):
        return getattr(row, "file", "")  # of a broken one
    names = (each for column in ("__key__", *PICTURE_COLUMNS) for each in _listed(row.get(column)))
    names = (each.get("path") if isinstance(each, dict) else each for each in names)
    # not a picture as text
    return next((each for each in names if isinstance(each, str) and len(each) < 256 and "," not in each), "")


def _listed(value: Any) -> list:
    if isinstance(value, (list, tuple)):
        return list(value)
    return [] if value is None or (isinstance(value, str) and not value) else [value]


def _plain(turn: tuple[str | None, str]) -> tuple[str | None, str]:
    """Without marks and surrounding space; both are there."""
    question, answer = turn
    question = None if question is None else question.replace(IMAGE_MARK, "").strip()
    answer = answer.strip()
    if question == "":
        raise BrokenRow("an empty question")
    if not answer:
        raise BrokenRow("an empty caption" if question is None else "an empty answer")
    for text in (question or "", answer):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BrokenRow("a text that is not Unicode", f"{text[error.start : error.end]!r}") from error
    return question, answer


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise BrokenRow(f"the {name} is no text", f"a {type(value).__name__}")
    return value


def _turns(messages: Any, pictures: list) -> list[tuple[str, str]]:
    """(question, answer) of messages; pictures that are parts of them are added to `pictures`."""
    messages = _parsed(messages)
    if (
        isinstance(messages, dict)
        and messages
        and all(isinstance(value, (list, tuple)) for value in messages.values())
    ):
        columns = zip(*messages.values(), strict=False)  # as data sets keep a list of records
        messages = [dict(zip(messages, values, strict=True)) for values in columns]
    if not isinstance(messages, (list, tuple)):
        raise BrokenRow("no list of messages", f"a {type(messages).__name__}")
    if not messages:
        raise BrokenRow("an empty conversation")
    texts, speakers, given = [], [], []
    for message in messages:
        if not isinstance(message, dict):
            raise BrokenRow("a message that is no record", f"a {type(message).__name__}")
        speaker = _first(message, ("from", "role"))
        speakers.append(_speaker(speaker))
        texts.append(_content(_first(message, ("value", "content")), given))
    if speakers[-1] == "user" and speakers != ["user"]:
        raise BrokenRow("the last question has no answer")
    if speakers != ["user", "assistant"] * (len(speakers) // 2) or not speakers:
        raise BrokenRow("human and gpt do not take turns", ", ".join(speakers)[:80])
    # a bare part stands for the picture of the row
    pictures += [picture for picture in given if picture is not None]
    if None in given and not pictures:
        raise BrokenRow("the picture is missing", "an image part, but no picture in the row")
    return list(zip(texts[::2], texts[1::2], strict=True))


def _first(message: dict, names: tuple[str, ...]) -> Any:
    return next((message[name] for name in names if message.get(name) is not None), None)


def _speaker(name: Any) -> str:
    lowered = name.lower() if isinstance(name, str) else ""
    if lowered in _USER or lowered in _ASSISTANT:
        return "user" if lowered in _USER else "assistant"
    if lowered == "system":
        raise BrokenRow("a system message", "the model has no place for it: put it into the first question")
    raise BrokenRow("an unknown speaker", repr(name)[:80])


def _content(content: Any, pictures: list) -> str:
    """The text of a message; its pictures are added to `pictures`, None for one that stands elsewhere."""
    if isinstance(content, str):
        return content
    if not isinstance(content, (list, tuple)):
        raise BrokenRow("a message without text", f"a {type(content).__name__}")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(part, str):
            texts.append(part)
        elif kind in ("text", "input_text", "output_text"):
            texts.append(_text(part.get("text"), "text of a part"))
        elif kind in ("image", "image_url", "input_image"):
            picture = _first(part, ("image", "image_url", "url", "path", "base64"))
            pictures.append(picture.get("url") if isinstance(picture, dict) and "url" in picture else picture)
        else:
            raise BrokenRow("an unknown part of a message", repr(kind)[:80])
    return "\n".join(texts)


def _captions(row: dict, pictures: list) -> list[list[tuple[str | None, str]]]:
    names = next((names for names in CAPTION_COLUMNS if any(name in row for name in names)), None)
    if names is None:
        raise BrokenRow("no text in a known form", f"columns {', '.join(map(str, row))}"[:200])
    versions = []
    for text in (text for name in names for text in _listed(row.get(name))):
        parsed = _parsed(_text(text, "caption"))
        if isinstance(parsed, list) and "human" in text and "gpt" in text:  # the original's instructions
            versions.append(_turns(parsed, pictures))
        else:
            versions += [[(None, caption)] for caption in text.replace("<PERSON>", "").split("<cap_sep>")]
    if not versions:
        raise BrokenRow("an empty caption", f"{names[0]} is empty")
    if not pictures and any(question is None for version in versions for question, _ in version):
        raise BrokenRow("the picture is missing", "a caption without a picture")
    return versions


def _parsed(value: Any) -> Any:
    """What a text holds as JSON if it looks like a list of records."""
    if isinstance(value, str) and value.lstrip().startswith("[{") and value.rstrip().endswith("}]"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            pass
    return value
