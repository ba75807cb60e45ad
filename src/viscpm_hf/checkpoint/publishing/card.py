"""The model card of what is published: that of its kind, with the name it gets and what it was made of."""

import json
import os
import re
from pathlib import Path

from .. import repo
from ..cards import HERE, added_to, card_text, converted_cards, named, related
from ..files.hub import is_repo_id
from ..files.json_file import read_json_file
from ..files.safetensors_file import read_safetensors
from .contents import ADAPTER_CONFIG, CHAT_ADAPTER, FINE_TUNED, LORA_WEIGHTS, Contents

_ORIGINALS = {"chat_adapter": "VisCPM-Chat", "paint_adapter": "VisCPM-Paint"}
_QUANTIZED = """
## Quantized weights

Weights of this repository were quantized ({how}): answers and pictures differ a little from those of the model it was
made of, and it cannot be exported to the original's layout.

本仓库的部分权重经过量化（{how}）：结果与量化前的模型略有不同，且不能再导出为原版格式。
"""
# what libraries put where nobody has written anything
_UNWRITTEN = b"[More Information Needed]"
_FILLED_IN = re.compile(rb'^(repo = ".*|base = ".*|base_model: .*|# .*)$', re.M)


def card_of(contents: Contents, repo_id: str, base_model: str | None = None) -> bytes | None:
    """The card with which a folder is published, None if the one in it was edited and stays.

    Args:
        contents: of the folder.
        repo_id: it gets.
        base_model: repository of the model an adapter belongs to.
    """
    path = contents.folder / repo.CARD
    found = path.read_bytes() if path.is_file() else None
    if contents.is_adapter:
        own = _adapter_card(contents, repo_id.partition("/")[2], repo_id, base_model)
        written = found is None or _UNWRITTEN in found or _FILLED_IN.sub(b"", found) == _FILLED_IN.sub(b"", own)
        return own if written else None
    report = repo.read_json(contents.folder, repo.CONVERSION)
    cards = converted_cards(contents.folder, contents.kind, report)
    added = b"" if found is None else added_to(found, report, cards)
    if added is None:
        return None
    card = named(cards[0], repo_id)
    if (contents.folder / FINE_TUNED).exists() or b"\n## Fine-tuned" in added:
        card = related(card, "finetune")
    elif how := _quantization(contents):
        card = related(card, "quantized")
        added = added or _QUANTIZED.format(how=how).encode()
    return card + added


def adapter_config(contents: Contents, base_model: str | None) -> bytes | None:
    """adapter_config.json for others: the name of the model instead of a path of this machine. None: as it is."""
    if contents.kind != CHAT_ADAPTER:
        return None
    config = read_json_file(contents.folder / ADAPTER_CONFIG)
    found = config.get("base_model_name_or_path")
    if base_model is None:
        if not isinstance(found, str) or _on_hub(found):
            return None
        base_model = os.path.basename(os.path.normpath(found))
    config["base_model_name_or_path"] = base_model
    return (json.dumps(config, ensure_ascii=False, indent=2) + "\n").encode()


def _on_hub(name: str) -> bool:
    return is_repo_id(name) and not os.path.lexists(name)


def write_adapter_card(folder: Path, output: str | os.PathLike, model: str | os.PathLike) -> None:
    """Puts a card beside an adapter of VisCPM-Chat that is on this machine; one that is published gets its own.

    Args:
        folder: of the adapter.
        output: where it will be, if that is elsewhere.
        model: folder or repository that it was made for.
    """
    contents = Contents(folder, CHAT_ADAPTER, {}, [])
    card = _adapter_card(contents, Path(output).name, str(output), None, str(model))
    (folder / repo.CARD).write_bytes(card)


def _adapter_card(contents: Contents, name: str, place: str, base_model: str | None, base: str | None = None) -> bytes:
    original = _ORIGINALS[contents.kind]
    if contents.kind == CHAT_ADAPTER:
        config = read_json_file(contents.folder / ADAPTER_CONFIG)
        found = config.get("base_model_name_or_path")
        base_model = base_model or (found if isinstance(found, str) and _on_hub(found) else None)
        alpha = config.get("lora_alpha")
        details = f"LoRA, r = {config.get('r')}, alpha = {f'{alpha:.4g}' if isinstance(alpha, float) else alpha}"
    else:
        tensors = read_safetensors(contents.folder / LORA_WEIGHTS)
        ranks = sorted({min(tensor.shape) for tensor in tensors.values() if len(tensor.shape) > 1})
        parts = sorted({name.partition(".")[0] for name in tensors})
        details = f"LoRA, r = {', '.join(map(str, ranks))}, {', '.join(parts)}"
    return card_text(
        (HERE / f"{contents.kind}.md").read_text(encoding="utf-8"),
        name=name,
        repo=place,
        details=details,
        base=base or base_model or f"path/or/name/of/the/converted/{original}",
        base_model=base_model or f"openbmb/{original}",
    )


def _quantization(contents: Contents) -> str | None:
    """By what and to what one of the models was quantized."""
    for part in ("", *repo.PAINT_PARTS):
        if found := repo.read_json(contents.folder / part, "config.json").get("quantization_config"):
            found = found if isinstance(found, dict) else {}
            bits = next((bits for bits in (4, 8) if found.get(f"load_in_{bits}bit")), None)
            return f"{found.get('quant_method', 'unknown')}, {bits} bit" if bits else str(found.get("quant_method"))
    return None
