"""What a converted model is made of, by its configurations and the headers of its weight files; nothing is loaded."""

import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from .checkpoint.errors import CheckpointError
from .checkpoint.repo import is_paint, read_json
from .checkpoint.safetensors_file import read_safetensors, read_weights

LANGUAGE = ("embedding", "blocks", "language rest")  # parts of the language model
CHECKERS = ("safety_checker", "prompt_checker", "ranker")


@dataclass(frozen=True)
class Part:
    """Tensors that are in one place.

    Args:
        tensors: number of elements and stored type of each.
    """

    tensors: tuple[tuple[int, torch.dtype], ...]

    @property
    def dtype(self) -> torch.dtype:
        """The stored type of most elements."""
        counts = Counter()
        for count, dtype in self.tensors:
            counts[dtype] += count
        return counts.most_common(1)[0][0]

    @property
    def parameters(self) -> int:
        return sum(count for count, _ in self.tensors)

    def nbytes(self, dtype: torch.dtype | None = None) -> int:
        """Bytes when loaded, as stored or in another floating-point type."""
        return sum(count * _loaded(stored, dtype).itemsize for count, stored in self.tensors)

    def unmapped(self, dtype: torch.dtype | None = None) -> int:
        """Bytes on a CPU that do not stay in the files."""
        casts = [(n, _loaded(stored, dtype)) for n, stored in self.tensors if _loaded(stored, dtype) != stored]
        return sum(count * loaded.itemsize for count, loaded in casts)

    def largest(self, dtype: torch.dtype | None = None) -> int:
        return max(count * _loaded(stored, dtype).itemsize for count, stored in self.tensors)

    def pinned(self, dtype: torch.dtype | None = None) -> int:
        """Bytes in page-locked memory, which is handed out in powers of two."""
        return sum(2 ** math.ceil(math.log2(n * _loaded(stored, dtype).itemsize)) for n, stored in self.tensors if n)


def _loaded(stored: torch.dtype, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and stored.is_floating_point else stored


@dataclass(frozen=True)
class Model:
    """What a converted repository holds.

    Args:
        kind: `"chat"` or `"paint"`.
        parts: by name; the language model is `embedding`, `blocks` (one of them) and `language rest`.
        configs: of the parts, by folder; Chat's own is `""`.
        quantized: by what the language model is stored quantized, such as `"torchao"`; empty if it is not.
    """

    kind: str
    parts: Mapping[str, Part]
    configs: Mapping[str, dict]
    quantized: str = ""

    @property
    def language_config(self) -> dict:
        return self.configs[""]["text_config"] if self.kind == "chat" else self.configs["text_encoder"]

    @property
    def blocks(self) -> int:
        return self.language_config["num_hidden_layers"]

    def language_bytes(self, dtype: torch.dtype | None = None) -> int:
        """Bytes of the whole language model."""
        return sum(self.parts[name].nbytes(dtype) * (self.blocks if name == "blocks" else 1) for name in LANGUAGE)

    def others(self) -> list[str]:
        """Parts that are not the language model."""
        return [name for name in self.parts if name not in LANGUAGE]


def read_model(folder: str | os.PathLike, without: Iterable[str] = ()) -> Model:
    """Sizes of everything in a converted folder.

    Args:
        folder: of a converted VisCPM-Chat or VisCPM-Paint.
        without: parts that will not be loaded, such as `safety_checker`.

    Raises:
        CheckpointError: it is neither, or incomplete.
    """
    folder = Path(folder)
    chat, paint = read_json(folder, "config.json"), read_json(folder, "model_index.json")
    if is_paint(paint):
        return _read_paint(folder, paint, set(without))
    if chat.get("model_type") == "viscpm_chat":
        return _read_chat(folder, chat, set(without))
    what = "There is no folder" if not folder.is_dir() else "There is no converted model in"
    raise CheckpointError(f"{what} {folder}; give what convert_chat.py or convert_paint.py wrote.")


def _read_chat(folder, config, without):
    tensors = {name.removeprefix("model."): tensor for name, tensor in read_weights(folder, "model").items()}
    language = {name: t for name, t in tensors.items() if name.startswith(("language_model.", "lm_head."))}
    parts = _language_parts({name.removeprefix("language_model."): t for name, t in language.items()})
    for part in ("vision_tower", "connector"):
        parts[part] = _part(tensor for name, tensor in tensors.items() if name.startswith(f"{part}."))
    if (folder / "safety_checker").is_dir() and "safety_checker" not in without:
        parts["safety_checker"] = _in_float32(_weights_in(folder / "safety_checker"))
    return Model("chat", parts, {"": config}, _quantized_by(config))


def _read_paint(folder, index, without):
    parts, configs = {}, {}
    for name, kind in index.items():
        if not (isinstance(kind, list) and len(kind) == 2 and kind[0]) or name.startswith("_") or name in without:
            continue
        configs[name] = read_json(folder / name, "config.json")
        if name == "text_encoder":
            parts |= _language_parts(read_weights(folder / name, "model"))
        elif any((folder / name).glob("*.safetensors")):
            parts[name] = _weights_in(folder / name)
    for name in ("text_encoder", "unet", "vae"):
        if not configs.get(name):
            raise CheckpointError(f"{folder} has no {name}/config.json; convert the checkpoint again.")
    return Model("paint", parts, configs, _quantized_by(configs["text_encoder"]))


def _quantized_by(config):
    return config.get("quantization_config", {}).get("quant_method", "")


def _weights_in(folder):
    return _part(tensor for path in sorted(folder.glob("*.safetensors")) for tensor in read_safetensors(path).values())


def _in_float32(part):
    return Part(tuple((count, torch.float32) for count, _ in part.tensors))


def _part(tensors):
    return Part(tuple((math.prod(tensor.shape), tensor.dtype) for tensor in tensors))


def _language_parts(tensors):
    groups = defaultdict(list)
    for name, tensor in tensors.items():
        found = re.match(r"layers\.(\d+)\.", name)
        group = "embedding" if name.startswith(("embed_tokens.", "lm_head.")) else "language rest"
        groups[int(found[1]) if found else group].append(tensor)
    if 0 not in groups or "embedding" not in groups:
        raise CheckpointError("The weights have no language model in them; convert the checkpoint again.")
    return dict(zip(LANGUAGE, map(_part, (groups["embedding"], groups[0], groups["language rest"])), strict=True))
