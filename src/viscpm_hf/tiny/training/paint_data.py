"""Training data of the tiny Paint: scenes and prompts as numbers, prepared once; pictures are drawn on the device."""

import multiprocessing
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import torch
from tqdm import tqdm

from ...remote_code.tokenization_cpmbee import CpmBeeTokenizer
from .. import VOCABULARY
from ..world.pictures import CELL_CENTRES, IMAGE_SIZE, MOST_THINGS, SPRITE_PIXELS, render, scene_row
from ..world.prompts import training_wish, write_training_prompts
from ..world.scenes import BACKGROUNDS, SIZES
from ..world.things import BY_NAME, COLOURS, SHAPES, THINGS

# what can be seen somewhere in a picture: a pictogram, a shape of whatever colour, or the background
SEEN = (*(thing.name for thing in THINGS), *SHAPES, *BACKGROUNDS)
THINGS_SEEN = len(THINGS) + len(SHAPES)
NO_COLOUR = 255
MAP_PIXELS = 8  # of the picture, to one of its map
OFTEN = 9  # times as often as others are things chosen that training is to show often
_CHUNK = 1000  # scenes per task
_FIELDS = 6  # of a thing in a row of `scene_rows`


@dataclass
class PaintData:
    """N scenes with K prompts each.

    Args:
        pictures (`torch.Tensor`): `(N, 3, size, size)` uint8.
        maps (`torch.Tensor`): `(N, size / 8, size / 8)` uint8, what covers each part: an index into `SEEN`.
        colours (`torch.Tensor`): like `maps`, the colour of coloured shapes, an index into `COLOURS`, else
            `NO_COLOUR`.
        input_ids, segment_ids (`torch.Tensor`): `(N, K, L)` int16 and uint8, prompts padded on the right.
        lengths (`torch.Tensor`): `(N, K)` tokens.
        placed (`torch.Tensor`): `(N, K)` bool, whether the prompt says where everything is.
        empty_ids, empty_segments (`torch.Tensor`): `(L,)` of the empty prompt.
        empty_length (`int`): its tokens.
        segment_rel (`torch.Tensor`): `(S, S)`, the same for all prompts.
        latents (`torch.Tensor`, *optional*): `(N, 4, size / 4, size / 4)`, scaled.
    """

    pictures: torch.Tensor
    maps: torch.Tensor
    colours: torch.Tensor
    input_ids: torch.Tensor
    segment_ids: torch.Tensor
    lengths: torch.Tensor
    placed: torch.Tensor
    empty_ids: torch.Tensor
    empty_segments: torch.Tensor
    empty_length: int
    segment_rel: torch.Tensor
    latents: torch.Tensor | None = None

    def choose(self, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Numbers of scenes, and of one prompt of each."""
        device = self.maps.device
        scenes = torch.randint(len(self.maps), (batch_size,), device=device)
        return scenes, torch.randint(self.lengths.shape[1], (batch_size,), device=device)


def to_pixels(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 to [-1, 1]."""
    return pictures.float() / 127.5 - 1


def draw_rows(rows: torch.Tensor, size: int, chunk: int = 2000) -> torch.Tensor:
    """Rows of `scene_rows` as pictures `(n, 3, size, size)` uint8 on the device where the rows lie."""
    return torch.cat([render(part, size).permute(0, 3, 1, 2).contiguous() for part in rows.split(chunk)])


def boxes(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Where the things of rows are.

    Args:
        rows (`torch.Tensor`): `(n, 20)` of `scene_rows`.

    Returns:
        what is there, an index into `SEEN`, -1 for nothing; its colour or `NO_COLOUR`; the middle's row and column and
        the side, in shares of the picture: each `(n, 3)`.
    """
    things = rows[:, :-2].long().view(len(rows), MOST_THINGS, _FIELDS)
    number, which, cell, _, dx, dy = things.unbind(2)
    centres = torch.tensor(CELL_CENTRES, device=rows.device)
    sides = torch.tensor([SPRITE_PIXELS[size] for size in SIZES], device=rows.device)
    coloured = number - len(THINGS)
    what = torch.where(coloured >= 0, len(THINGS) + coloured.div(len(COLOURS), rounding_mode="floor"), number)
    colour = torch.where(coloured >= 0, coloured % len(COLOURS), NO_COLOUR)
    down, across = centres[cell // 3] + dy, centres[cell % 3] + dx
    return what, colour, down / IMAGE_SIZE, across / IMAGE_SIZE, sides[which] / IMAGE_SIZE


def seen_maps(rows: torch.Tensor, parts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What covers each of `parts` × `parts` parts of the pictures, and its colour, `(n, parts, parts)` uint8 each."""
    middles = (torch.arange(parts, device=rows.device) + 0.5) / parts
    ground = THINGS_SEEN + rows[:, -2].long()
    seen = ground[:, None, None].expand(-1, parts, parts)
    colours = torch.full_like(seen, NO_COLOUR)
    for what, colour, down, across, side in zip(*(each.unbind(1) for each in boxes(rows)), strict=True):
        rows_in, columns_in = ((middles - place[:, None]).abs() < 0.45 * side[:, None] for place in (down, across))
        covered = rows_in[:, :, None] & columns_in[:, None, :] & (what >= 0)[:, None, None]
        seen = torch.where(covered, what[:, None, None], seen)
        colours = torch.where(covered, colour[:, None, None], colours)
    return seen.to(torch.uint8), colours.to(torch.uint8)


@cache
def paint_tokenizer() -> CpmBeeTokenizer:
    """That of the tiny vocabulary."""
    return CpmBeeTokenizer(str(VOCABULARY))


def encode_prompts(texts: list[str]) -> dict[str, torch.Tensor]:
    """What the pipeline hands to the language model for prompts, padded on the right."""
    tokenizer = paint_tokenizer()
    data = [{"caption": tokenizer.escape(text), "objects": ""} for text in texts]
    return tokenizer(data, padding_side="right", return_tensors="pt")


def prepare_paint(
    scenes: int, prompts: int, seed: int = 0, workers: int | None = None, often: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
    """Chooses scenes and writes and encodes prompts for them, in parallel.

    Args:
        scenes (`int`): number N.
        prompts (`int`): number K for each, both languages in turn.
        seed (`int`, defaults to 0): scene i depends on seed and i alone, whatever the number of workers.
        workers (`int`, *optional*): processes; by default one for each processor.
        often (`Sequence[str]`, *optional*): names of things that are chosen `OFTEN` times as often as others.

    Returns:
        `rows` `(N, 20)`, and `input_ids`, `segment_ids`, `lengths`, `placed`, `empty_ids`, `empty_segments`,
        `segment_rel` as in `PaintData`.
    """
    frame = [ids.tolist() for ids in _frame(encode_prompts([""]))]
    prepare = partial(_prepare_chunk, scenes=scenes, prompts=prompts, seed=seed, often=often)
    chunks = in_processes(prepare, range(0, scenes, _CHUNK), workers, "writing prompts")
    rows = torch.cat([chunk[0] for chunk in chunks])
    captions = [caption for chunk in chunks for caption in chunk[1]]
    placed = torch.cat([chunk[2] for chunk in chunks])
    before, after, ids_before, ids_after = *map(len, frame[:2]), *frame[:2]
    segments_before, segments_after = frame[2:]
    length = before + max(map(len, captions)) + after
    ids = np.zeros((len(captions) + 1, length), np.int16)
    segments = np.zeros((len(captions) + 1, length), np.uint8)
    lengths = np.zeros(len(captions) + 1, np.int64)
    for i, caption in enumerate([*captions, ()]):
        end = before + len(caption)
        ids[i, : end + after] = (*ids_before, *caption, *ids_after)
        segments[i, : end + after] = (*segments_before, *[segments_before[-1]] * len(caption), *segments_after)
        lengths[i] = end + after
    shaped = {"input_ids": ids, "segment_ids": segments, "lengths": lengths}
    prepared = {name: torch.from_numpy(array[:-1]).unflatten(0, (scenes, prompts)) for name, array in shaped.items()}
    prepared |= {"empty_ids": torch.from_numpy(ids[-1]), "empty_segments": torch.from_numpy(segments[-1])}
    rel = encode_prompts([""])["segment_rel"][0]
    return prepared | {"rows": rows, "placed": placed.view(scenes, prompts), "segment_rel": rel}


def _frame(encoded: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Ids before and after the caption, and their segments, from the empty prompt."""
    ids, segments = encoded["input_ids"][0], encoded["segment_ids"][0]
    at = int((segments == 2).nonzero()[0]) + 1  # behind the <s> of the caption's segment
    return ids[:at], ids[at:], segments[:at], segments[at:]


def _prepare_chunk(start: int, scenes: int, prompts: int, seed: int, often: Sequence[str]) -> tuple:
    rows, captions, placed = [], [], []
    things = THINGS + tuple(BY_NAME[name] for name in often) * (OFTEN - 1)
    for index in range(start, min(start + _CHUNK, scenes)):
        rng = random.Random(f"paint {seed} {index}")
        while True:
            scene, relation = training_wish(rng, things)
            written = write_training_prompts(scene, relation, rng, prompts)
            encoded = [paint_tokenizer().encode_segment(paint_tokenizer().escape(prompt.text)) for prompt in written]
            if not any(unknown for _, unknown in encoded):
                break
        # no prompt says which way a thing looks, and of two ways a model this small paints both at once
        one_way = tuple(replace(placed, flipped=False) for placed in scene.things)
        rows.append(scene_row(replace(scene, things=one_way)))
        captions += [tuple(ids) for ids, _ in encoded]
        placed += [prompt.placed for prompt in written]
    return torch.tensor(rows, dtype=torch.int16), captions, torch.tensor(placed)


def in_processes(work: Callable, items: range, workers: int | None, said: str) -> list:
    """What a function makes of items, in their order, by several processes; a line says how far it is."""
    workers = workers or os.cpu_count() or 1
    if workers == 1:
        return [work(item) for item in tqdm(items, desc=said, disable=None)]
    with multiprocessing.get_context("forkserver").Pool(workers) as pool:
        return list(tqdm(pool.imap(work, items), total=len(items), desc=said, disable=None))
