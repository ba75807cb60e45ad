"""Painted captions and their scores, over processes: the README's FID table."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from PIL import Image

from ..checkpoint.errors import CheckpointError
from ..checkpoint.files.staging import replace_bytes
from ..language import say
from ..paint import CHINESE, VisCPMPaint
from .captions import language_of
from .clip import ClipScore
from .fid import Inception, add_pictures, frechet_distance, pictures_in
from .painting import batches_of, has_picture, is_painted, paint_missing, picture_path, refusal_path
from .runs import digest_of, require_settings
from .tables import table

RESULTS = "results.json"
ENOUGH = 10_000  # pictures for an FID that says something about 30 000
# README of the original: zero-shot FID of 30 000 MSCOCO captions, model → language
PUBLISHED = {"VisCPM-Paint-balance": {"en": 9.5, "zh": 10.9}, "VisCPM-Paint-zhplus": {"en": 9.9, "zh": 9.6}}


@dataclass(frozen=True)
class PromptSet:
    """Prompts with a folder for their pictures.

    Args:
        name (`str`): of the set.
        prompts (`list[str]`): what to paint.
        folder (`Path`): for the pictures.
    """

    name: str
    prompts: list[str]
    folder: Path

    @property
    def language(self) -> str:
        """`"zh"` or `"en"`."""
        return language_of(self.prompts)

    @property
    def painted(self) -> list[int]:
        """Numbers of the prompts that have a picture."""
        return [number for number in range(len(self.prompts)) if has_picture(self.folder, number)]

    @property
    def refused(self) -> dict[int, str]:
        """Number of a prompt without a picture → why."""
        paths = ((number, refusal_path(self.folder, number)) for number in range(len(self.prompts)))
        return {number: path.read_text(encoding="utf-8") for number, path in paths if path.exists()}


@dataclass(frozen=True)
class Result:
    """Scores of a set.

    Args:
        model, prompts, language (`str`): names of the model and of the set, language of the prompts.
        ranked (`bool`): whether the ranker chose the pictures.
        count (`int`): pictures.
        refused (`dict`): number of a prompt without a picture → why.
        fid (`float`, *optional*): Fréchet inception distance.
        real (`int`, *optional*): pictures it is a distance to.
        clip (`float`, *optional*), clip_error (`float`, *optional*): mean CLIP score and its standard error.
    """

    model: str
    prompts: str
    language: str
    ranked: bool
    count: int
    refused: dict[int, str]
    fid: float | None = None
    real: int | None = None
    clip: float | None = None
    clip_error: float | None = None


def paint_sets(
    sets: Sequence[PromptSet],
    settings: dict[str, Any],
    load: Callable[[], tuple[VisCPMPaint, dict[str, Any]]],
    state: PartialState,
    seed: int,
    batch_size: int,
    candidates: int | None,
) -> None:
    """Paints what is missing of the sets, each process its share of the batches.

    Args:
        sets: of prompts.
        settings: what the pictures depend on beside prompts and seed.
        load: a painter and options for its `paint`; called if something is missing.
        state (`PartialState`): of the processes.
        seed: of the first prompt of each set; the next has the next.
        batch_size: prompts at a time.
        candidates: for each picture, of which the ranker chooses; by default the model's.

    Raises:
        CheckpointError: a folder has pictures that were painted with other settings.
    """
    # before anybody paints
    begun = {each.name: bool(each.painted or each.refused) for each in sets}

    def keep_settings(each):
        own = {"prompts": digest_of(each.prompts), "seed": seed, "batch": batch_size, "candidates": candidates}
        require_settings(each.folder / "settings.json", {**own, **settings}, begun[each.name])

    for each in sets:
        if state.is_main_process and begun[each.name]:
            keep_settings(each)
    state.wait_for_everyone()
    shares = [batches_of(each.prompts, batch_size)[state.process_index :: state.num_processes] for each in sets]
    own = [(each.folder, n) for each, share in zip(sets, shares, strict=True) for batch in share for n in batch]
    if not all(is_painted(*one) for one in own):
        painter, options = load()
        for each, share in zip(sets, shares, strict=True):
            each.folder.mkdir(parents=True, exist_ok=True)
            if state.is_main_process and not begun[each.name]:
                keep_settings(each)
            paint_missing(painter, each.prompts, share, each.folder, seed, candidates, **options)
        del painter
        if state.device.type == "cuda":
            torch.cuda.empty_cache()
    state.wait_for_everyone()


def score_sets(
    sets: Sequence[PromptSet],
    model: str,
    has_ranker: bool,
    state: PartialState,
    real: Path | None = None,
    inception: Inception | None = None,
    clips: dict[str, str] | None = None,
) -> list[Result]:
    """The scores of painted sets, each process looking at its share of the pictures.

    Args:
        sets: painted.
        model: what it is called.
        has_ranker: whether it chose among pictures of Chinese prompts.
        state (`PartialState`): of the processes.
        real: folder of real pictures, for FID.
        inception: the network of FID.
        clips: language → folder or repository of a CLIP that knows it.

    Returns:
        One result for each set, the same in all processes.

    Raises:
        CheckpointError: fewer than two prompts have a picture, or one cannot be read.
    """
    share = slice(state.process_index, None, state.num_processes)
    distances = _distances(sets, share, state, real, inception) if inception is not None else [None] * len(sets)
    scorers: dict[str, ClipScore] = {}
    results = []
    for each, distance in zip(sets, distances, strict=True):
        mean = error = None
        if clips and (clip := clips.get(each.language)):
            if clip not in scorers:
                scorers[clip] = ClipScore(clip, state.device)
            own = each.painted[share]
            prompts, paths = [each.prompts[n] for n in own], [picture_path(each.folder, n) for n in own]
            scores = torch.tensor(gather_object(scorers[clip](prompts, paths)), dtype=torch.float64)
            mean = float(scores.mean())
            error = float(scores.std() / len(scores) ** 0.5) if len(scores) > 1 else None
        ranked = has_ranker and bool(CHINESE.search("".join(each.prompts)))
        fid, count = distance or (None, None)
        results.append(
            Result(model, each.name, each.language, ranked, len(each.painted), each.refused, fid, count, mean, error)
        )
    return results


def _distances(sets, share, state, real, inception):
    """FID of each set with the number of real pictures."""
    for each in sets:
        if len(each.painted) < 2:
            raise CheckpointError(f"{each.folder} holds {len(each.painted)} pictures, expected at least two for FID.")
    paths = pictures_in(real)
    with Image.open(picture_path(sets[0].folder, sets[0].painted[0])) as picture:
        size = picture.size
    metric = frechet_distance(inception).to(state.device)
    add_pictures(metric, paths[share], True, size)
    found = []
    for each in sets:
        add_pictures(metric, [picture_path(each.folder, number) for number in each.painted[share]], False, size)
        found.append((float(metric.compute()), len(paths)))
        metric.reset()
    return found


def save(results: Sequence[Result], folder: Path) -> None:
    """Writes `results.json`."""
    replace_bytes(folder / RESULTS, (as_json(results) + "\n").encode())


def as_json(results: Sequence[Result]) -> str:
    """Results with all their numbers."""
    return json.dumps([asdict(result) for result in results], ensure_ascii=False, indent=2)


def as_table(results: Sequence[Result], markdown: bool = False) -> str:
    """The README's FID table, in both languages if there are prompts in both."""
    header = [say("model", "模型"), say("prompts", "提示词"), say("language", "语言"), say("ranker", "重排序")]
    header += [say("pictures", "图片数"), "FID", say("CLIP score", "CLIP 分数")]
    yes = {True: say("yes", "有"), False: say("no", "无")}
    rows = [
        [
            result.model,
            result.prompts,
            result.language,
            yes[result.ranked],
            f"{result.count}",
            "–" if result.fid is None else f"{result.fid:.2f}",
            "–" if result.clip is None else f"{result.clip:.2f} ± {1.96 * (result.clip_error or 0):.2f}",
        ]
        for result in results
    ]
    for language in dict.fromkeys(result.language for result in results if result.fid is not None):
        for name, published in PUBLISHED.items():
            label = say(f"{name}, published", f"{name}，原版 README")
            rows.append([label, "MSCOCO", language, "–", "30000", f"{published[language]:.1f}", "–"])
    return table(header, rows, markdown)
