"""Training data of the tiny Chat model: pictures and questions prepared once, batches by indexing."""

import multiprocessing
import random
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from torch.utils.data import Sampler
from tqdm import tqdm

from ...remote_code.image_processing_viscpm_chat import VisCPMChatImageProcessor
from ...remote_code.processing_viscpm_chat import VisCPMChatProcessor
from ...remote_code.tokenization_cpmbee import CpmBeeTokenizer
from .. import VOCABULARY
from ..world.questions import Question, training_question
from ..world.scenes import BACKGROUNDS, CELLS, COLOURS, IMAGE_SIZE, SHAPES, SIZES, Scene, draw, random_scene
from ..world.vocabulary import SPECIALS

QUERY_NUM = 16
MAX_LENGTH = 88  # tokens; the longest training sample has 88
_SHORT = 62  # tokens; what is longer has a context or describes
_MOST_TAIL = 4  # tokens written after a finished answer
_IGNORED = -100
_CHUNK = 500  # scenes per task
_CONTEXT, _QUESTION, _ANSWER = 4, 6, 8  # segments of the chat prompt
_ATTRIBUTES = (SHAPES, tuple(COLOURS), tuple(SIZES))


@dataclass
class PreparedWorld:
    """N scenes with K questions each.

    Args:
        pictures (`torch.Tensor`): `(N, 64, 64, 3)` uint8.
        scene_labels (`torch.Tensor`): `(N, 28)` uint8, see `scene_labels`.
        input_ids, segment_ids, shift_labels (`torch.Tensor`): `(N * K, 88)` int16, uint8, int16.
        meant_cells (`torch.Tensor`): `(N * K,)` int8, cell of the object a question is about; -1: the whole picture.
    """

    pictures: torch.Tensor
    scene_labels: torch.Tensor
    input_ids: torch.Tensor
    segment_ids: torch.Tensor
    shift_labels: torch.Tensor
    meant_cells: torch.Tensor

    def to(self, device: str | torch.device) -> "PreparedWorld":
        return PreparedWorld(**{name: tensor.to(device) for name, tensor in vars(self).items()})


@cache
def tiny_processor() -> VisCPMChatProcessor:
    """The processor of the tiny checkpoint."""
    return VisCPMChatProcessor(
        VisCPMChatImageProcessor(size=IMAGE_SIZE), CpmBeeTokenizer(str(VOCABULARY)), query_num=QUERY_NUM
    )


def prepare_world(scenes: int, questions: int, seed: int = 0, workers: int = 1) -> PreparedWorld:
    """Draws scenes and writes questions about them, in parallel.

    Args:
        scenes (`int`): number N of pictures.
        questions (`int`): number K of questions about each.
        seed (`int`, defaults to 0): scene i depends on seed and i alone, whatever the number of workers.
        workers (`int`, defaults to 1): processes.

    Returns:
        `PreparedWorld`
    """
    world = PreparedWorld(
        pictures=torch.empty(scenes, IMAGE_SIZE, IMAGE_SIZE, 3, dtype=torch.uint8),
        scene_labels=torch.empty(scenes, len(CELLS) * 3 + 1, dtype=torch.uint8),
        input_ids=torch.empty(scenes * questions, MAX_LENGTH, dtype=torch.int16),
        segment_ids=torch.empty(scenes * questions, MAX_LENGTH, dtype=torch.uint8),
        shift_labels=torch.empty(scenes * questions, MAX_LENGTH, dtype=torch.int16),
        meant_cells=torch.empty(scenes * questions, dtype=torch.int8),
    )
    starts = range(0, scenes, _CHUNK)
    prepare = partial(_prepare_chunk, scenes=scenes, questions=questions, seed=seed)
    with (
        multiprocessing.Pool(workers) as pool,
        tqdm(total=scenes, desc="drawing", unit="picture", disable=None) as progress,
    ):
        for start, arrays in zip(starts, pool.imap(prepare, starts), strict=True):
            for tensor, array in zip(vars(world).values(), arrays, strict=True):
                per_scene = len(tensor) // scenes
                tensor[start * per_scene : start * per_scene + len(array)] = torch.from_numpy(array)
            progress.update(len(arrays[0]))
    return world


def _prepare_chunk(start: int, scenes: int, questions: int, seed: int) -> tuple[np.ndarray, ...]:
    pictures, labels, rows, meant = [], [], [], []
    for index in range(start, min(start + _CHUNK, scenes)):
        rng = random.Random(f"prepared {seed} {index}")
        scene = random_scene(rng)
        pictures.append(draw(scene, rng))
        labels.append(scene_labels(scene))
        asked = [training_question(scene, rng) for _ in range(questions)]
        for question in asked:
            rows.append(encode_question(question, tail=_tail(rng, rng.choice(asked).answer)))
            meant.append(-1 if question.cell is None else question.cell)
    return (
        np.stack(pictures),
        np.array(labels, np.uint8),
        *(np.array(column, dtype) for column, dtype in zip(zip(*rows, strict=True), _ROW_DTYPES, strict=True)),
        np.array(meant, np.int8),
    )


_ROW_DTYPES = (np.int16, np.uint8, np.int16)


def scene_labels(scene: Scene) -> list[int]:
    """Shape, colour and size of each of the nine cells (0: nothing, else 1 + index), then the background's index."""
    labels = [0] * (3 * len(CELLS))
    for thing in scene.things:
        values = (thing.shape, thing.colour, thing.size)
        labels[3 * thing.cell : 3 * thing.cell + 3] = [
            1 + names.index(value) for names, value in zip(_ATTRIBUTES, values, strict=True)
        ]
    return [*labels, list(BACKGROUNDS).index(scene.background)]


def encode_question(question: Question, tail: list[int] | None = None) -> tuple[list[int], list[int], list[int]]:
    """What `ChatCollator` makes of a question about a picture, many times faster because texts are remembered.

    Args:
        question (`Question`): with its answer.
        tail (`list[int]`, *optional*): token ids written after the finished answer, each with the target `</s>`.

    Returns:
        `input_ids, segment_ids, shift_labels`, padded to `MAX_LENGTH`.
    """
    input_ids, segment_ids = [], []
    texts = {_CONTEXT: question.context, _QUESTION: question.question, _ANSWER: question.answer}
    for segment, frame in enumerate(_frame()):
        ids = [frame[0], *_ids(texts[segment]), *frame[1:]] if segment in texts else frame
        input_ids += ids
        segment_ids += [segment] * len(ids)
    answer = _ids(question.answer)
    eos = tiny_processor().tokenizer.eos_token_id
    labels = [_IGNORED] * (len(input_ids) - len(answer) - 1) + [*answer, eos]
    tail = (tail or [])[: MAX_LENGTH - len(input_ids)]
    missing = MAX_LENGTH - len(input_ids) - len(tail)
    return (
        [*input_ids, *tail, *[0] * missing],
        [*segment_ids, *[_ANSWER] * len(tail), *[0] * missing],
        [*labels, *[eos] * len(tail), *[_IGNORED] * missing],
    )


def _tail(rng: random.Random, other_answer: str) -> list[int]:
    """Something to stop after: the original's search prefers long answers and looks what comes after the full stop."""
    if rng.random() < 0.5:
        return list(_ids(other_answer)[:_MOST_TAIL])
    return [
        rng.randrange(len(SPECIALS), tiny_processor().tokenizer.vocab_size) for _ in range(rng.randint(1, _MOST_TAIL))
    ]


@cache
def _ids(text: str) -> tuple[int, ...]:
    return tuple(tiny_processor().tokenizer.encode_segment(text)[0])


@cache
def _frame() -> list[list[int]]:
    """The prompt without context, question and answer, segment by segment."""
    encoding = tiny_processor().encode_chat(True, "")
    segments: list[list[int]] = [[] for _ in encoding["segment_rel"]]
    for token, segment in zip(encoding["input_ids"], encoding["segment_ids"], strict=True):
        segments[segment].append(token)
    return segments


class WorldSampler(Sampler):
    """Row numbers in an order of which every `batch_size` make a good batch: few pictures, similar lengths.

    The questions about a picture follow each other, so that it is encoded once for them, and rows with a long context
    are batched apart from those without.
    """

    def __init__(self, world: PreparedWorld, batch_size: int, seed: int = 0):
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0
        self.long = ((world.input_ids != 0).sum(1) > _SHORT).view(len(world.pictures), -1)  # (scenes, questions)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.long.numel() // self.batch_size * self.batch_size

    def __iter__(self):
        generator = torch.Generator().manual_seed(1000 * self.seed + self.epoch)
        scenes = torch.randperm(len(self.long), generator=generator)
        rows = scenes[:, None] * self.long.shape[1] + torch.arange(self.long.shape[1])
        by_length = [rows[self.long[scenes] == long] for long in (False, True)]
        batches = [
            batch for part in by_length for batch in part.split(self.batch_size) if len(batch) == self.batch_size
        ]
        for index in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[index].tolist()


class WorldBatches:
    """Collator over row numbers of a `PreparedWorld`: model inputs, targets, scene labels and the cell that is meant.

    Each picture is there once; `picture_of` (batch,) says which one a question is about. The batch is as long as its
    longest row.
    """

    def __init__(self, world: PreparedWorld):
        self.world = world
        self.questions_per_scene = len(world.input_ids) // len(world.pictures)
        self.segment_rel = torch.tensor(tiny_processor().encode_chat(True, "")["segment_rel"])

    def __len__(self) -> int:
        return len(self.world.input_ids)

    def __call__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        rows = torch.tensor(rows)
        scenes, picture_of = (rows // self.questions_per_scene).unique(return_inverse=True)
        input_ids = self.world.input_ids[rows]
        length = int((input_ids != 0).sum(1).max())
        input_ids, segment_ids = input_ids[:, :length].long(), self.world.segment_ids[rows, :length].long()
        attention_mask = (input_ids != 0).long()  # nobody in this world says <pad>
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "segment_ids": segment_ids,
            "context_mask": attention_mask * (segment_ids != _ANSWER),
            "segment_rel": self.segment_rel.expand(len(rows), -1, -1),
            "mm_token_type_ids": (input_ids == tiny_processor().tokenizer.unk_token_id).long() * (segment_ids == 2),
            "pixel_values": to_pixels(self.world.pictures[scenes]),
            "picture_of": picture_of,
            "shift_labels": self.world.shift_labels[rows, :length].long().contiguous(),
            "scene_labels": self.world.scene_labels[scenes].long(),
            "meant_cells": self.world.meant_cells[rows].long(),
        }


class PictureBatches:
    """Collator over scene numbers of a `PreparedWorld`: pictures and their scene labels."""

    def __init__(self, world: PreparedWorld):
        self.world = world

    def __len__(self) -> int:
        return len(self.world.pictures)

    def __call__(self, scenes: list[int]) -> dict[str, torch.Tensor]:
        return {
            "pixel_values": to_pixels(self.world.pictures[scenes]),
            "scene_labels": self.world.scene_labels[scenes].long(),
        }


def to_pixels(pictures: torch.Tensor) -> torch.Tensor:
    """What the image processor makes of pictures of its size: (n, 64, 64, 3) uint8 to (n, 3, 64, 64) in [-1, 1]."""
    return (pictures.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
