"""What the tiny Paint is taught: three learners that draw their own batches from tensors on the device."""

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import nn

from ...checkpoint import pipeline_repo
from ...remote_code.modeling_cpmbee import CpmBeeModel
from ...remote_code.modeling_viscpm_paint import VisCPMPaintTextProjection
from .paint_data import COLOURS, NO_COLOUR, SEEN, THINGS_SEEN, PaintData, to_pixels

SCHEDULER = DDPMScheduler(**pipeline_repo.SCHEDULER)
EMPTY_PROMPT_SHARE = 0.1  # of the training samples, for classifier-free guidance
BLIND_SHARE = 0.2  # of the training samples at most: nothing but noise, for the scene head alone
SCENE_LOSS_WEIGHT = 0.2
_FOREGROUND_WEIGHT = 4.0
_KL_WEIGHT = 3e-4


def scene_loss(logits: torch.Tensor, maps: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of what is in each part of the picture, and of the colour of shapes.

    A shape and its colour are asked for apart, so that a pair which is never painted means something, too.

    Args:
        logits (`torch.Tensor`): `(batch, len(SEEN) + len(COLOURS), parts)`.
        maps, colours (`torch.Tensor`): `(batch, size / 8, size / 8)`, as in `PaintData`.
    """
    what, colour = logits.float().split((len(SEEN), len(COLOURS)), 1)
    maps, colours = maps.long().flatten(1), colours.long().flatten(1)
    weights = 1 + 2.0 * (maps < THINGS_SEEN)  # things count more than what is behind them
    losses = nn.functional.cross_entropy(what, maps, reduction="none") * weights
    of_colour = nn.functional.cross_entropy(colour, colours, ignore_index=NO_COLOUR, reduction="none") * 3
    return (losses.sum() + of_colour.sum()) / weights.sum()


class VaeLearner(nn.Module):
    """An autoencoder with its loss; things count more than what is behind them.

    Args:
        vae (`AutoencoderKL`): trained in place.
        data (`PaintData`): its pictures.
        batch_size (`int`): pictures at a time.
        decoder_only (`bool`, defaults to `False`): the latents stay as they are; they are shaken a little, as a UNet
            paints them a little wrong.
    """

    def __init__(self, vae: AutoencoderKL, data: PaintData, batch_size: int, decoder_only: bool = False):
        super().__init__()
        self.vae, self.data, self.batch_size, self.decoder_only = vae, data, batch_size, decoder_only
        for part in (vae.encoder, vae.quant_conv):
            part.requires_grad_(not decoder_only)

    def forward(self) -> torch.Tensor:
        scenes, _ = self.data.choose(self.batch_size)
        pictures = to_pixels(self.data.pictures[scenes])
        if self.decoder_only:
            with torch.no_grad():
                latents = self.vae.encode(pictures).latent_dist.mean.float()
                spread = latents.std() * 0.1 * torch.rand_like(latents[:, :1, :1, :1])
                latents = latents + torch.randn_like(latents) * spread
            return self.error(latents, pictures, scenes)
        posterior = self.vae.encode(pictures).latent_dist
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        return self.error(latents, pictures, scenes) + _KL_WEIGHT * kl

    def error(self, latents: torch.Tensor, pictures: torch.Tensor, scenes: torch.Tensor) -> torch.Tensor:
        error = self.vae.decode(latents).sample.float() - pictures
        maps = self.data.maps[scenes][:, None].float()
        foreground = nn.functional.interpolate((maps < THINGS_SEEN).float(), error.shape[-2:])
        weight = 1 + (_FOREGROUND_WEIGHT - 1) * foreground
        edges = sum((error.diff(dim=dim).abs()).mean() for dim in (2, 3))
        return (weight * (error.abs() + 2 * error.square())).mean() + edges


class TextLearner(nn.Module):
    """Language model and projection learn to say what covers each part of the picture; the rest is thrown away."""

    def __init__(
        self,
        text_encoder: CpmBeeModel,
        text_projection: VisCPMPaintTextProjection,
        data: PaintData,
        batch_size: int,
    ):
        super().__init__()
        self.text_encoder, self.text_projection, self.data = text_encoder, text_projection, data
        self.batch_size = batch_size
        width = text_projection.config.cross_attention_dim
        self.parts = nn.Parameter(torch.randn(1, data.maps[0].numel(), width))
        self.reader = nn.TransformerDecoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.head = nn.Linear(width, len(SEEN) + len(COLOURS))

    def forward(self) -> torch.Tensor:
        scenes, which = self.data.choose(self.batch_size)
        data = self.data
        mask = prompt_mask(data, data.lengths[scenes, which])
        states = self.states(data.input_ids[scenes, which], data.segment_ids[scenes, which], mask)
        parts = self.reader(self.parts.expand(len(states), -1, -1), states, memory_key_padding_mask=~mask)
        return scene_loss(self.head(parts).transpose(1, 2), data.maps[scenes], data.colours[scenes])

    def states(self, input_ids: torch.Tensor, segment_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What the UNet attends to, `(batch, L, cross_attention_dim)`."""
        mask = mask.long()
        hidden_states = self.text_encoder(
            input_ids=input_ids.long(),
            attention_mask=mask,
            segment_ids=segment_ids.long(),
            context_mask=mask,
            segment_rel=self.data.segment_rel.expand(len(input_ids), -1, -1),
            use_cache=False,
        ).last_hidden_state
        return self.text_projection(hidden_states, return_dict=False)[0]


def prompt_mask(data: PaintData, lengths: torch.Tensor) -> torch.Tensor:
    """Where the tokens of prompts of these lengths are, `(batch, L)` bool."""
    return torch.arange(data.input_ids.shape[-1], device=lengths.device) < lengths[:, None]


class PaintLearner(nn.Module):
    """UNet, projection and language model with the original's loss, weighted by noise level, and a throw-away head.

    What is painted where is settled at the highest noise levels, which the plain loss on the noise hardly weighs: an
    error in the picture counts SNR times there. And even there what is left of the picture gives things away more
    often than not, which is easier to learn from than words. So the head asks each pixel of the UNet's second level,
    with the same weights, what is there; and some samples are blind: noise with nothing in it, where only the words
    tell.

    Args:
        unet (`UNet2DConditionModel`), reader (`TextLearner`): trained in place.
        data (`PaintData`): with latents.
        batch_size (`int`): samples at a time.
        high_noise (`float`): share of samples with timesteps from 600 on.
        most_weight (`float`): of a sample in the loss.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        reader: TextLearner,
        data: PaintData,
        batch_size: int,
        high_noise: float = 0.4,
        most_weight: float = 20.0,
    ):
        super().__init__()
        self.unet, self.reader, self.data = unet, reader, data
        self.batch_size, self.high_noise = batch_size, high_noise
        unet.up_blocks[0].register_forward_hook(self._keep_middle)
        self.scene_head = nn.Conv2d(unet.config.block_out_channels[-1], len(SEEN) + len(COLOURS), 1)
        signal = SCHEDULER.alphas_cumprod
        snr = signal / (1 - signal)
        self.register_buffer("signal", signal, persistent=False)
        self.register_buffer("weights", (5 / snr).clamp(max=1) * (1 / signal).clamp(max=most_weight), persistent=False)

    def _keep_middle(self, module, args, output):
        self.middle = output  # (batch, channels, size / 8, size / 8)

    def forward(self) -> torch.Tensor:
        data, batch_size = self.data, self.batch_size
        scenes, which = data.choose(batch_size)
        latents, lengths = data.latents[scenes].float(), data.lengths[scenes, which]
        device = latents.device
        blind = data.placed[scenes, which] & (torch.rand(batch_size, device=device) < BLIND_SHARE)
        empty = (torch.rand(batch_size, device=device) < EMPTY_PROMPT_SHARE) & ~blind
        ids = torch.where(empty[:, None], data.empty_ids, data.input_ids[scenes, which])
        segments = torch.where(empty[:, None], data.empty_segments, data.segment_ids[scenes, which])
        states = self.reader.states(ids, segments, prompt_mask(data, lengths.masked_fill(empty, data.empty_length)))

        uniform, high = torch.rand(2, batch_size, device=device)
        uniform = torch.where(high < self.high_noise, 0.6 + 0.4 * uniform, uniform)
        uniform = torch.where(blind, 0.9 + 0.1 * uniform, uniform)
        timesteps = (uniform * 1000).long().clamp(max=999)
        noise = torch.randn_like(latents)
        # the empty prompt is as long as the one it stands for, as in the pipeline
        errors = self.errors(latents, noise, timesteps, states, prompt_mask(data, lengths), blind)
        losses = errors * self.weights[timesteps] * ~blind
        logits = self.scene_head(self.middle.float()).flatten(2)
        asked = scene_loss(logits, data.maps[scenes], data.colours[scenes])
        painted = losses.sum() / (~blind).sum()
        self.loss_parts = torch.stack([painted, asked]).detach()
        return painted + SCENE_LOSS_WEIGHT * asked

    def errors(
        self,
        latents: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        states: torch.Tensor,
        mask: torch.Tensor | None,
        blind: torch.Tensor,
    ) -> torch.Tensor:
        """The original's loss of each sample `(batch,)`; of the latents of blind ones nothing is left."""
        signal = self.signal[timesteps].masked_fill(blind, 0.0)[:, None, None, None]
        noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
        predicted = self.unet(noisy, timesteps, states, encoder_attention_mask=mask).sample.float()
        return (predicted - noise).square().mean((1, 2, 3))


def light_norms(module: nn.Module) -> None:
    """Norms in the precision of what they get: autocast would make every activation behind them float32."""

    def group(norm, x):
        return nn.functional.group_norm(x, norm.num_groups, norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)

    def layer(norm, x):
        return nn.functional.layer_norm(
            x, norm.normalized_shape, norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps
        )

    for part in module.modules():
        kind = {nn.GroupNorm: group, nn.LayerNorm: layer}.get(type(part))
        if kind:
            part.forward = _without_autocast(part, kind)


def _without_autocast(norm: nn.Module, compute):
    def forward(x):
        with torch.autocast(x.device.type, enabled=False):
            return compute(norm, x)

    return forward
