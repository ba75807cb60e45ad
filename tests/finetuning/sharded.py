"""A program for two processes: one step of the tiny Chat with its weights spread over both by `fully_shard`.

    torchrun --nproc-per-node 2 sharded.py BATCHES REPO OUT MODE…

BATCHES holds a list of batches, one for each process. What comes out, in OUT/MODE, is the loss, the gradients, and in
`model` what the whole state was saved to after a step of SGD.
"""

import sys
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from viscpm_hf import VisCPMChatForConditionalGeneration
from viscpm_hf.finetuning.model import load_full, load_lora


def load(repo: str, mode: str, dtype: torch.dtype = torch.bfloat16) -> torch.nn.Module:
    """All weights in float32, or of a type with a LoRA in float32 whose effect is not zero."""
    if mode == "full":
        return load_full(repo, True, True, torch.float32)
    torch.manual_seed(0)
    model = load_lora(repo, dtype, tune_vision=dtype == torch.float32)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    return model


def loss_of(model: torch.nn.Module, batch: dict, mode: str, count: int) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=mode != "full"):
        return model(**batch, num_items_in_batch=count).loss


def step(batches: list[dict], repo: str, mode: str, out: Path) -> None:
    rank, world = distributed.get_rank(), distributed.get_world_size()
    model, mesh = load(repo, mode), init_device_mesh("cpu", (world,))
    layers = VisCPMChatForConditionalGeneration._no_split_modules
    for module in list(model.modules()):
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    count = sum(int((batch["shift_labels"] >= 0).sum()) for batch in batches)
    loss = loss_of(model, batches[rank], mode, count)
    (world * loss).backward()  # gradients are averaged
    distributed.all_reduce(loss.data)
    tuned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradients = {name: parameter.grad.full_tensor() for name, parameter in tuned.items()}
    local = sum(parameter.to_local().numel() for parameter in model.parameters())
    torch.optim.SGD(tuned.values(), lr=0.1).step()
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        out.mkdir()
        torch.save({"loss": loss.item(), "gradients": gradients, "local": local}, out / "step.pt")
        model.save_pretrained(out / "model", state_dict=state)


if __name__ == "__main__":
    batches, repo, out, *modes = sys.argv[1:]
    distributed.init_process_group("gloo")
    for mode in modes:
        step(torch.load(batches), repo, mode, Path(out) / mode)
    distributed.destroy_process_group()
