"""Paint as it is trained: which parts, in which precision, their loss; and how they are saved."""

import inspect
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.training_utils import cast_training_params, compute_snr
from torch import nn

from ..checkpoint.repo import INDEX, check_is_converted, is_paint, is_quantized, loads_or_says_why, read_json
from ..remote_code.modeling_cpmbee import CpmBeeConfig, CpmBeeModel
from ..remote_code.modeling_viscpm_paint import VisCPMPaintTextProjection
from ..remote_code.tokenization_cpmbee import CpmBeeTokenizer

# the layers that diffusers' own scripts take
UNET_LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]
_CLASSES = {
    "tokenizer": CpmBeeTokenizer,
    "text_encoder": CpmBeeModel,
    "text_projection": VisCPMPaintTextProjection,
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "scheduler": DDPMScheduler,
}


class PaintLearner(nn.Module):
    """UNet and text projection with the original's loss.

    Args:
        unet (`UNet2DConditionModel`), text_projection (`VisCPMPaintTextProjection`): what is trained.
        scheduler (`DDPMScheduler`): says how noise is added, and what is predicted.
        scaling_factor (`float`): of latents.
        snr_gamma (`float`, *optional*): of min-SNR weighting; in the original all noise levels weigh the same.
        vae (`AutoencoderKL`, *optional*): encodes pictures that were not encoded before.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text_projection: VisCPMPaintTextProjection,
        scheduler: DDPMScheduler,
        scaling_factor: float,
        snr_gamma: float | None = None,
        vae: AutoencoderKL | None = None,
    ):
        super().__init__()
        self.unet, self.text_projection, self.vae = unet, text_projection, vae
        self.scheduler, self.scaling_factor, self.snr_gamma = scheduler, scaling_factor, snr_gamma

    def forward(
        self,
        states: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        vae_noise: torch.Tensor,
        states_mask: torch.Tensor | None = None,
        moments: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        return_loss: bool = True,
    ) -> dict[str, torch.Tensor]:
        """The loss of a batch, as `{"loss": …}`.

        Args:
            states (`torch.Tensor`): of captions, `(batch, length, hidden_size)`.
            noise, vae_noise (`torch.Tensor`): standard normal, `(batch, channels, height, width)`.
            timesteps (`torch.Tensor`): `(batch,)`.
            states_mask (`torch.Tensor`, *optional*): True for what the UNet may see, `(batch, length)`.
            moments (`torch.Tensor`, *optional*): mean and log variance, `(batch, 2 · channels, height, width)`.
            pixel_values (`torch.Tensor`, *optional*): in place of moments, in [-1, 1].
            return_loss (`bool`): for Trainer, which looks for the name.
        """
        with torch.no_grad(), torch.autocast(states.device.type, enabled=False):
            if moments is None:
                posterior = self.vae.encode(pixel_values.to(self.vae.dtype)).latent_dist
            else:
                posterior = DiagonalGaussianDistribution(moments)
            latents = (posterior.mean + posterior.std * vae_noise) * self.scaling_factor
            noisy = self.scheduler.add_noise(latents, noise, timesteps)
        embeds = self.text_projection(states.to(self.text_projection.dtype), return_dict=False)[0]
        predicted = self.unet(
            noisy.to(self.unet.dtype),
            timesteps,
            embeds.to(self.unet.dtype),
            encoder_attention_mask=states_mask,
            return_dict=False,
        )[0]
        predicts_noise = self.scheduler.config.prediction_type == "epsilon"
        target = noise if predicts_noise else self.scheduler.get_velocity(latents, noise, timesteps)
        losses = (predicted.float() - target.float()).square().mean((1, 2, 3))  # (batch,)
        if self.snr_gamma is not None:
            snr = compute_snr(self.scheduler, timesteps)
            losses = losses * snr.clamp(max=self.snr_gamma) / (snr if predicts_noise else snr + 1)
        return {"loss": losses.mean()}

    def trained(self) -> dict[str, nn.Parameter]:
        """Parameters that are trained, by name."""
        return {name: one for name, one in self.named_parameters() if one.requires_grad}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Of what is trained: all else stays as it is, and needs no place in checkpoints."""
        state, trained = super().state_dict(*args, **kwargs), self.trained()
        return {name: tensor for name, tensor in state.items() if name in trained}

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """The UNet's; under the names that versions of transformers have for it."""
        self.unet.enable_gradient_checkpointing()

    activation_checkpointing_enable = gradient_checkpointing_enable


def model_folder(model_path: str) -> Path:
    """The folder of a converted VisCPM-Paint, which is fetched from the Hub if need be.

    Raises:
        ValueError: it is none, or cannot be trained.
    """
    check_is_converted(model_path, "VisCPM-Paint", "paint --sd-base SD_BASE", INDEX)
    folder = Path(model_path)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(model_path))
    index = read_json(folder, INDEX)
    if not is_paint(index):
        raise ValueError(f"{model_path} holds another pipeline, expected a converted VisCPM-Paint.")
    if is_quantized(folder):
        raise ValueError(f"{model_path} is quantized: give what it was made of.")
    if index["vae"][1] != AutoencoderKL.__name__:
        raise ValueError(f"{model_path} has a {index['vae'][1]} as vae, with which nothing can be learned.")
    scheduler = load_part("scheduler", folder)
    if scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
        raise ValueError(f"{model_path} predicts {scheduler.config.prediction_type!r}, expected 'epsilon'.")
    return folder


def load_part(name: str, folder: Path, **options: Any) -> Any:
    """A part of a converted repository, by the name of its folder.

    Raises:
        ValueError: it does not load.
    """
    return _load(_CLASSES[name], folder / name, **options)


@loads_or_says_why
def _load(kind, path, **options):
    return kind.from_pretrained(path, **options)


def load_learner(
    folder: Path,
    mode: str,
    dtype: torch.dtype,
    r: int = 16,
    alpha: float = 16.0,
    dropout: float = 0.0,
    targets: str | None = None,
    **options: Any,
) -> PaintLearner:
    """UNet and text projection of a repository, ready to be trained; what is trained is in float32.

    Args:
        folder (`Path`): of the repository.
        mode (`str`): `"full"`, or `"lora"` for layers beside what is frozen.
        dtype (`torch.dtype`): of what is frozen.
        r, alpha, dropout: of LoRA.
        targets (`str`, *optional*): regular expression of the UNet's layers; those of its attention by default.
        options: for `PaintLearner`.

    Raises:
        ImportError: peft is missing.
        ValueError: no layer has a name like `targets`, or a part does not load.
    """
    dtype = torch.float32 if mode == "full" else dtype
    unet, projection = (load_part(name, folder, dtype=dtype) for name in ("unet", "text_projection"))
    if mode == "lora":
        try:
            import peft
        except ImportError as error:
            raise ImportError('For LoRA the library peft is needed: pip install "peft>=0.19.1"') from error
        for part, layers in ((unet, targets or UNET_LAYERS), (projection, ["linear"])):
            part.requires_grad_(False)
            part.add_adapter(
                peft.LoraConfig(
                    r=r,
                    lora_alpha=alpha,
                    lora_dropout=dropout,
                    target_modules=layers,
                    init_lora_weights="gaussian",
                )
            )
            cast_training_params(part)
    learner = PaintLearner(
        unet, projection, load_part("scheduler", folder), part_config("vae", folder)["scaling_factor"], **options
    )
    if learner.vae is not None:
        learner.vae.requires_grad_(False)
    return learner.train()


def part_config(name: str, folder: Path) -> dict[str, Any]:
    """The configuration of a repository's part that is diffusers', its defaults included."""
    kind = _CLASSES[name]
    defaults = {each.name: each.default for each in inspect.signature(kind.__init__).parameters.values()}
    return {**defaults, **kind.load_config(folder / name)}


def stored_text_dtype(folder: Path) -> torch.dtype:
    """That the language model's weights are in."""
    dtype = CpmBeeConfig.from_pretrained(folder / "text_encoder").dtype or torch.float32
    return getattr(torch, str(dtype).removeprefix("torch."))
