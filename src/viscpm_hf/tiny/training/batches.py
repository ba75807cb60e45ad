"""Training data of the tiny Chat model: scenes and questions as numbers, prepared once, batches made on the device.

Rows of a layout have the same segments at the same places, padded inside of each: only distances inside one segment
are ever looked up, so the attention bias is the same for a whole batch. Pictures are drawn when they are needed, with
other flips, shifts and shades every time.
"""

import multiprocessing
import random
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from ...remote_code.image_processing_viscpm_chat import VisCPMChatImageProcessor
from ...remote_code.processing_viscpm_chat import VisCPMChatProcessor
from ...remote_code.tokenization_cpmbee import CpmBeeTokenizer
from .. import VOCABULARY
from ..world.phrasings import WideRandom
from ..world.pictures import IMAGE_SIZE, MOST_THINGS, ROW_LENGTH, random_jitter, render, scene_row
from ..world.questions import Question, training_question, training_question_about_nothing
from ..world.scenes import BACKGROUNDS, CELLS, SIZES, Scene, random_scene
from ..world.things import KNOWN
from ..world.unknown import UNKNOWN_PICTURES, unknown_picture
from ..world.vocabulary import SPECIALS

QUERY_NUM = 16
CONTEXT, QUESTION, ANSWER = 4, 6, 8  # segments of the chat prompt
EXTENSIONS = 6  # words outside of the vocabulary that a row may have, beside the first
ABOUT_NOTHING = 0.1  # share of pictures that show nothing of this world
ALIKE = 0.3  # share of further things that have a kind, a fact or the colour in common with the one before
NOTHING = len(BACKGROUNDS)  # in place of a background, where a picture is one of those; its number is the shade
NOISE = 0.06  # deviation at most, where a picture reaches from -1 to 1
_MOST_TAIL = 4  # tokens written after a finished answer
IGNORED = -100
_QUESTIONS = 10  # asked about a scene; of those that fit, whole groups are kept


@dataclass(frozen=True)
class Layout:
    """Room for the three texts of a row, tokens, and how many rows share a picture."""

    context: int
    question: int
    answer: int
    group: int

    @property
    def room(self) -> int:
        return self.context + self.question + self.answer

    @property
    def length(self) -> int:
        return sum(map(len, frame())) + self.room


# lengths are multiples of eight, as fast attention with a bias wants them
LAYOUTS = {"short": Layout(0, 14, 12, 4), "wide": Layout(0, 40, 34, 2), "context": Layout(46, 24, 28, 2)}


@cache
def tiny_processor() -> VisCPMChatProcessor:
    """The processor of the tiny checkpoint."""
    return VisCPMChatProcessor(
        VisCPMChatImageProcessor(size=IMAGE_SIZE), CpmBeeTokenizer(str(VOCABULARY)), query_num=QUERY_NUM
    )


@cache
def frame() -> tuple[tuple[int, ...], ...]:
    """The prompt without context, question and answer, segment by segment."""
    encoding = tiny_processor().encode_chat(True, "")
    segments: list[list[int]] = [[] for _ in encoding["segment_rel"]]
    for token, segment in zip(encoding["input_ids"], encoding["segment_ids"], strict=True):
        segments[segment].append(token)
    return tuple(map(tuple, segments))


@lru_cache(maxsize=1 << 17)  # most wordings come once
def _ids(text: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    ids, table = tiny_processor().tokenizer.encode_segment(text)
    return tuple(ids), tuple(table.values())


def encode(question: Question) -> tuple[tuple[int, ...], ...]:
    """Token ids of context, question and answer, as the processor numbers them.

    The first unknown word of a row is `<unk>`, the following ones are `vocab_size`, `vocab_size + 1` …
    """
    tokenizer = tiny_processor().tokenizer
    size, words, encoded = tokenizer.vocab_size, [], []
    for text in (question.context, question.question, question.answer):
        ids, unknown = _ids(text)
        if unknown:
            words += [word for word in unknown if word not in words]
            numbers = [words.index(word) + size - 1 for word in unknown]
            numbers = [tokenizer.unk_token_id if number < size else number for number in numbers]
            ids = tuple(token if token < size else numbers[token - size] for token in ids)
        encoded.append(ids)
    return tuple(encoded)


def fitting(encoded: tuple[tuple[int, ...], ...]) -> str | None:
    """The first layout with room for these texts, `None` if no one has."""
    if max(map(max, filter(None, encoded))) >= tiny_processor().tokenizer.vocab_size + EXTENSIONS:
        return None
    for name, layout in LAYOUTS.items():
        room = (layout.context, layout.question, layout.answer)
        if all(len(ids) <= most for ids, most in zip(encoded, room, strict=True)):
            return name
    return None


def prepare(folder: Path, rows: int, seed: int = 0, workers: int = 1, pictures: int = 6000, hard: float = 0.0) -> None:
    """Writes `rows` questions about scenes, and pictures of nothing, unless they are there.

    Args:
        folder (`Path`): made if needed; holds NAME-rows.npy, NAME-scenes.npy, NAME-cells.npy of each layout and
            pictures.npy, and is complete once `done` is there.
        rows (`int`): how many questions.
        seed (`int`, defaults to 0): chunk i depends on seed and i alone, whatever the number of workers.
        workers (`int`, defaults to 1): processes.
        pictures (`int`, defaults to 6000): how many pictures show nothing.
        hard (`float`, defaults to 0): share of rows with mostly two or three things, twins, and the questions that
            are learned last.
    """
    done, what = folder / "done", f"{rows} {seed} {pictures} {hard} {LAYOUTS} {tiny_processor().tokenizer.vocab_size}"
    if done.exists() and done.read_text(encoding="utf-8") == what:
        return
    folder.mkdir(parents=True, exist_ok=True)
    done.unlink(missing_ok=True)
    per_chunk = min(rows, 2000)
    chunks = -(-rows // per_chunk)
    tasks = [("hard" if index < hard * chunks else "questions", seed, index, per_chunk) for index in range(chunks)]
    tasks += [("pictures", seed, index, min(pictures, 100)) for index in range(-(-pictures // 100))]
    random.Random(0).shuffle(tasks)
    parts: dict[str, list[np.ndarray]] = {}
    with (
        multiprocessing.get_context("fork").Pool(workers) as pool,
        tqdm(total=len(tasks), desc="preparing", unit="chunk", disable=None) as progress,
    ):
        for arrays in pool.imap_unordered(_chunk, tasks):
            for name, array in arrays.items():
                parts.setdefault(name, []).append(array)
            progress.update()
    for name, arrays in parts.items():
        np.save(folder / f"{name}.npy", np.concatenate(arrays))
    done.write_text(what, encoding="utf-8")


def _chunk(task: tuple[str, int, int, int]) -> dict[str, np.ndarray]:
    what, seed, index, size = task
    rng = WideRandom(f"prepared {what} {seed} {index}")
    if what == "pictures":
        sorts = list(UNKNOWN_PICTURES)
        return {"pictures": np.stack([np.asarray(unknown_picture(rng.choice(sorts), rng)) for _ in range(size)])}
    found: dict[str, tuple[list, list, list]] = {name: ([], [], []) for name in LAYOUTS}
    kept = 0
    while kept < size:
        nothing = rng.random() < (ABOUT_NOTHING / 3 if what == "hard" else ABOUT_NOTHING)
        scene = hard_scene(rng) if what == "hard" else random_scene(rng, alike=ALIKE)
        if nothing:
            # three numbers of a picture: more of them than an int16 can hold
            row = [-1, 0, 0, 0, 0, 0] * MOST_THINGS + [NOTHING, rng.randrange(1 << 15)]
            asked = [training_question_about_nothing(rng) for _ in range(_QUESTIONS)]
        else:
            row = scene_row(scene)
            asked = [training_question(scene, rng, what == "hard") for _ in range(_QUESTIONS)]
        groups: dict[str, list] = {name: [] for name in LAYOUTS}
        for question in asked:
            encoded = encode(question)
            name = fitting(encoded)
            if name:
                groups[name].append((encoded, -1 if question.cell is None else question.cell))
        for name, members in groups.items():
            layout = LAYOUTS[name]
            rows, scenes, cells = found[name]
            for start in range(0, len(members) - layout.group + 1, layout.group):
                scenes.append(row)
                for encoded, cell in members[start : start + layout.group]:
                    rows.append(padded(encoded, layout))
                    cells.append(cell)
                kept += layout.group
    arrays = {}
    for name, (rows, scenes, cells) in found.items():
        arrays[f"{name}-rows"] = np.array(rows, np.int16).reshape(-1, LAYOUTS[name].room)
        arrays[f"{name}-scenes"] = np.array(scenes, np.int16).reshape(-1, ROW_LENGTH)
        arrays[f"{name}-cells"] = np.array(cells, np.int8)
    return arrays


def hard_scene(rng: random.Random) -> Scene:
    """Two or three things, in every fourth scene two of a kind."""
    while True:
        scene = random_scene(rng, count=rng.choices((2, 3), (2, 3))[0], alike=ALIKE)
        if rng.random() < 0.25:
            name = scene.things[0].name
            second = replace(scene.things[-1], name=name, flipped=False)
            scene = replace(scene, things=(*scene.things[:-1], second))
        if not scene.held_out:
            return scene


def padded(encoded: tuple[tuple[int, ...], ...], layout: Layout) -> list[int]:
    """Context, question and answer in their rooms, zeros behind each."""
    row: list[int] = []
    for ids, room in zip(encoded, (layout.context, layout.question, layout.answer), strict=True):
        row += [*ids, *[0] * (room - len(ids))]
    return row


class Batches:
    """Endless batches of a prepared folder, made on a device.

    Args:
        folder (`Path`): of `prepare`.
        device: where everything lies.
        pictures (`int`): of a batch; rows are as many times more as share one.
        seed (`int`, defaults to 0): for the choice of rows and layouts.
    """

    def __init__(self, folder: Path, device: str | torch.device, pictures: int, seed: int = 0):
        self.device = torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.rng = random.Random(seed)
        load = {path.stem: torch.from_numpy(np.load(path)) for path in folder.glob("*.npy")}
        self.arrays = {name: array.to(self.device) for name, array in load.items()}
        self.names = list(LAYOUTS)
        self.groups = [len(self.arrays[f"{name}-scenes"]) for name in self.names]
        self.number = pictures

    def pictures(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures and their scene labels, see `drawn`."""
        name = self._any()
        return self.drawn(self.arrays[f"{name}-scenes"][self._picked(name)])

    def _any(self) -> str:
        return self.rng.choices(self.names, self.groups)[0]

    def _picked(self, name: str) -> torch.Tensor:
        groups = len(self.arrays[f"{name}-scenes"])
        return torch.randint(groups, (self.number,), device=self.device, generator=self.generator)

    def batch(self, layout: str | None = None) -> dict[str, torch.Tensor | str]:
        """A batch of a layout, by default of any.

        Returns:
            `layout` (its name), `rows` (rows, room), `cells` (rows,), `pixel_values` and `scene_labels` as of `drawn`.
        """
        name = layout or self._any()
        group, picked = LAYOUTS[name].group, self._picked(name)
        rows = (picked[:, None] * group + torch.arange(group, device=self.device)).flatten()
        pixels, labels = self.drawn(self.arrays[f"{name}-scenes"][picked])
        return {
            "layout": name,
            "rows": self.arrays[f"{name}-rows"][rows].long(),
            "cells": self.arrays[f"{name}-cells"][rows].long(),
            "pixel_values": pixels,
            "scene_labels": labels,
        }

    def drawn(self, scenes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures of scene rows, `(n, 3, 96, 96)` in [-1, 1], and their labels, see `scene_labels`."""
        unknown = scenes[:, -2] == NOTHING
        known = scenes.clone()
        known[:, -2] = known[:, -2].clamp(max=NOTHING - 1)
        pictures = render(random_jitter(known, self.generator), IMAGE_SIZE)
        strange = self.arrays["pictures"][scenes[:, -1].long() % len(self.arrays["pictures"])]
        strange = self.turned(strange)
        pictures = torch.where(unknown[:, None, None, None], strange, pictures)
        return noisy(pictures, self.generator), scene_labels(scenes)

    def turned(self, pictures: torch.Tensor) -> torch.Tensor:
        """The same pictures mirrored, turned, rolled, with their channels exchanged: one way for the whole batch."""
        rng = self.rng
        if rng.random() < 0.5:
            pictures = pictures.flip(2)
        if rng.random() < 0.3:
            pictures = pictures.transpose(1, 2)
        if rng.random() < 0.5:
            pictures = pictures.roll((rng.randrange(IMAGE_SIZE), rng.randrange(IMAGE_SIZE)), (1, 2))
        order = torch.tensor(rng.sample(range(3), 3), device=pictures.device)
        if rng.random() < 0.2:
            pictures = 255 - pictures
        return pictures[..., order]


def noisy(pictures: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Pictures `(n, 96, 96, 3)` uint8 as the tower wants them, `(n, 3, 96, 96)` in [-1, 1].

    With a little noise, so that a picture which went through JPEG is the same.
    """
    pixels, device = (pictures.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5, pictures.device
    level = torch.rand(len(pixels), 1, 1, 1, device=device, generator=generator) * NOISE
    return pixels + level * torch.randn(pixels.shape, device=device, generator=generator)


def scene_labels(scenes: torch.Tensor) -> torch.Tensor:
    """Labels `(n, 19)` of scene rows.

    The number of the thing in each of the nine cells (0: nothing, else 1 + its number), then the size of each (0:
    nothing, else 1 + its index), then the background (`NOTHING` where nothing is known).
    """
    things = scenes[:, :-2].view(len(scenes), MOST_THINGS, -1).long()
    numbers, sizes, cells = things[..., 0], things[..., 1], things[..., 2]
    cells = torch.where(numbers < 0, len(CELLS), cells)  # a tenth one, cut off
    empty = torch.zeros(len(scenes), len(CELLS) + 1, dtype=torch.long, device=scenes.device)
    return torch.cat(
        [
            empty.scatter(1, cells, numbers + 1)[:, :-1],
            empty.scatter(1, cells, sizes + 1)[:, :-1],
            scenes[:, -2:-1].long(),
        ],
        dim=1,
    )


SCENE_CLASSES = (1 + len(KNOWN), 1 + len(SIZES))


@dataclass(frozen=True)
class Shared:
    """What all rows of a layout share: token ids and segments `(length,)`, the segments' relations, first places."""

    input_ids: torch.Tensor
    segment_ids: torch.Tensor
    segment_rel: torch.Tensor
    first: dict[int, int]
    picture: int


@cache
def shared(layout: Layout, device: torch.device) -> Shared:
    """What all rows of a layout share, on a device."""
    rooms = {CONTEXT: layout.context, QUESTION: layout.question, ANSWER: layout.answer}
    ids, segments, first = [], [], {}
    for segment, tokens in enumerate(frame()):
        first[segment] = len(ids) + 1
        ids += [tokens[0], *[0] * rooms.get(segment, 0), *tokens[1:]]
        segments += [segment] * (len(ids) - len(segments))
    relations = tiny_processor().encode_chat(True, "")["segment_rel"]
    tensors = (torch.tensor(each, device=device) for each in (ids, segments, relations))
    return Shared(*tensors, first, first[2])


def assembled(rows: torch.Tensor, layout: Layout, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
    """Model inputs of rows `(rows, room)`.

    The original's search prefers long answers and looks what comes after the full stop, so a few stray tokens are put
    behind half of the answers, and the end is asked for after each of them.

    Returns:
        `input_ids` (rows, length), `real` (rows, length) False where padding is, `labels` (rows, 1 + answer): the
        tokens that follow `<s>` of the answer and the answer's tokens, -100 where none is asked for.
    """
    common = shared(layout, rows.device)
    ids = common.input_ids.repeat(len(rows), 1)
    real = torch.ones_like(ids, dtype=torch.bool)
    eos, size = tiny_processor().tokenizer.eos_token_id, tiny_processor().tokenizer.vocab_size
    start = 0
    for segment, room in ((CONTEXT, layout.context), (QUESTION, layout.question)):
        if room:
            text = nn.functional.pad(rows[:, start : start + room], (0, 1))
            used = (text != 0).sum(1, keepdim=True)  # (rows, 1)
            place = torch.arange(room + 1, device=rows.device)
            window = slice(common.first[segment], common.first[segment] + room + 1)
            ids[:, window] = torch.where(place == used, eos, text)  # the segment's </s> right after the text
            real[:, window] = place <= used
            start += room
    answer = rows[:, start:]
    used = (answer != 0).sum(1, keepdim=True)
    place = torch.arange(layout.answer + 1, device=rows.device)
    tail = torch.randint(1, _MOST_TAIL + 1, used.shape, device=rows.device, generator=generator)
    tail *= torch.randint(0, 2, used.shape, device=rows.device, generator=generator)
    stray = torch.randint(len(SPECIALS), size, answer.shape, device=rows.device, generator=generator)
    # half of them are how another answer of the batch begins
    other = answer.roll(1, 0).gather(1, (place[:-1] - used).clamp(min=0))
    half = torch.randint(0, 2, used.shape, device=rows.device, generator=generator) == 1
    stray = torch.where(half & (other > 0), other, stray)
    window = slice(common.first[ANSWER], None)
    behind = (place[:-1] >= used) & (place[:-1] < used + tail)
    ids[:, window] = torch.where(behind, stray, answer)
    real[:, window] = place[:-1] < used + tail
    targets = torch.where(place < used, nn.functional.pad(answer, (0, 1)), eos)
    return {"input_ids": ids, "real": real, "labels": torch.where(place <= used + tail, targets, IGNORED)}


def image(picture: torch.Tensor) -> Image.Image:
    """A picture of a batch, `(3, 96, 96)` in [-1, 1], for a look at it."""
    return Image.fromarray(((picture.permute(1, 2, 0).cpu().numpy() * 0.5 + 0.5) * 255).round().astype(np.uint8))
