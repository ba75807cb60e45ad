"""What a converted repository holds beside its weights: configurations, remote code, model card, conversion.json."""

import functools
import hashlib
import json
import os
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import GenerationConfig, PreTrainedConfig

from .errors import CheckpointError, first_line, listed, pasted
from .files.hub import is_repo_id
from .files.json_file import named, quoted, read_json_file
from .files.safetensors_file import read_safetensors, read_weights
from .files.stored import StoredTensor
from .files.weights import DTYPES
from .layout.keys import CHAT, PAINT, PLAIN_CPMBEE, Family, Match, with_unet

Load = TypeVar("Load", bound=Callable)
PACKAGE = Path(__file__).parents[1]
CONVERSION = "conversion.json"
CARD = "README.md"
INDEX = "model_index.json"
UNUSED = "original_only.safetensors"

CHAT_CODE = (
    "beams_cpmbee.py",
    "configuration_viscpm_chat.py",
    "generation_cpmbee.py",
    "image_processing_viscpm_chat.py",
    "logits_cpmbee.py",
    "modeling_beit3.py",
    "modeling_cpmbee.py",
    "modeling_viscpm_chat.py",
    "processing_viscpm_chat.py",
    "tokenization_cpmbee.py",
    "words_cpmbee.py",
)
CHAT_AUTO_MAP = {
    "AutoConfig": "configuration_viscpm_chat.VisCPMChatConfig",
    "AutoModel": "modeling_viscpm_chat.VisCPMChatModel",
    "AutoModelForImageTextToText": "modeling_viscpm_chat.VisCPMChatForConditionalGeneration",
    "AutoModelForMultimodalLM": "modeling_viscpm_chat.VisCPMChatForConditionalGeneration",
}
# the original's chat(): its max_length=512 yields up to 514 tokens
CHAT_GENERATION = {
    "num_beams": 3,
    "beam_temperature": 0.7,
    "repetition_penalty": 1.1,
    "length_penalty": 3.0,
    "max_new_tokens": 514,
}

CPMBEE_CODE = tuple(name for name in CHAT_CODE if name.endswith("_cpmbee.py"))
CPMBEE_AUTO_MAP = {
    "AutoConfig": "modeling_cpmbee.CpmBeeConfig",
    "AutoModel": "modeling_cpmbee.CpmBeeModel",
    "AutoModelForCausalLM": "generation_cpmbee.CpmBeeForCausalLM",
}
# the defaults of the original's beam search: its max_length=100 yields up to 102 tokens
CPMBEE_GENERATION = {
    "num_beams": 3,
    "beam_temperature": 1.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "max_new_tokens": 102,
}


# of Paint: in these folders lies a file of code; there may be only one where there are weights
PAINT_CODE = {
    "tokenizer": ["tokenization_cpmbee", "CpmBeeTokenizer"],
    "text_encoder": ["modeling_cpmbee", "CpmBeeModel"],
    "text_projection": ["modeling_viscpm_paint", "VisCPMPaintTextProjection"],
}
PAINT_PARTS = {
    **PAINT_CODE,
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "scheduler": ["diffusers", "DDPMScheduler"],
}
OPTIONAL_PAINT_PARTS = {
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "prompt_checker": ["transformers", "BertForSequenceClassification"],
    "prompt_checker_tokenizer": ["transformers", "BertTokenizer"],
    "ranker": ["transformers", "ChineseCLIPModel"],
    "ranker_processor": ["transformers", "ChineseCLIPProcessor"],
}


def write_config(folder: Path, config: PreTrainedConfig, auto_map: Mapping[str, str], dtype: torch.dtype) -> None:
    """config.json.

    Args:
        folder: of the model.
        config: of the model.
        auto_map: which class of the remote code each Auto class loads.
        dtype: that from_pretrained loads unless told otherwise.
    """
    config.auto_map = dict(auto_map)
    config.architectures = [list(auto_map.values())[-1].partition(".")[2]]
    config.dtype = dtype
    config.save_pretrained(folder)


def write_generation_config(folder: Path, language: PreTrainedConfig, defaults: Mapping[str, int | float]) -> None:
    """generation_config.json.

    Args:
        folder: of the model.
        language: configuration of its language model, which knows the special ids.
        defaults: of `generate()`.
    """
    ids = {key: getattr(language, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = GenerationConfig(do_sample=False, **ids)
    config.update(**defaults, repetition_window=None, allow_custom_entries=True)
    config.save_pretrained(folder)


def copy_code(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        shutil.copyfile(PACKAGE / "remote_code" / name, folder / name)


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # names of files need not be Unicode


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_report(
    folder: Path, source: Mapping, tensors: Mapping[str, StoredTensor], match: Match, **fields: Any
) -> dict:
    """conversion.json: where the repository came from and what became of every tensor.

    Args:
        folder: of the repository.
        source: what is to be said of the checkpoint.
        tensors: of the checkpoint.
        match: where they went.
        fields: further entries.

    Returns:
        What the file holds.
    """
    components = {}
    for component, names in _by_component(match).items():
        kept = [tensors[name] for name in names]
        elements = sum(tensor.nbytes // tensor.dtype.itemsize for tensor in kept)
        dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in kept)
        components[component] = {"tensors": len(kept), "parameters": elements, "source_dtypes": dict(dtypes)}
    report = {
        **fields,
        "source": source,
        "components": components,
        "dropped": match.unused,
        "dropped_to": UNUSED if match.unused else None,
        "card": digest((folder / CARD).read_bytes()),  # by which a refresh sees that nobody edited it
        "versions": versions(),
    }
    (folder / CONVERSION).write_bytes(report_text(report))
    return report


def report_text(report: Mapping) -> bytes:
    return encoded(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def versions() -> dict[str, str | None]:
    """Of what writes a repository."""
    return {
        "viscpm_hf": _own_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "diffusers": metadata.version("diffusers"),
        "python": platform.python_version(),
    }


def _own_version() -> str | None:
    try:
        return metadata.version("viscpm-hf")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return None


def _by_component(match: Match) -> dict[str, list[str]]:
    groups = {}
    for name, component in match.components.items():
        groups.setdefault(component, []).append(name)
    return groups | ({"unused": match.unused} if match.unused else {})


def read_json(repo: Path, name: str) -> dict:
    """A JSON file of a repository, empty if there is none.

    Raises:
        CheckpointError: it is no JSON, or conversion.json or model_index.json with something else than these hold.
    """
    path = repo / name
    if not path.exists():
        return {}
    fields = read_json_file(path)
    if name == CONVERSION:
        _check_report(fields, path)
    if name == INDEX and is_paint(fields):
        _check_index(fields, path)
    return fields


def _check_report(fields, path):
    if fields.get("dtype", "keep") not in tuple(DTYPES):
        raise CheckpointError(
            f"{path} has dtype={quoted(fields['dtype'])}, expected one of {', '.join(DTYPES)}; convert again."
        )
    dropped = fields.get("dropped", [])
    if not isinstance(dropped, list) or not all(isinstance(name, str) for name in dropped):
        raise CheckpointError(f"{path} has dropped={quoted(dropped)}, expected a list of names; convert again.")


def _check_index(fields, path):
    for name in (*PAINT_PARTS, *OPTIONAL_PAINT_PARTS):
        kind = fields.get(name, [None, None])
        if not isinstance(kind, list) or len(kind) != 2 or not all(isinstance(each, str | None) for each in kind):
            raise CheckpointError(f"{path} has {name}={quoted(kind)}, expected a library and a class; convert again.")
        if name in fields and name in PAINT_PARTS and None in kind:
            raise CheckpointError(f"{path} names no {name}, which every VisCPM-Paint has; convert again.")


def has_part(index: Mapping, name: str) -> bool:
    """Whether a model_index.json of VisCPM-Paint names a part; those that are not there are a pair of None."""
    return None not in index.get(name, [None])


def is_paint(index: Mapping) -> bool:
    """Whether a model_index.json is that of VisCPM-Paint, as converted or as saved by the installed class."""
    name = index.get("_class_name")
    return (name[-1:] if isinstance(name, list) else [name]) == [PAINT.model_type]


def kind_of(repo: Path, name: str | None = None) -> str:
    """The model type of a converted repository, by its model_index.json or config.json.

    Args:
        repo: its folder.
        name: of the repository, for messages.

    Raises:
        CheckpointError: it is none.
    """
    if not repo.is_dir():
        raise CheckpointError(
            f"There is no folder {repo}; give the folder of a converted repository, which `viscpm convert` makes."
        )
    if not (repo / "config.json").is_file() and not (repo / INDEX).is_file():
        raise CheckpointError(
            f"{name or repo} is not a converted repository: it has no config.json; make one with `viscpm convert`."
        )
    if is_paint(read_json(repo, INDEX)):
        return PAINT.model_type
    model_type = read_json(repo, "config.json").get("model_type")
    if model_type not in (CHAT.model_type, PLAIN_CPMBEE.model_type):
        raise CheckpointError(
            f"{name or repo} is not a converted repository: its config.json should say model_type viscpm_chat or "
            f"cpmbee, not {named(model_type)}, or its model_index.json {PAINT.model_type}; make one with "
            "`viscpm convert`."
        )
    return model_type


def is_quantized(repo: Path) -> bool:
    """Whether one of a repository's models was saved quantized."""
    return any(read_json(repo / part, "config.json").get("quantization_config") for part in ("", *PAINT_PARTS))


def require_original_weights(repo: Path) -> None:
    """CheckpointError if a repository holds quantized weights, which are no longer those of a checkpoint."""
    if is_quantized(repo):
        raise CheckpointError(
            f"{repo} is quantized and no longer holds the weights of a checkpoint: it can be neither exported nor "
            "verified; give the repository it was made from."
        )


def family_of(repo: Path) -> Family:
    """The kind of checkpoint a repository was made from, by its model_index.json or config.json."""
    kind = kind_of(repo)
    if kind == PAINT.model_type:
        from .layout.unet import read_unet  # diffusers, which takes seconds to import

        return with_unet({name: tensor.shape for name, tensor in read_unet(repo / "unet").state_dict().items()})
    return CHAT if kind == CHAT.model_type else PLAIN_CPMBEE


def read_repo(repo: Path, family: Family) -> dict[str, StoredTensor]:
    """Names and places of the tensors in a repository's weight files, those of `original_only.safetensors` included.

    Raises:
        CheckpointError: a file is missing or damaged, or two files hold a tensor of the same name.
    """
    tensors = {}
    for folder, stem in family.stems.items():
        start = f"{folder}/" if folder else ""
        tensors |= {start + name: tensor for name, tensor in read_weights(repo / folder, stem).items()}
    if (repo / UNUSED).exists():
        unused = read_safetensors(repo / UNUSED)
        if repeated := unused.keys() & tensors.keys():
            raise CheckpointError(f"{repo} holds {listed(sorted(repeated))} twice; convert the checkpoint again.")
        tensors |= unused
    return tensors


def check_is_converted(model_path: str | os.PathLike, name: str, verb: str, config_file: str) -> None:
    """Raises an error that says how to convert, unless this may be a converted folder or a Hub repository.

    Args:
        model_path (`str` or `Path`): what the user gave.
        name (`str`): of the model, for people.
        verb (`str`): of `viscpm convert`, with the arguments it needs besides.
        config_file (`str`): what a converted folder has at its root.

    Raises:
        CheckpointError: it is something else.
    """
    if os.path.isfile(model_path):
        raise CheckpointError(
            f"{model_path} is a file, expected a converted folder: run `viscpm convert {verb} "
            f"--checkpoint {pasted(model_path)} --vocab VOCAB --output DIR` once and give DIR."
        )
    if os.path.isdir(model_path):
        if not os.path.isfile(os.path.join(model_path, config_file)):
            if os.path.isfile(os.path.join(model_path, "adapter_config.json")):
                raise CheckpointError(
                    f"{model_path} holds an adapter alone: give the {name} that it was trained on, and this as its "
                    "adapter, or merge both with `viscpm merge`."
                )
            raise CheckpointError(
                f"The folder {model_path} has no {config_file}, expected a converted {name}: make one with "
                f"`viscpm convert {verb} --checkpoint CKPT --vocab VOCAB --output DIR`."
            )
    elif os.path.lexists(model_path):
        raise CheckpointError(f"{model_path} is neither a folder nor a file, expected a converted folder.")
    elif not is_repo_id(str(model_path)):
        raise CheckpointError(
            f"{model_path} does not exist, expected a converted folder or a Hub repository `owner/name`."
        )


def loads_or_says_why(load: Load) -> Load:
    """Decorator of `load(self, model_path, …)`: what libraries make of odd files is one sentence, a CheckpointError.

    ValueError, OSError and ImportError are sentences already.
    """

    @functools.wraps(load)
    def loading(self, model_path, *args, **kwargs):
        try:
            return load(self, model_path, *args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except (
            TypeError,
            AttributeError,
            LookupError,
            RuntimeError,  # which a too deep nesting is, too
            SafetensorError,
            StrictDataclassError,
        ) as error:
            raise CheckpointError(
                f"{model_path} does not load ({first_line(error)}): if an earlier version converted it, run "
                f"`viscpm refresh {pasted(model_path)}` first, otherwise convert the checkpoint again."
            ) from error

    return loading
