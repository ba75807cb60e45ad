"""What a folder is, whether it is whole, and which of its files are uploaded."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import torch
import yaml
from huggingface_hub import get_token, parse_eval_result_entries
from safetensors import SafetensorError

from ...remote_code.processing_viscpm_chat import VisCPMChatProcessor
from ...remote_code.tokenization_cpmbee import CpmBeeTokenizer
from .. import repo
from ..adapter import CONFIG as ADAPTER_CONFIG
from ..adapter import PAINT_LORA as LORA_WEIGHTS
from ..adapter import read_adapter
from ..errors import CheckpointError, first_line, listed, pasted
from ..files.disk import read_small
from ..files.json_file import quoted, read_json_file
from ..files.safetensors_file import read_safetensors, read_shards
from ..files.stored import StoredTensor
from ..layout.keys import CHAT, PAINT, PLAIN_CPMBEE, inverted, match
from ..verify import verify

CHAT_ADAPTER, PAINT_ADAPTER = "chat_adapter", "paint_adapter"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
SCORES = ".eval_results"  # which the Hub shows beside the benchmarks they are of
FINE_TUNED = "finetune.json"  # what the command writes down of its settings

_TEXTS = (".json", ".py", ".txt", ".jinja", ".md")
_OTHERS = (".safetensors", ".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg")
_NAMES = (".gitattributes", "LICENSE*", "NOTICE*", "*pytorch_model*.bin")
# of a run: settings with paths of this machine, states of optimizers, answers to other people's data
_OF_A_RUN = (FINE_TUNED, "trainer_state.json", "*_results.json", "left_out.*", "answers.*", "*.settings.json")
# latents and captions of other people's data, and the pictures painted on the way, where there was a run
_FOLDERS_OF_A_RUN = ("checkpoint-*", "runs", "logs", "cache", "__pycache__")
_PICTURES_OF_A_RUN = "pictures"
_SECRET = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")


@dataclass(frozen=True)
class Contents:
    """A folder that can be published.

    Args:
        folder: where it is.
        kind: a model type, or `chat_adapter` or `paint_adapter`.
        files: bytes by name of what is uploaded.
        left_out: names of what is not; folders end in a slash.
    """

    folder: Path
    kind: str
    files: dict[str, int]
    left_out: list[str]

    @property
    def is_adapter(self) -> bool:
        return self.kind in (CHAT_ADAPTER, PAINT_ADAPTER)

    @property
    def nbytes(self) -> int:
        return sum(self.files.values())


def read_contents(folder: str | os.PathLike, checkpoint: str | os.PathLike | None = None) -> Contents:
    """Looks at everything in a folder but the values of its weights.

    Args:
        folder: a converted repository, also fine-tuned or quantized, or an adapter of one.
        checkpoint: the original, to compare every byte of a converted repository with.

    Raises:
        CheckpointError: it is none of these, something is missing, damaged or of another model, or it holds what
            should not be published.
    """
    folder = Path(folder)
    kind = _kind(folder)
    files, left_out = _sorted_out(folder)
    _refuse_secrets(folder, files)
    _check_scores(folder, files)
    for name in files:
        _check_file(folder / name)
    if kind in (CHAT_ADAPTER, PAINT_ADAPTER):
        if checkpoint is not None:
            raise CheckpointError(f"{folder} is an adapter, which no checkpoint can be compared with.")
        _check_chat_adapter(folder) if kind == CHAT_ADAPTER else _check_paint_adapter(folder)
    else:
        try:
            _check_model(folder, kind)
        except CheckpointError:
            raise
        except (ValueError, OSError, TypeError, AttributeError, LookupError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                f"{folder} would not load ({first_line(error)}): run `viscpm refresh {pasted(folder)}`, or convert "
                "the checkpoint again."
            ) from error
    if checkpoint is not None:
        parts = verify(checkpoint, folder)
        if differences := [each for part in parts.values() for each in part.differences]:
            raise CheckpointError(
                f"{folder} differs from {checkpoint} ({listed(differences, 5)}); convert the checkpoint again."
            )
    return Contents(folder, kind, files, left_out)


def _kind(folder: Path) -> str:
    if folder.is_dir() and not any(folder.glob("model*.safetensors")) and not (folder / repo.INDEX).exists():
        if (folder / ADAPTER_CONFIG).is_file():
            return CHAT_ADAPTER
        if (folder / LORA_WEIGHTS).is_file():
            return PAINT_ADAPTER
    return repo.kind_of(folder)


def _sorted_out(folder: Path) -> tuple[dict[str, int], list[str]]:
    """Files to upload with their sizes, and what is left out."""
    files, left_out = {}, []
    of_a_run = [*_FOLDERS_OF_A_RUN, _PICTURES_OF_A_RUN] if (folder / FINE_TUNED).exists() else _FOLDERS_OF_A_RUN
    for place, folders, names in os.walk(folder):
        place = Path(place)
        for name in sorted(folders):
            path, inside = place / name, (place / name).relative_to(folder).as_posix()
            if (name.startswith(".") and inside != SCORES) or any(fnmatch(name, each) for each in of_a_run):
                left_out.append(f"{inside}/")
                folders.remove(name)
            elif path.is_symlink():  # which nothing would be uploaded of
                raise CheckpointError(f"In {folder}, {inside} is a link to another folder; put a copy in its place.")
        for name in sorted(names):
            inside = (place / name).relative_to(folder).as_posix()
            if _is_wanted(inside):
                files[inside] = _size(place / name)
            else:
                left_out.append(inside)
    return dict(sorted(files.items())), sorted(left_out)


def _is_wanted(inside: str) -> bool:
    name = inside.rpartition("/")[2]
    if inside.startswith(f"{SCORES}/"):
        return name.endswith((".yaml", ".yml"))
    if any(fnmatch(name, each) for each in _NAMES):
        return True
    return (
        not name.startswith(".")
        and name.endswith(_TEXTS + _OTHERS)
        and not any(fnmatch(name, each) for each in _OF_A_RUN)
    )


def _size(path: Path) -> int:
    if not path.is_file():
        raise CheckpointError(f"{path} is no file that can be read; remove it or put a copy in its place.")
    return path.stat().st_size


def _refuse_secrets(folder: Path, files: dict[str, int]) -> None:
    token = (get_token() or "").encode()
    for name in files:
        if name.endswith((*_OTHERS, ".bin")):
            continue
        data = read_small(folder / name)
        if _SECRET.search(data) or (len(token) > 12 and token in data):
            raise CheckpointError(f"{folder / name} holds an access token of the Hub: take it out, and revoke it.")


def _check_scores(folder: Path, files: dict[str, int]) -> None:
    for name in files:
        if name.startswith(f"{SCORES}/"):
            try:
                parse_eval_result_entries(yaml.safe_load(read_small(folder / name)))
            except (yaml.YAMLError, LookupError, TypeError, AttributeError, ValueError) as error:
                raise CheckpointError(
                    f"{folder / name} is no list of results as the Hub reads them ({first_line(error)}): each has a "
                    "dataset with id and task_id, and a value."
                ) from error


def _check_file(path: Path) -> None:
    """Whether all of a file is there, as far as it says how much that is."""
    if path.suffix == ".safetensors":
        read_safetensors(path)
    elif path.name.endswith(".safetensors.index.json"):
        read_shards(path, read_safetensors)
    elif path.suffix == ".json":
        if path.name not in ("added_tokens.json", "vocab.json", "tokenizer.json"):
            read_json_file(path)
    elif path.name == repo.CARD:
        try:
            path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(
                f"{path} is no UTF-8 text ({error.reason} at byte {error.start}): mend it."
            ) from error


def _check_model(folder: Path, kind: str) -> None:
    {CHAT.model_type: _check_chat, PAINT.model_type: _check_paint, PLAIN_CPMBEE.model_type: _check_cpmbee}[kind](
        folder
    )
    if not repo.is_quantized(folder):
        family = repo.family_of(folder)
        tensors = repo.read_repo(folder, family)
        match(inverted(family), tensors, folder)
        for start, model in _empty_models(folder, kind):
            _compare(folder, start, model, tensors)
        lost = [name for name in repo.read_json(folder, repo.CONVERSION).get("dropped", []) if name not in tensors]
        if lost and not (folder / FINE_TUNED).exists():
            raise CheckpointError(f"{folder} lacks {listed(lost)}; put its {repo.UNUSED} back beside the weights.")


def _require(folder: Path, names) -> None:
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise CheckpointError(
            f"{folder} lacks {listed(missing)}: run `viscpm refresh {pasted(folder)}`, or convert the checkpoint "
            "again."
        )


def _check_chat(folder: Path) -> None:
    _require(folder, [*repo.CHAT_CODE, "vocab.txt", "processor_config.json", "generation_config.json"])
    _require_auto_map(folder, repo.CHAT_AUTO_MAP)
    VisCPMChatProcessor.from_pretrained(folder)
    _require_weights(folder)


def _check_cpmbee(folder: Path) -> None:
    _require(folder, [*repo.CPMBEE_CODE, "vocab.txt", "generation_config.json"])
    _require_auto_map(folder, repo.CPMBEE_AUTO_MAP)
    CpmBeeTokenizer.from_pretrained(folder)
    _require_weights(folder)


def _check_paint(folder: Path) -> None:
    from ..pipeline_repo import PIPELINE, check_parts  # diffusers, which takes seconds to import

    code = [f"{part}/{module}.py" for part, (module, _) in repo.PAINT_CODE.items()]
    _require(folder, [f"{PIPELINE}.py", *code, "tokenizer/vocab.txt"])
    check_parts(folder)
    CpmBeeTokenizer.from_pretrained(folder / "tokenizer")
    index = repo.read_json(folder, repo.INDEX)
    for part in ("text_encoder", "text_projection", "unet", "vae", "safety_checker", "prompt_checker", "ranker"):
        if repo.has_part(index, part):
            _require_weights(folder / part)


def _require_auto_map(folder: Path, auto_map: dict[str, str]) -> None:
    found = read_json_file(folder / "config.json").get("auto_map")
    if not isinstance(found, dict) or not auto_map.items() <= found.items():
        raise CheckpointError(
            f"{folder / 'config.json'} has auto_map={quoted(found)}, by which nobody could load it without this "
            f"package: run `viscpm refresh {pasted(folder)}`."
        )


def _require_weights(folder: Path) -> None:
    patterns = ("*model*.safetensors", "*pytorch_model*.bin")
    if not any(path.is_file() for pattern in patterns for path in folder.glob(pattern)):
        raise CheckpointError(f"{folder} has no weights; convert the checkpoint again.")


def _empty_models(folder: Path, kind: str) -> Iterator[tuple[str, torch.nn.Module]]:
    """Models without weights, as the configurations describe them, and what their tensors' names begin with."""
    # which take seconds to import
    from ...remote_code.configuration_viscpm_chat import VisCPMChatConfig
    from ...remote_code.modeling_cpmbee import CpmBeeConfig, CpmBeeModel
    from ...remote_code.modeling_viscpm_chat import VisCPMChatModel

    with torch.device("meta"):
        if kind == CHAT.model_type:
            yield "model.", VisCPMChatModel(VisCPMChatConfig.from_pretrained(folder))
        elif kind == PLAIN_CPMBEE.model_type:
            yield "model.", CpmBeeModel(CpmBeeConfig.from_pretrained(folder))
        else:
            from ...remote_code.modeling_viscpm_paint import VisCPMPaintTextProjection

            encoder = CpmBeeModel(CpmBeeConfig.from_pretrained(folder / "text_encoder"))
            yield "text_encoder/", encoder
            config = VisCPMPaintTextProjection.load_config(folder / "text_projection")
            yield "text_projection/", VisCPMPaintTextProjection.from_config(config)


def _compare(folder: Path, start: str, model: torch.nn.Module, tensors: dict[str, StoredTensor]) -> None:
    wanted = {start + name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if missing := wanted.keys() - tensors.keys():
        raise CheckpointError(f"{folder} lacks {listed(sorted(missing), 5)}; convert the checkpoint again.")
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != shape:
            raise CheckpointError(
                f"In {folder}, {name} is {list(tensors[name].shape)} and by the configuration {list(shape)}: bring "
                "back the configuration, or convert the checkpoint again."
            )


def _check_chat_adapter(folder: Path) -> None:
    """CheckpointError unless it is a LoRA of peft's for VisCPM-Chat, in a file that holds no code."""
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise CheckpointError(f"{folder} lacks {ADAPTER_WEIGHTS}: save the adapter again, with safe_serialization.")
    _require_parts(folder, read_adapter(folder).names, "model.(language_model|vision_tower|connector|query)")


def _check_paint_adapter(folder: Path) -> None:
    """CheckpointError unless it is a LoRA of diffusers' for VisCPM-Paint."""
    names = list(read_safetensors(folder / LORA_WEIGHTS))
    _require_parts(folder, names, "(unet|text_encoder|text_projection)")
    if not any(".lora" in name for name in names):
        raise CheckpointError(f"{folder / LORA_WEIGHTS} holds no LoRA: save the adapter again.")


def _require_parts(folder: Path, names: list[str], parts: str) -> None:
    if odd := [name for name in names if not re.match(rf"{parts}\b", name)]:
        raise CheckpointError(f"{folder} changes what no VisCPM has: {listed(odd, 3)}.")
