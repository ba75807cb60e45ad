"""From LoRA weights as OpenDelta trains them in CPM-Bee to a peft adapter of a converted repository."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

from . import repo
from .adapter import BEFORE, CONFIG, WEIGHTS, Adapter, Layer, load
from .errors import CheckpointError, listed
from .files.json_file import quoted, read_json_file
from .files.safetensors_file import read_weights
from .files.source import open_checkpoint
from .files.staging import refuse_existing, staged
from .files.stored import StoredTensor
from .files.weights import WeightFile, write_weights
from .layout.keys import CHAT, CPMBEE, PAINT
from .layout.prefixes import WRAPPERS
from .publishing import write_adapter_card

ALPHA = 16  # of OpenDelta, where nobody said another
# `project_q.lora.lora_A` of OpenDelta; `project_q.lora_A.default.weight` as peft would call it in the original
PART = re.compile(r"(?:.*?\.)?(encoder\.layers\.(\d{1,4})\..+?)\.(?:lora\.)?lora_([AB])(?:\.\w+)?(?:\.weight)?")


def convert_lora(
    lora: str | Path, model: str | Path, output: str | Path, *, alpha: float | None = None, progress: bool = True
) -> Path:
    """Converts LoRA weights for the original's layers to a peft adapter for a converted repository.

    The original adds them behind a layer's 1/sqrt(fan_in), peft adds to a layer's product before it, so peft's alpha
    is sqrt(fan_in) times OpenDelta's. The matrices stay as they are.

    Args:
        lora: `.bin`, `.pt` or safetensors file with names such as
            `encoder.layers.0.self_att.self_attention.project_q.lora.lora_A`.
        model: converted VisCPM-Chat or CPM-Bee whose language model they are for.
        output: folder to create; it appears only when complete.
        alpha: they were trained with; by default what a config.json of OpenDelta beside them says, else its 16.
        progress: whether to show a progress bar on a terminal.

    Returns:
        The folder.

    Raises:
        CheckpointError: one sentence that says what is wrong; nothing is left behind.
    """
    lora, model, output = Path(lora), Path(model), Path(output)
    refuse_existing(output)
    kind = repo.kind_of(model)
    if kind == PAINT.model_type:
        raise CheckpointError(f"{model} is a VisCPM-Paint, expected a converted VisCPM-Chat or CPM-Bee.")
    before = "model.language_model." if kind == CHAT.model_type else "model."
    parts = _parts(lora, open_checkpoint(lora), before)
    alpha = _alpha(lora) if alpha is None else alpha
    if not math.isfinite(alpha) or alpha == 0:
        raise CheckpointError(f"Got alpha {alpha}, expected a number other than 0, such as {ALPHA}.")
    layers = {f"{name}.weight": Layer(found["A"], found["B"], 1.0) for name, found in parts.items()}
    if repo.is_quantized(model):
        raise CheckpointError(f"{model} is quantized: give what it was made of, whose layers can be looked at.")
    Adapter(lora, lora, layers, {}).check({name: t.shape for name, t in read_weights(model, "model").items()}, model)
    ranks = {name: found["A"].shape[0] for name, found in parts.items()}
    alphas = {name: alpha * math.sqrt(found["A"].shape[1]) for name, found in parts.items()}
    with staged(output) as folder:
        folder.mkdir()
        tensors = {f"{BEFORE}{name}.lora_{key}.weight": found[key] for name, found in parts.items() for key in "AB"}
        write_weights(folder, [WeightFile(WEIGHTS[0], tensors)], progress)
        config = {
            **{"peft_type": "LORA", "task_type": None, "inference_mode": True, "base_model_name_or_path": str(model)},
            "target_modules": sorted(parts),
            **_with_exceptions("r", "rank_pattern", ranks),
            **_with_exceptions("lora_alpha", "alpha_pattern", alphas),
            **{"lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False},
        }
        (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if kind == CHAT.model_type:
            write_adapter_card(folder, output, model)
    return output


def _parts(path: Path, tensors: Mapping[str, StoredTensor], before: str) -> dict[str, dict[str, StoredTensor]]:
    """The matrices A and B by name of the layer in the converted repository.

    Args:
        path: for messages.
        tensors: of the file.
        before: what the language model's names begin with there.
    """
    parts, other = {}, []
    for name, tensor in tensors.items():
        found = PART.fullmatch(WRAPPERS.sub("", name))
        template = found and found[1].replace(f".{found[2]}.", ".{i}.", 1) + ".weight"
        if template not in CPMBEE:
            other.append(name)
            continue
        layer = CPMBEE[template][0].replace("{i}", str(int(found[2]))).removesuffix(".weight")
        same = parts.setdefault(before + layer, {})
        if found[3] in same:
            raise CheckpointError(f"{path} holds lora_{found[3]} of {found[1]} twice, under different prefixes.")
        same[found[3]] = tensor
    if not parts:
        raise CheckpointError(
            f"{path} holds no LoRA weights of CPM-Bee, whose names are such as "
            f"encoder.layers.0.self_att.self_attention.project_q.lora.lora_A, but {listed(other, 3) or 'nothing'}."
        )
    if other:
        raise CheckpointError(
            f"{path} holds more than LoRA weights, such as {listed(other, 3)}; save those with lora_A and lora_B in "
            "their names alone."
        )
    for name, found in parts.items():
        a, b = found.get("A"), found.get("B")
        whole = a is not None and b is not None and len(a.shape) == len(b.shape) == 2
        whole = whole and 0 < a.shape[0] == b.shape[1] and a.dtype.is_floating_point and b.dtype.is_floating_point
        if not whole:
            raise CheckpointError(
                f"{path} does not hold a whole LoRA for {name}, expected lora_A (rank, in) and lora_B (out, rank)."
            )
        if not (load(a).isfinite().all() and load(b).isfinite().all()):
            raise CheckpointError(f"{path} holds NaN or infinity for {name}; take another checkpoint of the training.")
    return parts


def _alpha(path: Path) -> float:
    """What OpenDelta's configuration beside the weights says."""
    file = path.with_name("config.json")
    config = read_json_file(file) if file.is_file() else {}
    if config.get("delta_type") != "lora":
        return ALPHA
    alpha = config.get("lora_alpha", ALPHA)
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        raise CheckpointError(f"{file} has lora_alpha={quoted(alpha)}, expected a number; give --alpha.")
    return alpha


def _with_exceptions(key: str, pattern: str, numbers: Mapping[str, float]) -> dict:
    """A setting of peft that most layers have, and the names of those with another."""
    most = max(set(numbers.values()), key=list(numbers.values()).count)
    return {key: most, pattern: {re.escape(name): number for name, number in numbers.items() if number != most}}
