"""What `viscpm fit` takes for the released models on machines of several sizes, as the table in docs/memory.md.

    python benchmarks/what_fits.py

It is computed from the sizes of all tensors, for machines with the speeds that `viscpm fit` assumes where it cannot
measure. Each cell is the fastest way that keeps the stored weights, then the fastest with quantized ones if that is
faster.
"""

import json
import math
import tempfile
from pathlib import Path

import torch
from full_size import SD_UNET, SD_VAE, SIZES

from viscpm_hf.checkpoint.files.safetensors_file import layout
from viscpm_hf.checkpoint.files.sizes import shown
from viscpm_hf.memory.budget import choose
from viscpm_hf.memory.machine import Machine
from viscpm_hf.memory.plans import Workload, list_plans
from viscpm_hf.memory.sizes import CHECKERS, Model, read_model

GB = 10**9
MACHINES = {
    **{f"GPU of {size} GB, RAM of 32 GB": Machine("cuda", 32 * GB, size * GB) for size in (8, 12, 16, 24, 48)},
    **{f"no GPU, RAM of {size} GB": Machine("cpu", size * GB) for size in (16, 32, 64)},
}
WORDS = {
    "resident": "all loaded",
    "int8": "8-bit",
    "4bit": "4-bit",
    "stream": "blocks streamed",
    "stream more": "blocks and checkers streamed",
    "stream all": "everything streamed",
    "spread": "blocks partly in RAM",
    "disk": "read from the files",
}
CHECKER_PARAMETERS = dict(zip(CHECKERS, (304_000_000, 102_000_000, 188_000_000), strict=True))


def write_empty(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """A safetensors file of half-precision tensors that takes no room on the disk."""
    header, places = layout({name: (torch.float16, tuple(tensor.shape)) for name, tensor in tensors.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(max(places[name] + 2 * math.prod(tensor.shape) for name, tensor in tensors.items()))


def empty_chat(folder: Path) -> Path:
    """A Chat repository of the released sizes with nothing in it."""
    from viscpm_hf import VisCPMChatConfig, VisCPMChatForConditionalGeneration

    with torch.device("meta"):
        tensors = VisCPMChatForConditionalGeneration(VisCPMChatConfig()).state_dict()
    del tensors["lm_head.weight"]  # the embedding once more
    write_empty(folder / "model.safetensors", tensors)
    VisCPMChatConfig().save_pretrained(folder)
    return folder


def empty_paint(folder: Path) -> Path:
    """A Paint repository with checkers and ranker, of the released sizes with nothing in it."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from viscpm_hf import CpmBeeConfig, CpmBeeModel, VisCPMPaintTextProjection

    config, sizes = CpmBeeConfig(), SIZES["full"]
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**SD_UNET, **sizes["unet"]), AutoencoderKL(**SD_VAE, **sizes["vae"])
        language_model = CpmBeeModel(config)
        projection = VisCPMPaintTextProjection(config.hidden_size, sizes["unet"]["cross_attention_dim"])
        checkers = {
            name: {str(i): torch.empty(size // 50) for i in range(50)} for name, size in CHECKER_PARAMETERS.items()
        }
    for name, model in (("unet", unet), ("vae", vae), ("text_projection", projection)):
        write_empty(folder / name / "diffusion_pytorch_model.safetensors", model.state_dict())
        model.save_config(folder / name)
    write_empty(folder / "text_encoder" / "model.safetensors", language_model.state_dict())
    config.save_pretrained(folder / "text_encoder")
    for name, tensors in checkers.items():
        write_empty(folder / name / "model.safetensors", tensors)
    parts = ("text_encoder", "text_projection", "unet", "vae", *CHECKERS)
    index = {"_class_name": ["pipeline_viscpm_paint", "VisCPMPaintPipeline"], "requires_safety_checker": True}
    (folder / "model_index.json").write_text(json.dumps({**index, **{name: ["a", "b"] for name in parts}}))
    return folder


def cell(model: Model, machine: Machine) -> str:
    """The ways taken on a machine, with the peak of GPU or RAM, for Chat also seconds for a token."""
    plans = list_plans(model, machine, machine.device_memory, workload=Workload(new_tokens=128))
    ways = []
    for allow_lossy in (False, True):
        try:
            plan = choose(plans, machine, machine.device_memory, allow_lossy, "it")
        except ValueError:
            continue
        ways.append(f"{WORDS[plan.method]}, {shown(plan.peak)}")
        if model.kind == "chat":  # what an image takes is mostly arithmetic, which is not predicted
            ways[-1] += f", {plan.seconds:.2g} s"
    return "; ".join(dict.fromkeys(ways)) or "–"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        chat, paint = (read_model(make(Path(folder) / make.__name__)) for make in (empty_chat, empty_paint))
    print("| | Chat: way, peak, a token | Paint with checkers, best of 4: way, peak |\n|---|---|---|")
    for name, machine in MACHINES.items():
        print(f"| {name} | {cell(chat, machine)} | {cell(paint, machine)} |")


if __name__ == "__main__":
    main()
