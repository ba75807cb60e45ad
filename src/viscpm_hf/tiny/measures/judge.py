"""Looks at pictures: which things are where on what background, by a small network that has seen drawings only.

    python -m viscpm_hf.tiny.measures.judge --output judge.pt [--minutes 4]

trains it and says how often it is right about drawings of combinations that it has not seen. It never sees a painted
picture, so it can judge those of the tiny Paint.
"""

import argparse
import random
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..training.loop import SPEEDS, train_for
from ..training.paint_data import COLOURS, NO_COLOUR, SEEN, THINGS_SEEN, boxes, draw_rows, to_pixels
from ..training.paint_learners import light_norms
from ..world.pictures import IMAGE_SIZE, scene_row
from ..world.prompts import KINDS, training_wish, wish
from ..world.scenes import BACKGROUNDS, jittered, random_scene
from ..world.things import DRAWN, SHAPES

SHIPPED_JUDGE = Path(__file__).parent / "judge.pt"
STRIDE = 4  # pixels of the picture to one of the map on which middles are found
WIDTHS = (32, 64, 96, 128)
_LEAST = 0.5  # probability of a thing


@dataclass(frozen=True)
class Found:
    """A thing in a picture.

    Args:
        name (`str`): as in `KNOWN`.
        cell (`int`): index into `CELLS`.
        row, column (`float`): of its middle, in shares of the picture.
    """

    name: str
    cell: int
    row: float
    column: float


@dataclass(frozen=True)
class Look:
    """What a picture shows: things in reading order, and the background, one of `BACKGROUNDS`."""

    things: tuple[Found, ...]
    background: str

    @property
    def names(self) -> Counter:
        return Counter(thing.name for thing in self.things)


class _Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


class Judge(nn.Module):
    """Convolutions down to 1/16 of the size and up again to 1/4: at each pixel, the middle of what is there.

    Args:
        size (`int`): of pictures; others are resized.
        widths (`tuple[int, ...]`): channels at the full size, 1/2, 1/4, and below.
    """

    def __init__(self, size: int, widths: tuple[int, ...] = WIDTHS):
        super().__init__()
        self.size = size
        self.first = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down, self.blocks, self.beside = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for width, below in zip(widths, (*widths[1:], widths[-1]), strict=True):
            self.down.append(nn.Conv2d(width, below, 3, stride=2, padding=1))
            self.blocks.append(_Block(below))
            self.beside.append(nn.Conv2d(below, widths[1], 1))
        self.last = _Block(widths[1])
        self.things = nn.Conv2d(widths[1], 1 + THINGS_SEEN + len(COLOURS), 1)
        self.background = nn.Linear(widths[-1] + 3, len(BACKGROUNDS))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`(n, 3, size, size)` in [-1, 1] → logits of things and colours `(n, 95, size/4, size/4)`, of backgrounds."""
        x, levels = self.first(pixels), []
        for down, block in zip(self.down, self.blocks, strict=True):
            x = block(down(x))
            levels.append(x)
        up = None
        for beside, level in list(zip(self.beside, levels, strict=True))[:0:-1]:
            level = beside(level)
            up = level if up is None else level + nn.functional.interpolate(up, level.shape[-2:], mode="nearest")
        corners = pixels[:, :, :: pixels.shape[2] - 1, :: pixels.shape[3] - 1].mean((2, 3))
        ground = self.background(torch.cat([x.mean((2, 3)), corners.to(x.dtype)], 1))
        return self.things(self.last(up)), ground

    @torch.no_grad()
    def look(self, pictures: list[Image.Image] | torch.Tensor, batch_size: int = 256) -> list[Look]:
        """What pictures show.

        Args:
            pictures (`list[PIL.Image.Image]` or `torch.Tensor`): or `(n, 3, size, size)` uint8.
            batch_size (`int`, defaults to 256): pictures at a time.

        Returns:
            `list[Look]`
        """
        if not isinstance(pictures, torch.Tensor):
            arrays = [np.asarray(each.convert("RGB").resize((self.size, self.size))) for each in pictures]
            pictures = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
        looks = []
        for part in pictures.split(batch_size):
            things, grounds = self(to_pixels(part.to(self.first.weight.device)))
            looks += self._found(things.float().cpu(), grounds.argmax(1).tolist())
        return looks

    def _found(self, logits: torch.Tensor, grounds: list[int]) -> list[Look]:
        what, colours = logits.split((1 + THINGS_SEEN, len(COLOURS)), 1)
        thing = 1 - what.softmax(1)[:, 0]
        # a thing is found at each of 3x3 pixels: the middle has most of them beside it, and all of them say what it is
        near = _around(thing[:, None])[:, 0]
        near = near - 0.01 * torch.linspace(0, 1, near[0].numel()).view(near.shape[1:])  # no two are equal
        highest = nn.functional.max_pool2d(near[:, None], 5, 1, 2)[:, 0]
        there = nn.functional.max_pool2d(thing[:, None], 3, 1, 1)[:, 0] > _LEAST
        best, colour = (_around(each * thing[:, None]).argmax(1) for each in (what[:, 1:], colours))
        found: list[list[Found]] = [[] for _ in grounds]
        for n, y, x in (there & (near == highest)).nonzero().tolist():
            name = SEEN[best[n, y, x]]
            if name in SHAPES:
                name = f"{tuple(COLOURS)[colour[n, y, x]]} {name}"
            row, column = ((place + 0.5) / thing.shape[-1] for place in (y, x))
            found[n].append(Found(name, 3 * int(3 * row) + int(3 * column), row, column))
        in_order = (tuple(sorted(each, key=lambda thing: thing.cell)) for each in found)
        return [Look(each, BACKGROUNDS[ground]) for each, ground in zip(in_order, grounds, strict=True)]


def _around(maps: torch.Tensor) -> torch.Tensor:
    """Means of 3x3 pixels of `(n, channels, h, w)`."""
    return nn.functional.avg_pool2d(maps, 3, 1, 1)


def middle_maps(rows: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What has its middle where.

    Args:
        rows (`torch.Tensor`): `(n, 20)` of `scene_rows`.
        side (`int`): of the maps.

    Returns:
        `(n, side, side)` int16 maps: 0 for nothing, 1 + an index into `SEEN` at the 3x3 pixels of a middle; and the
        colours at those of coloured shapes, elsewhere `NO_COLOUR`.
    """
    middles = torch.zeros(len(rows), side, side, dtype=torch.int16, device=rows.device)
    colours = torch.full_like(middles, NO_COLOUR)
    axis = torch.arange(side, device=rows.device)
    for what, colour, down, across, _ in zip(*(each.unbind(1) for each in boxes(rows)), strict=True):
        y, x = ((place * side).long()[:, None] for place in (down, across))
        distance = torch.maximum((axis - y).abs()[:, :, None], (axis - x).abs()[:, None, :])
        there = (what >= 0)[:, None, None]
        at = there & (distance <= 1)
        middles = torch.where(at, 1 + what.to(torch.int16)[:, None, None], middles)
        colours = torch.where(at, colour.to(torch.int16)[:, None, None], colours)
    return middles, colours


class JudgeLearner(nn.Module):
    """A judge with its loss on drawings, blurred, noisy and tinted a little.

    Args:
        judge (`Judge`): trained in place.
        rows (`torch.Tensor`): scenes as numbers, on the device.
        batch_size (`int`): pictures at a time.
    """

    def __init__(self, judge: Judge, rows: torch.Tensor, batch_size: int):
        super().__init__()
        self.judge, self.batch_size = judge, batch_size
        self.pictures, self.grounds = draw_rows(rows, judge.size), rows[:, -2].long()
        self.middles, self.colours = middle_maps(rows, judge.size // STRIDE)

    def forward(self) -> torch.Tensor:
        n = torch.randint(len(self.pictures), (self.batch_size,), device=self.pictures.device)
        things, grounds = self.judge(self.worn(to_pixels(self.pictures[n])))
        what, colours = things.float().split((1 + THINGS_SEEN, len(COLOURS)), 1)
        middles = self.middles[n].long()
        cross_entropy = nn.functional.cross_entropy
        losses = cross_entropy(what, middles, reduction="none")
        at = middles > 0
        of_colour = cross_entropy(colours, self.colours[n].long(), ignore_index=NO_COLOUR, reduction="none")
        parts = [(losses * at).sum() / at.sum(), 10 * (losses * ~at).mean(), of_colour.sum() / at.sum()]
        parts.append(cross_entropy(grounds.float(), self.grounds[n]))
        self.loss_parts = torch.stack(parts).detach()
        return sum(parts)

    @staticmethod
    def worn(pixels: torch.Tensor) -> torch.Tensor:
        """Pictures `(n, 3, h, w)` as a program may have made them."""
        share, tint, noise = (torch.rand(len(pixels), each, 1, 1, device=pixels.device) for each in (1, 3, 1))
        blurred = nn.functional.avg_pool2d(nn.functional.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
        pixels = torch.lerp(pixels, blurred, 0.7 * share)
        pixels = pixels * (0.92 + 0.16 * tint) + 0.1 * (tint.flip(0) - 0.5)
        return (pixels + 0.1 * noise * torch.randn_like(pixels)).clamp(-1, 1)


def drawings(number: int, seed: int, held_out: bool) -> torch.Tensor:
    """Scenes as numbers `(number, 20)`: half of them Chat's, half of them Paint's."""
    rng, rows = random.Random(f"judge {seed} {held_out}"), []
    while len(rows) < number:
        if len(rows) % 2:
            scene = random_scene(rng, held_out=held_out)
        elif held_out:
            scene = wish(rng.choice(KINDS), rng)[0]
            if not scene.held_out:
                continue
            scene = jittered(scene, rng)
        else:
            scene, _ = training_wish(rng)
        rows.append(scene_row(scene))
    return torch.tensor(rows, dtype=torch.int16)


def read_judge(file: Path, size: int) -> Judge:
    """The judge in the file of a finished training, on the CPU."""
    state = torch.load(file, map_location="cpu", weights_only=True)["learner"]
    state = {name.removeprefix("judge."): value for name, value in state.items()}
    widths = [state["first.weight"], *(state[f"down.{level}.weight"] for level in range(3))]
    judge = Judge(size, tuple(len(weight) for weight in widths))
    judge.load_state_dict(state)
    return judge.eval()


def train_judge(
    file: Path,
    size: int,
    minutes: float,
    scenes: int,
    batch_size: int,
    device: str,
    speed: str = "graph",
    widths: tuple[int, ...] = WIDTHS,
) -> Judge:
    """Trains a judge and keeps it in a file; from there it goes on, or is read where it is finished."""
    torch.manual_seed(0)
    judge = Judge(size, widths).to(device)
    light_norms(judge)
    learner = JudgeLearner(judge, drawings(scenes, 0, held_out=False).to(device), batch_size).to(device)
    train_for(learner, 60 * minutes, {"": 2e-3}, file, decay=0.99, weight_decay=0.02, speed=speed)
    return read_judge(file, size).to(device)


def accuracy(judge: Judge, number: int, seed: int = 1) -> dict[str, float]:
    """Shares of held-out drawings of which the judge says the right things, places and background, and all of it."""
    rows = drawings(number, seed, held_out=True)
    looks = judge.look(draw_rows(rows, judge.size))
    right = Counter()
    for row, look in zip(rows, looks, strict=True):
        things, ground = _told(row)
        checks = {
            "things": Counter(name for name, _ in things) == look.names,
            "places": sorted(things) == sorted((thing.name, thing.cell) for thing in look.things),
            "background": ground == look.background,
        }
        right.update(name for name, ok in checks.items() if ok)
        right["all"] += all(checks.values())
    return {name: right[name] / number for name in ("things", "places", "background", "all")}


def _told(row: torch.Tensor) -> tuple[list[tuple[str, int]], str]:
    things = row[:-2].view(-1, 6).tolist()
    return [(DRAWN[each[0]].name, each[2]) for each in things if each[0] >= 0], BACKGROUNDS[row[-2]]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--size", type=int, default=IMAGE_SIZE, help="of pictures")
    parser.add_argument("--scenes", type=int, help="by default 60000 on a GPU, else 10000")
    parser.add_argument("--batch-size", type=int, help="by default 256 on a GPU, else 32")
    parser.add_argument("--widths", type=int, nargs=4, default=WIDTHS, metavar="N", help="channels")
    parser.add_argument("--held-out", type=int, default=2000, help="drawings to be right about")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--speed", choices=SPEEDS, default="graph", help="of a step on a GPU")
    args = parser.parse_args(argv)
    on_gpu = torch.device(args.device).type == "cuda"
    scenes, batch_size = args.scenes or (60_000 if on_gpu else 10_000), args.batch_size or (256 if on_gpu else 32)
    widths = tuple(args.widths)
    judge = train_judge(args.output, args.size, args.minutes, scenes, batch_size, args.device, args.speed, widths)
    print(f"| drawings it has not seen, of {args.held_out} | right in % |\n|---|---|")
    for name, share in accuracy(judge, args.held_out).items():
        print(f"| {name} | {100 * share:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
