"""Whether a run is spread over devices as it was asked to be: libraries fall back without a word."""

import os

from accelerate import DistributedType
from accelerate.utils import str_to_bool
from transformers import Seq2SeqTrainingArguments

_NAMES = {DistributedType.FSDP: "FSDP", DistributedType.DEEPSPEED: "DeepSpeed"}


def asked_for(arguments: Seq2SeqTrainingArguments) -> DistributedType | None:
    """FSDP or DeepSpeed, if `accelerate launch` or the arguments say so."""
    switches = {DistributedType.FSDP: "ACCELERATE_USE_FSDP", DistributedType.DEEPSPEED: "ACCELERATE_USE_DEEPSPEED"}
    given = {DistributedType.FSDP: arguments.fsdp, DistributedType.DEEPSPEED: arguments.deepspeed}
    for kind, variable in switches.items():
        if given[kind] or str_to_bool(os.environ.get(variable) or "false"):
            return kind
    return None


def require_asked_for(arguments: Seq2SeqTrainingArguments, found: DistributedType | None = None) -> None:
    """Stops a run that would be of another kind than it was asked to be.

    Args:
        arguments (`Seq2SeqTrainingArguments`): of the run.
        found (`DistributedType`, *optional*): of Trainer's accelerator; before there is one, what the devices allow.

    Raises:
        ValueError: it would be; accelerate ignores FSDP and DeepSpeed where it finds no GPU.
    """
    wanted, state = asked_for(arguments), arguments.distributed_state
    if found is None and state.distributed_type in (DistributedType.NO, DistributedType.MULTI_CPU):
        # DeepSpeed on one GPU is found out later
        found = None if wanted is DistributedType.DEEPSPEED and state.device.type != "cpu" else state.distributed_type
    if None not in (wanted, found) and found != wanted:
        raise ValueError(
            f"{_NAMES[wanted]} was asked for, but on {state.device.type} accelerate leaves it out and has "
            f"{found.value}: run on several GPUs, or with examples/finetuning/accelerate/ddp.yaml."
        )
    if int(os.environ.get("WORLD_SIZE") or 1) > state.num_processes:
        raise ValueError(
            f"Got {os.environ['WORLD_SIZE']} processes that do not know of each other: start one for each GPU by "
            "`accelerate launch` or `torchrun`, or give --use_cpu where there is none."
        )
