"""Thousands of prompts painted by one process or several, each picture a file that no later run paints again."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from .. import __version__
from ..checkpoint.errors import first_line
from ..checkpoint.files.staging import replace_bytes
from ..language import say
from ..paint import CHINESE, VisCPMPaint


def picture_path(folder: Path, number: int) -> Path:
    """The file of a prompt's picture."""
    return folder / f"{number:06}.png"


def refusal_path(folder: Path, number: int) -> Path:
    """The file that says why a prompt has no picture."""
    return folder / f"{number:06}.error"


def batches_of(prompts: Sequence[str], size: int) -> list[list[int]]:
    """Numbers of prompts that are painted together: neighbours, Chinese ones and others apart.

    The same whoever paints them and whatever is painted already: a picture may depend in its last bits on what it is
    painted with.
    """
    batches: list[list[int]] = []
    for number, prompt in enumerate(prompts):
        chinese = bool(CHINESE.search(prompt))
        last = batches[-1] if batches else []
        if last and len(last) < size and chinese == bool(CHINESE.search(prompts[last[0]])):
            last.append(number)
        else:
            batches.append([number])
    return batches


def is_painted(folder: Path, number: int) -> bool:
    """Whether a prompt has its picture, or cannot have one."""
    return has_picture(folder, number) or refusal_path(folder, number).exists()


def has_picture(folder: Path, number: int) -> bool:
    """Whether a prompt has its picture: a file with something in it."""
    path = picture_path(folder, number)
    return path.is_file() and path.stat().st_size > 0


def paint_missing(
    painter: VisCPMPaint,
    prompts: Sequence[str],
    batches: Sequence[Sequence[int]],
    folder: Path,
    seed: int,
    candidates: int | None = None,
    **options: Any,
) -> None:
    """Paints batches of which something is missing. Prompt i has the seed `seed + i`.

    Args:
        painter (`VisCPMPaint`): loaded.
        prompts: all of them.
        batches: of this process, see `batches_of`.
        folder: for the pictures.
        seed: of the first prompt.
        candidates: for each picture, of which the ranker chooses; by default the model's.
        **options: for `VisCPMPaint.paint`.
    """
    missing = [batch for batch in batches if not all(is_painted(folder, number) for number in batch)]
    done = sum(map(len, batches)) - sum(map(len, missing))
    bar = tqdm(total=sum(map(len, batches)), initial=done, desc=say("painting", "作画"), leave=False, disable=None)
    with bar:
        for batch in missing:
            try:
                pictures = _paint(painter, prompts, batch, seed, candidates, options)
            except (
                ValueError,
                RuntimeError,
            ) as error:  # RuntimeError: a picture is NaN, or there is too little memory
                pictures = (
                    [error]
                    if len(batch) == 1
                    else [_one(painter, prompts, number, seed, candidates, options) for number in batch]
                )
            for number, picture in zip(batch, pictures, strict=True):
                if isinstance(picture, Exception):
                    replace_bytes(refusal_path(folder, number), first_line(picture).encode())
                else:
                    replace_bytes(picture_path(folder, number), _png(picture, prompts[number], seed + number))
            bar.update(len(batch))


def _one(painter, prompts, number, seed, candidates, options):
    """A picture, or why there is none."""
    try:
        return _paint(painter, prompts, [number], seed, candidates, options)[0]
    except (ValueError, RuntimeError) as error:
        return error


def _paint(painter, prompts, batch, seed, candidates, options):
    texts = [prompts[number] for number in batch]
    ranked = "ranker" in painter.chinese_only and bool(CHINESE.search(texts[0]))  # it knows Chinese only
    return painter.paint(
        texts,
        generator=[seed + number for number in batch],
        num_candidates=candidates if ranked else None,
        **options,
    ).images


def _png(picture, prompt, seed):
    information = PngInfo()
    for key, value in {"Software": f"viscpm-hf {__version__}", "prompt": prompt, "seed": seed}.items():
        information.add_itxt(key, str(value))
    data = io.BytesIO()
    picture.save(data, "PNG", pnginfo=information)
    return data.getvalue()
