"""What a converted model is made of, by its configurations and the headers of its weight files; nothing is loaded."""

import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..checkpoint.errors import CheckpointError
from ..checkpoint.files.json_file import is_size, is_size_list, quoted, require_section, require_sizes
from ..checkpoint.files.safetensors_file import read_safetensors, read_weights
from ..checkpoint.repo import INDEX, OPTIONAL_PAINT_PARTS, PAINT_PARTS, is_paint, read_json
from ..remote_code.configuration_viscpm_chat import VisCPMChatConfig
from ..remote_code.modeling_beit3 import POSITION_OFFSET, Beit3VisionConfig
from ..remote_code.modeling_cpmbee import CpmBeeConfig

LANGUAGE = ("embedding", "blocks", "language rest")  # parts of the language model
MOST_SIDE = 1024  # of latents
CHECKERS = ("safety_checker", "prompt_checker", "ranker")
# what is asked of configurations; what one does not say is as its class has it
LANGUAGE_SIZES = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads head_dim".split()
VISION_SIZES = "image_size patch_size hidden_size intermediate_size num_hidden_layers query_num".split()


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
        """Numbers in all tensors."""
        return sum(count for count, _ in self.tensors)

    def nbytes(self, dtype: torch.dtype | None = None) -> int:
        """Bytes when loaded, as stored or in another floating-point type."""
        return sum(count * _loaded(stored, dtype).itemsize for count, stored in self.tensors)

    def unmapped(self, dtype: torch.dtype | None = None) -> int:
        """Bytes on a CPU that do not stay in the files."""
        casts = [(n, _loaded(stored, dtype)) for n, stored in self.tensors if _loaded(stored, dtype) != stored]
        return sum(count * loaded.itemsize for count, loaded in casts)

    def largest(self, dtype: torch.dtype | None = None) -> int:
        """Bytes of the largest tensor, as stored or in another floating-point type."""
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
        configs: sizes that the parts' configurations name, by folder; Chat's own is `""`.
        quantized: by what the language model is stored quantized, such as `"torchao"`; empty if it is not.
    """

    kind: str
    parts: Mapping[str, Part]
    configs: Mapping[str, dict]
    quantized: str = ""

    @property
    def language_config(self) -> dict:
        """Configuration of the language model."""
        return self.configs[""]["text_config"] if self.kind == "chat" else self.configs["text_encoder"]

    @property
    def blocks(self) -> int:
        """How many blocks the language model has."""
        return self.language_config["num_hidden_layers"]

    @property
    def widths(self) -> tuple[int, int, int]:
        """Inputs of the matrices in the language model's blocks."""
        config = self.language_config
        return config["hidden_size"], config["intermediate_size"], config["num_attention_heads"] * config["head_dim"]

    @property
    def language_parameters(self) -> int:
        """Numbers in the whole language model."""
        return sum(self.parts[name].parameters * (self.blocks if name == "blocks" else 1) for name in LANGUAGE)

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
        CheckpointError: it is neither, or incomplete, or its configurations are not what its weights need.
    """
    folder = Path(folder)
    chat, paint = read_json(folder, "config.json"), read_json(folder, INDEX)
    if is_paint(paint):
        return _read_paint(folder, paint, set(without))
    if chat.get("model_type") == "viscpm_chat":
        return _read_chat(folder, chat, set(without))
    what = "There is no folder" if not folder.is_dir() else "There is no converted model in"
    raise CheckpointError(f"{what} {folder}; give what `viscpm convert chat` or `viscpm convert paint` wrote.")


def _read_chat(folder, config, without):
    quantized = _quantized_by(config, folder)
    parts, sizes = chat_parts(read_weights(folder, "model"), config, str(folder / "config.json"), quantized)
    if (folder / "safety_checker").is_dir() and "safety_checker" not in without:
        checker = _part(folder / "safety_checker", _tensors_in(folder / "safety_checker").values())
        parts["safety_checker"] = _in_float32(checker)
    return Model("chat", parts, {"": sizes}, quantized)


def chat_parts(tensors: Mapping[str, torch.Tensor], config: dict, what: str, quantized: str = "") -> tuple[dict, dict]:
    """Parts of a Chat model, and the sizes of its configurations.

    Args:
        tensors: whatever has a shape and a dtype, by the names of a converted repository.
        config: of the whole model.
        what: it is called in messages.
        quantized: see `Model`.

    Raises:
        CheckpointError: the configuration is not what the tensors need.
    """
    tensors = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    text, vision = (require_section(config, what, key) for key in ("text_config", "vision_config"))
    vision = _vision_sizes(tensors, vision, f"{what}'s vision_config")
    language = {name: t for name, t in tensors.items() if name.startswith(("language_model.", "lm_head."))}
    language = {name.removeprefix("language_model."): tensor for name, tensor in language.items()}
    parts, text = _language(language, text, f"{what}'s text_config", quantized)
    for part in ("vision_tower", "connector"):
        parts[part] = _part(what, (tensor for name, tensor in tensors.items() if name.startswith(f"{part}.")), part)
    return parts, {"text_config": text, "vision_config": vision}


def released_chat(config: VisCPMChatConfig | None = None) -> Model:
    """Sizes of VisCPM-Chat as it was published, in half precision, or of another configuration.

    Args:
        config: by default that of the release.
    """
    from ..remote_code.modeling_viscpm_chat import VisCPMChatForConditionalGeneration

    config = config or VisCPMChatConfig()
    with torch.device("meta"):
        model = VisCPMChatForConditionalGeneration._from_config(config, dtype=torch.float16)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    parts, sizes = chat_parts(tensors, config.to_dict(), "VisCPM-Chat")
    return Model("chat", parts, {"": sizes})


def _read_paint(folder, index, without):
    kinds = {name: index.get(name, [None])[0] for name in (*PAINT_PARTS, *OPTIONAL_PAINT_PARTS)}
    names = [name for name, kind in kinds.items() if kind and name not in without]
    configs = {name: read_json(folder / name, "config.json") for name in names}
    for name in ("text_encoder", "unet", "vae"):
        if not configs.get(name):
            raise CheckpointError(f"{folder} has no {name}/config.json; convert the checkpoint again.")
    encoder, config = folder / "text_encoder", configs["text_encoder"]
    quantized = _quantized_by(config, encoder)
    parts, sizes = _language(read_weights(encoder, "model"), config, str(encoder / "config.json"), quantized)
    configs["text_encoder"] = sizes
    for name in names:
        if name != "text_encoder" and any((folder / name).glob("*.safetensors")):
            tensors = _tensors_in(folder / name)
            parts[name] = _part(folder / name, tensors.values())
            if name in ("unet", "vae"):
                _check_painter(configs[name], tensors, name, str(folder / name / "config.json"))
    for name in ("unet", "vae"):
        if name not in parts:
            raise CheckpointError(f"{folder / name} has no weight files; convert the checkpoint again.")
    return Model("paint", parts, configs, quantized)


def _vision_sizes(tensors, config, what):
    sizes = require_sizes(config, what, {key: getattr(Beit3VisionConfig, key) for key in VISION_SIZES})
    width, side = sizes["hidden_size"], sizes["patch_size"]
    shapes = {
        "embeddings.patch_embedding.weight": (width, 3, side, side),
        "embeddings.position_embedding.A.weight": ((sizes["image_size"] // side) ** 2 + 1 + POSITION_OFFSET, width),
        "query_tokens": (sizes["query_num"], width),
        "layers.0.mlp.A.fc1.weight": (sizes["intermediate_size"], width),
    }
    _require_shapes(tensors, {f"vision_tower.{name}": shape for name, shape in shapes.items()}, what)
    _require_blocks(tensors, "vision_tower.layers", sizes["num_hidden_layers"], what)
    return sizes


def _check_painter(config, tensors, name, what):
    """Whether the few values that the predictions use are those of the weights."""
    channels, side = config.get("block_out_channels"), config.get("sample_size")
    if not is_size_list(channels, 2**16):
        raise CheckpointError(f"{what} has block_out_channels={quoted(channels)}, expected a list of sizes.")
    start = "" if name == "unet" else "encoder."
    first = tensors.get(f"{start}conv_in.weight")
    if first is not None and first.shape[:1] != (channels[0],):
        raise CheckpointError(f"{what} has block_out_channels={channels}, the weights have others.")
    _require_blocks(tensors, f"{start}down_blocks", len(channels), what)
    if name == "unet" and not (is_size(side, MOST_SIDE) or is_size_list(side, MOST_SIDE) and len(side) == 2):
        raise CheckpointError(f"{what} has sample_size={quoted(side)}, expected the side of latents.")


def _quantized_by(config, folder):
    how = config.get("quantization_config") or {}
    method = how.get("quant_method", "") if isinstance(how, dict) else None
    if not isinstance(method, str):
        raise CheckpointError(
            f"{folder}/config.json has quantization_config={quoted(how)}, expected an object with a quant_method."
        )
    return method


def _tensors_in(folder):
    files = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    return {name: tensor for path in files for name, tensor in read_safetensors(path).items()}


def _in_float32(part):
    return Part(tuple((count, torch.float32) for count, _ in part.tensors))


def _part(folder, tensors, name="tensor"):
    found = tuple((math.prod(tensor.shape), tensor.dtype) for tensor in tensors)
    if not any(count for count, _ in found):
        raise CheckpointError(f"{folder} has no {name} in its weight files; convert the checkpoint again.")
    return Part(found)


def _language(tensors, config, what, quantized):
    """Parts of a language model, and the sizes its configuration names."""
    sizes = require_sizes(config, what, {key: getattr(CpmBeeConfig, key) for key in LANGUAGE_SIZES})
    heads = sizes["num_attention_heads"] * sizes["head_dim"]
    shapes = {"embed_tokens.weight": (sizes["vocab_size"], sizes["hidden_size"])}
    if not quantized:
        shapes["layers.0.self_attn.q_proj.weight"] = (heads, sizes["hidden_size"])
        shapes["layers.0.mlp.up_proj.weight"] = (sizes["intermediate_size"], sizes["hidden_size"])
    _require_shapes(tensors, shapes, what)
    groups = defaultdict(list)
    for name, tensor in tensors.items():
        found = re.match(r"layers\.([0-9]{1,6})\.", name)
        group = "embedding" if name.startswith(("embed_tokens.", "lm_head.")) else "language rest"
        groups[int(found[1]) if found else group].append(tensor)
    if 0 not in groups or "embedding" not in groups:
        raise CheckpointError("The weights have no language model in them; convert the checkpoint again.")
    _require_blocks(tensors, "layers", sizes["num_hidden_layers"], what)
    found = (groups["embedding"], groups[0], groups["language rest"])
    return {name: _part(what, group, name) for name, group in zip(LANGUAGE, found, strict=True)}, sizes


def _require_shapes(tensors, shapes, what):
    """The few tensors that show whether a configuration is that of the weights beside it."""
    for name, shape in shapes.items():
        if name in tensors and tensors[name].shape != shape:
            raise CheckpointError(
                f"{what} asks for {name} of {list(shape)}, the weights have {list(tensors[name].shape)}."
            )


def _require_blocks(tensors, start, wanted, what):
    pattern = re.compile(re.escape(start) + r"\.([0-9]+)\.")
    blocks = len({found[1] for found in map(pattern.match, tensors) if found})
    if blocks != wanted:
        raise CheckpointError(f"{what} asks for {wanted} blocks of {start}, the weights have {blocks}.")
