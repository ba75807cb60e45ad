"""The golden VisCPM-Paint as its owners have it: a checkpoint, JSON configurations, a Stable Diffusion folder."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from viscpm_hf.checkpoint import convert_paint

GOLDEN = Path(__file__).parent / "golden"


def write_original(folder):
    """Writes `pytorch_model.bin`, `llm_config.json`, `unet_config.json` and `sd_base/vae/` (without the UNet's)."""
    config = json.loads((GOLDEN / "paint_config.json").read_text(encoding="utf-8"))
    torch.save(load_file(GOLDEN / "paint_weights.safetensors"), folder / "pytorch_model.bin")
    (folder / "llm_config.json").write_text(json.dumps(config["llm"]))
    (folder / "unet_config.json").write_text(json.dumps(config["unet"]))
    vae = folder / "sd_base" / "vae"
    vae.mkdir(parents=True)
    (vae / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL", **config["vae"]}))
    shutil.copy(GOLDEN / "paint_vae.safetensors", vae / "diffusion_pytorch_model.safetensors")
    return folder


def converted_paint(original, checkpoint=None, **options):
    """Converts what `write_original` wrote, or another checkpoint, with some options of `convert_paint` replaced."""
    options = {
        "vocab": GOLDEN / "vocab.txt",
        "sd_base": original / "sd_base",
        "llm_config": original / "llm_config.json",
        "unet_config": original / "unet_config.json",
        "progress": False,
        **options,
    }
    return convert_paint(checkpoint or original / "pytorch_model.bin", **options)


def stored(repo):
    """All tensors of a converted repository by `folder/name`, those the model does not use by their name."""
    tensors = {}
    for file in sorted(repo.rglob("*.safetensors")):
        folder = file.parent.relative_to(repo).as_posix()
        for name, tensor in load_file(file).items():
            name = name if folder == "." else f"{folder}/{name}"
            assert name not in tensors
            tensors[name] = tensor
    return tensors
