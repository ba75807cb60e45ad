"""A program for two processes: one step of the tiny Chat with its weights spread over both by DeepSpeed's ZeRO-3.

    torchrun --nproc-per-node 2 zero3.py BATCHES REPO OUT MODE…

As sharded.py does it with `fully_shard`; here the vision side learns with a LoRA, too.
"""

import os
import sys
from pathlib import Path

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed
import torch
from deepspeed.utils import safe_get_full_grad
from sharded import load, loss_of
from torch import distributed

# a faster way between processes of one machine, which would be compiled here
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
CONFIG = {
    "train_micro_batch_size_per_gpu": 1,
    "gradient_clipping": 0.0,
    "optimizer": {"type": "SGD", "params": {"lr": 0.1}},
    "zero_optimization": {
        "stage": 3,
        "stage3_param_persistence_threshold": 0,
        "stage3_gather_16bit_weights_on_model_save": True,
    },
    "zero_allow_untested_optimizer": True,
}


def step(batches: list[dict], repo: str, mode: str, out: Path) -> None:
    rank, world = distributed.get_rank(), distributed.get_world_size()
    model = load(repo, mode, torch.float32)
    tuned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    engine, *_ = deepspeed.initialize(model=model, model_parameters=list(tuned.values()), config=CONFIG)
    count = sum(int((batch["shift_labels"] >= 0).sum()) for batch in batches)
    loss = loss_of(engine, batches[rank], "full", count)
    engine.backward(world * loss)  # gradients are averaged
    loss = loss.detach()
    distributed.all_reduce(loss)
    gradients = {name: safe_get_full_grad(parameter) for name, parameter in tuned.items()}
    local = sum(parameter.ds_tensor.numel() for parameter in model.parameters())
    engine.step()
    state = engine._zero3_consolidated_16bit_state_dict()
    if rank == 0:
        out.mkdir()
        torch.save({"loss": loss.item(), "gradients": gradients, "local": local}, out / "step.pt")
        model.save_pretrained(out / "model", state_dict=state)


if __name__ == "__main__":
    batches, repo, out, *modes = sys.argv[1:]
    deepspeed.init_distributed("gloo")
    for mode in modes:
        step(torch.load(batches), repo, mode, Path(out) / mode)
    distributed.destroy_process_group()
