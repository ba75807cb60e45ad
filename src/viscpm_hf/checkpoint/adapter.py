"""LoRA adapters as peft saves them: read without peft, held against a model, and added to its weights."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..language import say
from .errors import CheckpointError, listed, pasted
from .files.hub import Wanted, fetch, is_repo_id
from .files.json_file import named, quoted, read_json_file
from .files.source import open_checkpoint
from .files.stored import StoredTensor, read_pieces

CONFIG, WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
PAINT_LORA = "pytorch_lora_weights.safetensors"
BEFORE = "base_model.model."  # every name in an adapter's file
ROWS = 1024  # of a matrix in float32 at a time
# what else a LoRA can be, and what it is to be merged
PLAIN = {"fan_in_fan_out": False, "layer_replication": None, "lora_bias": False, "use_qalora": False}
OWN_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # ways to begin that change the model's weights, too


@dataclass(frozen=True)
class Layer:
    """What a LoRA adds to one weight: `scale * b @ a`.

    Args:
        a, b: of shapes (rank, in) and (out, rank).
        scale: peft's alpha over the rank.
        magnitude: lengths (out,) that the sum's rows are brought to, of a DoRA.
    """

    a: StoredTensor
    b: StoredTensor
    scale: float
    magnitude: StoredTensor | None = None


@dataclass(frozen=True)
class Adapter:
    """What an adapter does to a model's weights.

    Args:
        path: where it was said to be.
        file: of its weights.
        layers: by name of the weight.
        replaced: weights that it brings with it (peft's `modules_to_save`), by name.
    """

    path: Path
    file: Path
    layers: Mapping[str, Layer]
    replaced: Mapping[str, StoredTensor]

    @property
    def names(self) -> list[str]:
        """The weights that it changes."""
        return [*self.layers, *self.replaced]

    def check(self, shapes: Mapping[str, tuple[int, ...]], model: str | os.PathLike) -> None:
        """Stops unless this adapter is one for the model.

        Args:
            shapes: of the model's weights, by name; the head, which is the embedding, is none of them.
            model: for messages.
        """
        tied = [name for name in self.names if "embed_tokens." in name or "lm_head." in name]
        if tied:
            raise CheckpointError(
                f"{self.path} changes {tied[0]}, but embedding and head of {model} share their weights; train a LoRA "
                "of other layers."
            )
        if unknown := [name for name in self.names if name not in shapes]:
            raise CheckpointError(
                f"{self.path} is an adapter of another model than {model}, which has no {listed(unknown, 3)}."
            )
        wanted = {name: tensor.shape for name, tensor in self.replaced.items()}
        wanted |= {name: (layer.b.shape[0], layer.a.shape[1]) for name, layer in self.layers.items()}
        for name, shape in wanted.items():
            if tuple(shapes[name]) != tuple(shape):
                raise CheckpointError(
                    f"{self.path} is an adapter of another model than {model}: its {name} is {list(shape)}, there it "
                    f"is {list(shapes[name])}."
                )

    def merged(self, name: str, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """A weight with what the adapter adds to it, computed in float32.

        Args:
            name: of the weight, one of `layers` or `replaced`.
            weight: of the model, on any device.
            dtype: of the result.

        Raises:
            CheckpointError: a number is too large for `dtype`.
        """
        if name in self.replaced:
            return self._cast(name, load(self.replaced[name]).to(weight.device), dtype)
        layer = self.layers[name]
        a, b = (load(part).to(weight.device, torch.float32) for part in (layer.a, layer.b))
        lengths = None if layer.magnitude is None else load(layer.magnitude).to(weight.device, torch.float32)
        result = torch.empty(weight.shape, dtype=dtype, device=weight.device)
        for start in range(0, len(weight), ROWS):
            rows = slice(start, start + ROWS)
            block = weight[rows].float() + layer.scale * (b[rows] @ a)
            if lengths is not None:
                block *= lengths[rows, None] / block.norm(dim=1, keepdim=True)
            result[rows] = self._cast(name, block, dtype)
        return result

    def _cast(self, name, numbers, dtype):
        cast = numbers.to(dtype)
        if not cast.isfinite().all():
            raise CheckpointError(
                f"With {self.path}, {name} holds a number that {str(dtype).removeprefix('torch.')} cannot hold; take "
                "float32 or bfloat16, or another checkpoint of the training."
            )
        return cast


def load(tensor: StoredTensor) -> torch.Tensor:
    """A stored tensor in memory."""
    data = bytearray()
    for piece in read_pieces(tensor):
        data += piece
    return torch.frombuffer(data, dtype=tensor.dtype).view(tensor.shape) if data else torch.empty(tensor.shape)


def read_adapter(adapter: str | os.PathLike) -> Adapter:
    """Opens an adapter; its weights stay where they are.

    Args:
        adapter: folder, or a repository on the Hub.

    Raises:
        CheckpointError: there is none, or it is not a LoRA that can be added to weights.
    """
    folder = _folder(adapter)
    config = read_json_file(folder / CONFIG)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{adapter} is an adapter of the kind {named(kind)}, expected LORA.")
    for key, value in PLAIN.items():
        if config.get(key, value) != value:
            raise CheckpointError(f"{adapter} has {key}={quoted(config[key])}, expected {value!r}.")
    if str(config.get("init_lora_weights")).lower().startswith(OWN_BASE):
        raise CheckpointError(
            f"{adapter} began with init_lora_weights={quoted(config['init_lora_weights'])}, which changes the model's "
            "own weights as well; save it for an unchanged model (peft: path_initial_model_for_weight_conversion)."
        )
    file = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if file is None:
        raise CheckpointError(f"{adapter} lacks {WEIGHTS[0]}; make or download it again.")
    parts, replaced = {}, {}
    for name, tensor in open_checkpoint(file).items():
        own = name.removeprefix(BEFORE)
        found = re.fullmatch(r"(.+)\.lora_(A\.weight|B\.weight|magnitude_vector)", own)
        if found:
            parts.setdefault(found[1], {})[found[2][0]] = tensor
        elif ".original_module." in own:
            continue  # what `modules_to_save` took the place of, which peft saves with bias="all"
        elif "lora_" in own:
            raise CheckpointError(f"{adapter} holds {own}, which cannot be added to weights of this model.")
        else:
            replaced[re.sub(r"\.(base_layer|modules_to_save\.\w+)\.", ".", own)] = tensor
    if not parts and not replaced:
        raise CheckpointError(f"{adapter} is an empty adapter: {file.name} holds no tensors.")
    layers = {f"{name}.weight": _layer(adapter, name, found, config) for name, found in parts.items()}
    return Adapter(Path(adapter), file, layers, replaced)


def describe(folder: str | os.PathLike) -> str:
    """A line about an adapter's layers, their ranks, strengths as OpenDelta counts them, and types.

    Args:
        folder: of an adapter.
    """
    layers = read_adapter(folder).layers
    ranks = sorted({layer.a.shape[0] for layer in layers.values()})
    alphas = sorted({round(layer.scale * layer.a.shape[0] / layer.a.shape[1] ** 0.5, 4) for layer in layers.values()})
    kinds = sorted({name.split(".")[-2] for name in layers})
    types = sorted({str(layer.a.dtype).removeprefix("torch.") for layer in layers.values()})
    rank, alpha, type_name = (
        ", ".join(f"{each:g}" if not isinstance(each, str) else each for each in found)
        for found in (ranks, alphas, types)
    )
    return say(
        f"rank {rank}, alpha {alpha}, {len(layers)} layers ({', '.join(kinds)}), {type_name}",
        f"秩 {rank}，alpha {alpha}，{len(layers)} 层（{'、'.join(kinds)}），{type_name}",
    )


def _folder(adapter: str | os.PathLike) -> Path:
    folder = Path(adapter)
    if os.path.isfile(folder):
        raise CheckpointError(
            f"{adapter} is a file, expected the folder of a peft adapter; of LoRA weights by OpenDelta one is made by "
            f"`viscpm convert lora --input {pasted(adapter)} --model DIR --output DIR`."
        )
    if not os.path.isdir(folder):
        if not is_repo_id(str(adapter)):
            raise CheckpointError(f"{adapter} does not exist, expected a folder or a Hub repository `owner/name`.")
        wanted = Wanted("--adapter", "a LoRA", "the folder of a peft adapter or a Hub repository `owner/name`")
        folder = fetch(str(adapter), wanted, [CONFIG, *WEIGHTS])
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{adapter} has no {CONFIG}, {_what(folder)}.")
    return folder


def _what(folder: Path) -> str:
    """What a folder holds in place of an adapter."""
    if (folder / PAINT_LORA).exists():
        return "but a LoRA of VisCPM-Paint, which the pipeline loads: pipe.load_lora_weights(folder)"
    if (folder / "config.json").exists() or (folder / "model_index.json").exists():
        return "but a whole model: give it as the model itself"
    below = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
    if below:
        return f"but folders that have: {listed(below, 4)}; give one of them"
    return "expected the folder of a peft adapter"


def _layer(adapter, name: str, parts: Mapping[str, StoredTensor], config: Mapping) -> Layer:
    a, b, magnitude = (parts.get(key) for key in "ABm")
    sound = a is not None and b is not None and len(a.shape) == len(b.shape) == 2 and 0 < a.shape[0] == b.shape[1]
    sound = sound and (magnitude is None or magnitude.shape in ((b.shape[0],), (b.shape[0], 1)))
    if not sound or (magnitude is not None) != bool(config.get("use_dora")):
        raise CheckpointError(
            f"{adapter} does not hold a whole LoRA for {name}, expected lora_A (rank, in) and lora_B (out, rank); "
            "save it again, of sharded training with its parameters gathered."
        )
    alpha = _setting(config.get("alpha_pattern") or {}, name, config.get("lora_alpha"))
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
        raise CheckpointError(f"{adapter} has lora_alpha={quoted(alpha)} for {name}, expected a number.")
    rank = a.shape[0]
    return Layer(a, b, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank), magnitude)


def _setting(pattern, name: str, default):
    """What a layer's setting is among those by regular expressions, as peft looks it up."""
    if not isinstance(pattern, dict):
        return pattern  # no number, which is said
    try:
        return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", name)), default)
    except re.error as error:
        raise CheckpointError(f"{CONFIG} has an alpha_pattern that is no regular expression ({error}).") from error


def add_to(model: torch.nn.Module, adapter: Adapter, model_path: str | os.PathLike) -> None:
    """Adds an adapter to a loaded model's weights, in their type.

    Args:
        model: VisCPM-Chat or CPM-Bee, not quantized, all of it in memory; changed in place.
        adapter: that fits it.
        model_path: for messages.
    """
    parameters = dict(model.named_parameters())
    adapter.check({name: tuple(parameter.shape) for name, parameter in parameters.items()}, model_path)
    for name in adapter.names:
        parameter = parameters[name]
        # new memory: the old may be the file itself, mapped
        parameter.data = adapter.merged(name, parameter.data, parameter.dtype)
