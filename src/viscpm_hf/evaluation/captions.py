"""Prompts to paint: lines of a text, rows of a JSONL file, or COCO's captions."""

import random
from collections.abc import Sequence
from pathlib import Path

from ..checkpoint.errors import CheckpointError
from ..checkpoint.files.disk import read_small
from ..checkpoint.files.json_file import load_json, quoted
from ..paint import CHINESE
from .runs import MOST_BYTES, read_lines

_NAMES = ("caption", "prompt", "text")  # of the field of a row


def read_prompts(path: Path, limit: int | None = None, seed: int = 0) -> list[str]:
    """The prompts of a file.

    Args:
        path: `.json` in COCO's form (`annotations` with `image_id`, `id` and `caption`), of which each picture's first
            caption is taken; `.jsonl` with `caption`, `prompt` or `text`; else a text with one prompt a line.
        limit: so many of them, drawn by the seed and in the file's order; by default all.
        seed: of the draw.

    Raises:
        CheckpointError: it is none of these, or holds fewer.
    """
    read = {".json": _coco, ".jsonl": _rows}.get(path.suffix.lower(), _text)
    prompts = read(path)
    if not prompts or limit is not None and limit > len(prompts):
        raise CheckpointError(f"{path} holds {len(prompts)} prompts, expected {limit or 'some'}.")
    if limit is not None:
        prompts = [prompts[i] for i in sorted(random.Random(seed).sample(range(len(prompts)), limit))]
    return prompts


def language_of(texts: Sequence[str]) -> str:
    """`"zh"` if most texts have Chinese characters, else `"en"`."""
    return "zh" if 2 * sum(bool(CHINESE.search(text)) for text in texts) > len(texts) else "en"


def _coco(path):
    annotations = load_json(read_small(path, MOST_BYTES), str(path)).get("annotations")
    if not isinstance(annotations, list):
        raise CheckpointError(f"{path} has annotations={quoted(annotations)}, expected COCO's list of captions.")
    first = {}
    for number, each in enumerate(annotations, 1):
        each = each if isinstance(each, dict) else {}
        if type(each.get("id")) is not int or type(each.get("image_id")) not in (int, str):
            raise CheckpointError(f"{path}, annotation {number}, has no id and image_id.")
        known = first.get(each["image_id"])
        if known is None or each["id"] < known["id"]:
            first[each["image_id"]] = each
    captions = (_checked(each.get("caption"), f"{path}, annotation {each['id']},") for each in first.values())
    return list(captions)


def _rows(path):
    prompts = []
    for number, row in enumerate(read_lines(path), 1):
        name = next((name for name in _NAMES if name in row), _NAMES[0])
        prompts.append(_checked(row.get(name), f"{path}, row {number},", name))
    return prompts


def _text(path):
    try:
        lines = read_small(path, MOST_BYTES).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not a text in UTF-8; give one with a prompt on each line.") from error
    return [line.strip() for line in lines if line.strip()]


def _checked(value, what, name="caption"):
    if not isinstance(value, str) or not value.strip():
        raise CheckpointError(f"{what} has {name}={quoted(value)}, expected a text.")
    return " ".join(value.split())
