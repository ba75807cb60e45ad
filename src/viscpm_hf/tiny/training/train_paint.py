"""Trains the tiny VisCPM-Paint from scratch and writes it in the original's layout.

    torchrun --nproc-per-node 2 -m viscpm_hf.tiny.training.train_paint --output DIR

First the autoencoder learns to draw the world's pictures, then its decoder alone gets sharper; then UNet and
projection learn to paint from the frozen language model of a tiny Chat checkpoint. The same command resumes from the
last checkpoint in DIR.
"""

import argparse
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from tqdm import tqdm
from transformers import Trainer

from ...checkpoint import pipeline_repo
from ...remote_code.modeling_cpmbee import CpmBeeModel
from ...remote_code.modeling_viscpm_chat import VisCPMChatForConditionalGeneration
from ...remote_code.modeling_viscpm_paint import VisCPMPaintTextProjection
from .. import tiny_chat_repo
from ..world.prompts import Prompt, paint_held_out, painted_scene, training_prompts
from ..world.scenes import CELLS, COLOURS, COMBINATIONS, IMAGE_SIZE, SHAPES, draw
from .batches import tiny_processor, to_pixels
from .export import write_original_paint
from .fit import adamw, computed_once, fit

CROSS_ATTENTION_DIM = 96
EMPTY_PROMPT_SHARE = 0.1  # of the training samples, for classifier-free guidance
SCENE_LOSS_WEIGHT = 0.2
WEIGHT_DECAY = 0.01
BLIND_SHARE = 0.25  # of the training samples: nothing but noise, for the scene head alone
# how much of a large shape's height lies in each quarter of the picture, for the three rows of cells; so its width
COVERED = ((14 / 18, 4 / 18, 0.0, 0.0), (0.0, 0.5, 0.5, 0.0), (0.0, 0.0, 4 / 18, 14 / 18))
SCHEDULER = DDPMScheduler(**pipeline_repo.SCHEDULER)


def tiny_vae() -> AutoencoderKL:
    """An autoencoder that makes 16x16 latents of 64x64 pictures; with a factor of 8 colours wash out."""
    return AutoencoderKL(
        sample_size=IMAGE_SIZE,
        block_out_channels=(24, 48, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
    )


def tiny_unet() -> UNet2DConditionModel:
    """Three levels: only on 4x4 does every pixel know from the padding where it is."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(48, 80, 80),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=CROSS_ATTENTION_DIM,
        attention_head_dim=4,
        use_linear_projection=True,
    )


class VaeLearner(nn.Module):
    """An autoencoder with its loss; the shape counts more than the plain background behind it."""

    def __init__(self, vae: AutoencoderKL, foreground_weight: float = 6.0, kl_weight: float = 5e-4):
        super().__init__()
        self.vae, self.foreground_weight, self.kl_weight = vae, foreground_weight, kl_weight

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        """`pictures` (batch, 3, 64, 64) in [-1, 1]."""
        posterior = self.vae.encode(pictures).latent_dist
        error = (self.vae.decode(posterior.sample()).sample - pictures).float()
        foreground = (pictures - pictures[:, :, :1, :1]).abs().amax(1, keepdim=True) > 0.1
        weight = 1 + (self.foreground_weight - 1) * foreground
        edges = sum(error.diff(dim=dim).abs().mean() for dim in (2, 3))
        loss = (weight * (error.abs() + 2 * error.square())).mean() + 0.5 * edges
        return {"loss": loss + self.kl_weight * posterior.kl().mean() / posterior.mean[0, 0].numel()}


class ScenePictures:
    """Collator over row numbers: drawn pictures; row i shows the same in every run."""

    def __init__(self, rows: int, seed: int):
        self.rows, self.seed = rows, seed

    def __len__(self) -> int:
        return self.rows

    def __call__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        return {"pictures": torch.stack([self.draw(random.Random(f"vae {self.seed} {row}")) for row in rows])}

    @staticmethod
    def draw(rng: random.Random) -> torch.Tensor:
        """A picture that training may show, (3, 64, 64) in [-1, 1]."""
        while True:
            what = rng.choice(SHAPES), rng.choice(tuple(COLOURS)), rng.randrange(len(CELLS))
            if not paint_held_out(*what):
                return to_pixels(torch.from_numpy(draw(painted_scene(*what), rng))[None])[0]


@dataclass
class PreparedPaint:
    """What is needed again and again, computed once.

    Args:
        latents (`torch.Tensor`): `(C, K, 4, 16, 16)` scaled latents, K pictures of each of the `COMBINATIONS`.
        prompts (`torch.Tensor`): `(P, L, hidden)` states of every prompt, padded rows included.
        lengths (`torch.Tensor`): `(P,)` tokens of every prompt.
        fitting_cells (`torch.Tensor`): `(P, 9)` bool, whether what the prompt asks for may be shown in that cell.
        first (`torch.Tensor`): `(P,)` index into latents of the prompt's shape and colour in the first cell.
        empty (`torch.Tensor`): `(L, hidden)` states of the empty prompt, padded.
        scaling_factor (`torch.Tensor`): one over the latents' standard deviation.
    """

    latents: torch.Tensor
    prompts: torch.Tensor
    lengths: torch.Tensor
    fitting_cells: torch.Tensor
    first: torch.Tensor
    empty: torch.Tensor
    scaling_factor: torch.Tensor


@torch.no_grad()
def prompt_states(text_encoder: CpmBeeModel, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Last hidden states `(n, longest, hidden)` and lengths `(n,)` of prompts, padded on the right."""
    tokenizer = tiny_processor().tokenizer
    data = [{"caption": tokenizer.escape(text), "objects": ""} for text in texts]
    inputs = tokenizer(data, padding_side="right", return_tensors="pt")
    parts = []
    for start in tqdm(range(0, len(texts), 256), desc="reading prompts", leave=False, disable=None):
        part = {key: value[start : start + 256] for key, value in inputs.items()}
        parts.append(text_encoder(**part, use_cache=False).last_hidden_state)
    return torch.cat(parts), inputs["attention_mask"].sum(1)


@torch.no_grad()
def prepare_paint(vae: AutoencoderKL, text_encoder: CpmBeeModel, per_combination: int, seed: int) -> PreparedPaint:
    """Draws and encodes pictures, and reads all prompts."""
    latents = []
    for what in tqdm(COMBINATIONS, desc="encoding pictures", disable=None):
        rng = random.Random(f"paint {seed} {what}")
        pictures = np.stack([draw(painted_scene(*what), rng) for _ in range(per_combination)])
        latents.append(vae.encode(to_pixels(torch.from_numpy(pictures))).latent_dist.mean)
    shown = torch.stack([part for what, part in zip(COMBINATIONS, latents, strict=True) if not paint_held_out(*what)])
    scaling_factor = 1 / shown.std()
    prompts = training_prompts()
    states, lengths = prompt_states(text_encoder, [*(prompt.text for prompt in prompts), ""])
    return PreparedPaint(
        latents=torch.stack(latents) * scaling_factor,
        prompts=states[:-1],
        lengths=lengths[:-1],
        fitting_cells=torch.tensor([_fitting_cells(prompt) for prompt in prompts]),
        first=torch.tensor([COMBINATIONS.index((prompt.shape, prompt.colour, 0)) for prompt in prompts]),
        empty=states[-1],
        scaling_factor=scaling_factor,
    )


def _fitting_cells(prompt: Prompt) -> list[bool]:
    """Where what the prompt asks for may be shown."""
    return [
        prompt.cell in (None, cell) and not paint_held_out(prompt.shape, prompt.colour, cell)
        for cell in range(len(CELLS))
    ]


class PaintBatches:
    """Collator over row numbers of a `PreparedPaint`: latents, noise, timesteps and prompts; row i never changes."""

    def __init__(self, prepared: PreparedPaint, rows: int, seed: int, high_noise: float):
        self.prepared, self.rows, self.seed, self.high_noise = prepared, rows, seed, high_noise
        anywhere = prepared.fitting_cells.sum(1) > 1
        self.placeless, self.placed = (numbers.nonzero().flatten() for numbers in (anywhere, ~anywhere))

    def __len__(self) -> int:
        return self.rows

    def __call__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        samples = [self.sample(row) for row in rows]
        latents, noise, timesteps, states, lengths, combinations, blind = map(torch.stack, zip(*samples, strict=True))
        longest = int(lengths.max())
        return {
            "latents": latents,
            "noise": noise,
            "timesteps": timesteps,
            "states": states[:, :longest],
            "states_mask": torch.arange(longest) < lengths[:, None],
            "combinations": combinations,
            "blind": blind,
        }

    def sample(self, row: int) -> tuple[torch.Tensor, ...]:
        world, generator = self.prepared, torch.Generator().manual_seed(self.seed * self.rows + row)

        def choose(n: int) -> int:
            return int(torch.randint(n, (), generator=generator))

        # half of the prompts ask for a place, though there are nine times as many of those; the blind ones all do
        blind = torch.rand((), generator=generator) < BLIND_SHARE
        prompts = self.placeless if choose(2) and not blind else self.placed
        prompt = prompts[choose(len(prompts))]
        cells = world.fitting_cells[prompt].nonzero().flatten()
        combination = world.first[prompt] + cells[choose(len(cells))]
        latents = world.latents[combination]
        latents = latents[choose(len(latents))]
        states = world.prompts[prompt]
        if torch.rand((), generator=generator) < EMPTY_PROMPT_SHARE and not blind:
            states = world.empty
        uniform = torch.rand((), generator=generator)
        if blind:
            uniform = 0.9 + 0.1 * uniform
        elif torch.rand((), generator=generator) < self.high_noise:
            uniform = 0.6 + 0.4 * uniform
        timestep = (uniform * 1000).long().clamp(max=999)
        noise = torch.randn(latents.shape, generator=generator)
        return latents, noise, timestep, states, world.lengths[prompt], combination, blind


class PaintLearner(nn.Module):
    """UNet and projection with the original's loss, weighted by noise level, and a throw-away head.

    What is painted where is settled at the highest noise levels, which the plain loss on the noise hardly weighs: an
    error in the picture counts SNR times there. And even there what is left of the picture gives place and colour away
    more often than not, which is easier to learn from than words. So the head asks every pixel of the middle block,
    with the same weights, whether the shape covers it, and those it covers for colour and shape; and some samples are
    blind: noise with nothing in it, where only the words tell.
    """

    def __init__(self, unet: UNet2DConditionModel, text_projection: VisCPMPaintTextProjection, most_weight: float):
        super().__init__()
        self.unet, self.text_projection = unet, text_projection
        unet.set_attn_processor(AttnProcessor())  # on a CPU and in bfloat16 faster than sdpa
        unet.mid_block.register_forward_hook(self._keep_middle)
        self.scene_head = nn.Conv2d(unet.config.block_out_channels[-1], 1 + len(COLOURS) + len(SHAPES), 1)
        signal = SCHEDULER.alphas_cumprod
        snr = signal / (1 - signal)
        self.register_buffer("weights", (5 / snr).clamp(max=1) * (1 / signal).clamp(max=most_weight), persistent=False)

    def _keep_middle(self, module, args, output):
        self.middle = output  # (batch, channels, 4, 4)

    def forward(
        self,
        latents: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        states: torch.Tensor,
        states_mask: torch.Tensor,
        combinations: torch.Tensor,
        blind: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        noisy = torch.where(blind[:, None, None, None], noise, SCHEDULER.add_noise(latents, noise, timesteps))
        context = self.text_projection(states, return_dict=False)[0]
        predicted = self.unet(noisy, timesteps, context, encoder_attention_mask=states_mask).sample.float()
        losses = (predicted - noise).square().mean((1, 2, 3)) * self.weights[timesteps]
        return {"loss": losses[~blind].mean() + SCENE_LOSS_WEIGHT * self.scene_loss(combinations)}

    def scene_loss(self, combinations: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of the last call's 4x4 middle pixels to what `combinations` (batch,) show and where."""
        cells = combinations % len(CELLS)
        colours, shapes = combinations // len(CELLS) % len(COLOURS), combinations // len(CELLS) // len(COLOURS)
        covered = torch.tensor(COVERED, device=cells.device)
        covered = (covered[cells // 3, :, None] * covered[cells % 3, None, :]).flatten(1)  # (batch, 16), sums to 1
        where, colour, shape = self.scene_head(self.middle).float().flatten(2).split((1, len(COLOURS), len(SHAPES)), 1)
        colour, shape = ((logits * covered[:, None]).sum(2) for logits in (colour, shape))
        cross_entropy = nn.functional.cross_entropy
        return cross_entropy(where[:, 0], covered) + cross_entropy(colour, colours) + cross_entropy(shape, shapes)


def train(args: argparse.Namespace) -> tuple[CpmBeeModel, PaintLearner, AutoencoderKL]:
    torch.manual_seed(args.seed)
    processes = PartialState().num_processes
    vae, folder = tiny_vae(), args.output / "checkpoints"
    for name, steps, rate in (("vae", args.vae_steps, 2e-3), ("decoder", args.decoder_steps, 1e-3)):
        trained = VaeLearner(vae)
        if name == "decoder":  # the latents stay as they are
            vae.encoder.requires_grad_(False)
            vae.quant_conv.requires_grad_(False)
        pictures = ScenePictures(steps * processes * 8, args.seed + (name == "decoder"))
        fit(Trainer, trained, pictures, adamw(trained, {"": rate}, WEIGHT_DECAY), folder / name, steps, 8, args)
    vae.eval()

    chat = VisCPMChatForConditionalGeneration.from_pretrained(args.chat or tiny_chat_repo(), dtype=torch.float32)
    text_encoder = chat.model.language_model.eval()
    preparing = (vae, text_encoder, args.pictures, args.seed)
    prepared = PreparedPaint(**computed_once(args.output / "prepared.pt", lambda: vars(prepare_paint(*preparing))))
    vae.register_to_config(scaling_factor=round(float(prepared.scaling_factor), 5))

    projection = VisCPMPaintTextProjection(text_encoder.config.hidden_size, CROSS_ATTENTION_DIM)
    learner = PaintLearner(tiny_unet(), projection, args.most_weight)
    batches = PaintBatches(prepared, args.steps * processes * args.batch_size, args.seed, args.high_noise)
    optimizer = adamw(learner, {"": args.learning_rate}, WEIGHT_DECAY)
    fit(Trainer, learner, batches, optimizer, folder / "paint", args.steps, args.batch_size, args)
    return text_encoder, learner.eval(), vae


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoints and the finished model")
    parser.add_argument("--chat", help="converted Chat checkpoint whose language model reads the prompts")
    parser.add_argument("--vae-steps", type=int, default=1400)
    parser.add_argument("--decoder-steps", type=int, default=600)
    parser.add_argument("--pictures", type=int, default=30, help="drawn of each combination")
    parser.add_argument("--steps", type=int, default=4200)
    parser.add_argument("--batch-size", type=int, default=32, help="per process and step")
    parser.add_argument("--learning-rate", type=float, default=1.2e-3)
    parser.add_argument("--high-noise", type=float, default=0.5, help="share of samples with timesteps from 600 on")
    parser.add_argument("--most-weight", type=float, default=20.0, help="of a sample in the loss")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-steps", type=int, default=500)
    parser.add_argument("--logging-steps", type=int, default=50)
    args = parser.parse_args(argv)

    text_encoder, learner, vae = train(args)
    if PartialState().is_main_process:
        checkpoint = write_original_paint(text_encoder, learner.unet, learner.text_projection, vae, args.output)
        print(f"wrote {checkpoint} ({checkpoint.stat().st_size / 1e6:.2f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
