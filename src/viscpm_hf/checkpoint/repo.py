"""What a converted repository holds beside its weights: configurations, remote code, model card, conversion.json."""

import json
import platform
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from string import Template

import torch
import transformers
from transformers import GenerationConfig, PreTrainedConfig

from .errors import CheckpointError, listed
from .keys import CHAT, PAINT, PLAIN_CPMBEE, Family, Match, with_unet
from .safetensors_file import load_json, read_safetensors, read_weights
from .stored import StoredTensor

PACKAGE = Path(__file__).parents[1]
CONVERSION = "conversion.json"
UNUSED = "original_only.safetensors"

CHAT_CODE = (
    "beams_cpmbee.py",
    "configuration_viscpm_chat.py",
    "generation_cpmbee.py",
    "image_processing_viscpm_chat.py",
    "modeling_beit3.py",
    "modeling_cpmbee.py",
    "modeling_viscpm_chat.py",
    "processing_viscpm_chat.py",
    "tokenization_cpmbee.py",
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

CPMBEE_CODE = ("beams_cpmbee.py", "generation_cpmbee.py", "modeling_cpmbee.py", "tokenization_cpmbee.py")
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


def write_card(folder: Path, template: str, **fields: str) -> None:
    """README.md from a template in model_cards/."""
    text = (Path(__file__).parent / template).read_text(encoding="utf-8")
    (folder / "README.md").write_text(Template(text).substitute(fields), encoding="utf-8")


def write_report(
    folder: Path, checkpoint: Path, sha256: str, tensors: Mapping[str, StoredTensor], match: Match, **fields
) -> dict:
    """conversion.json: where the repository came from and what became of every tensor.

    Args:
        folder: of the repository.
        checkpoint: the source.
        sha256: of the source.
        tensors: of the source.
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
        "source": {"file": checkpoint.name, "bytes": checkpoint.stat().st_size, "sha256": sha256},
        "components": components,
        "dropped": match.unused,
        "dropped_to": UNUSED if match.unused else None,
        "versions": {
            "viscpm_hf": _own_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "diffusers": metadata.version("diffusers"),
            "python": platform.python_version(),
        },
    }
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    (folder / CONVERSION).write_text(text, encoding="utf-8")
    return report


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
    """A JSON file of a repository, empty if there is none."""
    path = repo / name
    return load_json(path.read_bytes(), str(path)) if path.is_file() else {}


def is_paint(index: Mapping) -> bool:
    """Whether a model_index.json is that of VisCPM-Paint, as converted or as saved by the installed class."""
    name = index.get("_class_name")
    return (name[-1:] if isinstance(name, list) else [name]) == [PAINT.model_type]


def family_of(repo: Path) -> Family:
    """The kind of checkpoint a repository was made from, by its model_index.json or config.json."""
    if not repo.is_dir():
        raise CheckpointError(f"There is no folder {repo}; give the folder of a converted repository.")
    if is_paint(read_json(repo, "model_index.json")):
        from .unet import read_unet  # diffusers, which takes seconds to import

        return with_unet({name: tensor.shape for name, tensor in read_unet(repo / "unet").state_dict().items()})
    model_type = read_json(repo, "config.json").get("model_type")
    for family in (CHAT, PLAIN_CPMBEE):
        if model_type == family.model_type:
            return family
    raise CheckpointError(
        f"{repo} is not a converted repository: its config.json should say model_type viscpm_chat or cpmbee, not "
        f"{model_type}, or its model_index.json {PAINT.model_type}."
    )


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
