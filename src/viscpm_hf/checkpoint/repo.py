"""What a converted repository holds beside its weights: configurations, remote code, model card, conversion.json."""

import json
import platform
import shutil
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from string import Template

import torch
import transformers
from transformers import GenerationConfig, PreTrainedConfig

from .errors import CheckpointError
from .keys import CHAT, PLAIN_CPMBEE, Family, Match
from .safetensors_file import load_json, read_safetensors
from .stored import StoredTensor

PACKAGE = Path(__file__).parents[1]
CONVERSION = "conversion.json"
UNUSED = "original_only.safetensors"

CHAT_CODE = (
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

CPMBEE_CODE = ("generation_cpmbee.py", "modeling_cpmbee.py", "tokenization_cpmbee.py")
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


def write_config(
    folder: Path,
    config: PreTrainedConfig,
    language: PreTrainedConfig,
    auto_map: Mapping[str, str],
    generation: Mapping[str, int | float],
    dtype: torch.dtype,
) -> None:
    """config.json and generation_config.json.

    Args:
        folder: of the repository.
        config: of the whole model.
        language: of its language model, which knows the special ids.
        auto_map: which class of the remote code each Auto class loads.
        generation: defaults of `generate()`.
        dtype: that from_pretrained loads unless told otherwise.
    """
    config.auto_map = dict(auto_map)
    config.architectures = [list(auto_map.values())[-1].partition(".")[2]]
    config.dtype = dtype
    config.save_pretrained(folder)
    ids = {key: getattr(language, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    defaults = GenerationConfig(do_sample=False, **ids)
    defaults.update(**generation, repetition_window=None, allow_custom_entries=True)
    defaults.save_pretrained(folder)


def copy_code(folder: Path, names: tuple[str, ...]) -> None:
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


def family_of(repo: Path) -> Family:
    """The kind of checkpoint a repository was made from, by its config.json."""
    if not repo.is_dir():
        raise CheckpointError(f"There is no folder {repo}; give the folder of a converted repository.")
    model_type = read_json(repo, "config.json").get("model_type")
    for family in (CHAT, PLAIN_CPMBEE):
        if model_type == family.model_type:
            return family
    raise CheckpointError(
        f"{repo} is not a converted repository: its config.json should say model_type viscpm_chat or cpmbee, not "
        f"{model_type}."
    )


def read_repo(repo: Path) -> dict[str, StoredTensor]:
    """Names and places of the tensors in a repository's weight files, those of `original_only.safetensors` included.

    Raises:
        CheckpointError: a file is missing or damaged, or two files hold a tensor of the same name.
    """
    index = read_json(repo, "model.safetensors.index.json")
    if index:
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise CheckpointError(
                f"{repo}/model.safetensors.index.json has no weight_map; convert the checkpoint again."
            )
        files = sorted(set(weight_map.values()))
    else:
        files = ["model.safetensors"]
    if (repo / UNUSED).exists():
        files.append(UNUSED)
    tensors = {}
    for name in files:
        if Path(name).name != name or not (repo / name).is_file():
            raise CheckpointError(f"{repo} lacks {name}; give the folder of a converted repository.")
        for key, tensor in read_safetensors(repo / name).items():
            if key in tensors or (index and name != UNUSED and weight_map.get(key) != name):
                raise CheckpointError(
                    f"{repo} holds {key} in a file its index does not name; convert the checkpoint again."
                )
            tensors[key] = tensor
    if index and (absent := [key for key in weight_map if key not in tensors]):
        raise CheckpointError(f"{repo}'s index names tensors that its files lack, such as {absent[0]}.")
    return tensors
