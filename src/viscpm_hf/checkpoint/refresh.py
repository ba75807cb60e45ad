"""Bringing the code, the configurations and the card of a converted repository up to this version; never its weights.

What is new is made in a folder of its own and loaded there. Then the files change places: all of them, or none.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import TemplateError
from transformers import GenerationConfig
from transformers.utils.chat_template_utils import render_jinja_template

from ..language import say
from ..remote_code.configuration_viscpm_chat import VisCPMChatConfig
from ..remote_code.modeling_cpmbee import CpmBeeConfig
from ..remote_code.processing_viscpm_chat import VisCPMChatProcessor
from ..remote_code.tokenization_cpmbee import CpmBeeTokenizer
from . import repo
from .cards import added_to, converted_cards, name_in, named
from .errors import CheckpointError, first_line, listed
from .files.disk import read_small
from .files.exchange import SMALL, WORKSPACE, exchange, undo, workspace_of
from .files.hub import commit_files, fetch_small_files, is_repo_id
from .files.json_file import quoted, read_json_file
from .layout.keys import CHAT, PAINT, PLAIN_CPMBEE

# what libraries write beside settings: of whoever saved
OF_THE_MOMENT = {"transformers_version", "is_local", "local_files_only", "name_or_path"}
WEIGHTS = (".safetensors", ".bin")


@dataclass
class Refreshed:
    """What a refresh did.

    Args:
        changed: names of the files that it wrote, none if all was up to date.
        kept: why something was left as it is, a sentence each.
        address: of the commit or pull request, for a repository on the Hub.
    """

    changed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    address: str | None = None


def refresh(folder: str | os.PathLike, card: bool = False) -> Refreshed:
    """Brings a converted folder up to this version of the package.

    Written are the remote code, what the configurations lack, and the model card unless somebody edited it. Settings
    stay as they are, and no weight file is opened for writing. A file that is a link becomes a file.

    Args:
        folder: converted by any version, also quantized or saved after fine-tuning.
        card: whether to write the model card even over an edited one.

    Raises:
        CheckpointError: it is no converted repository, cannot be written to, or would not load; it is as it was.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(
            f"There is no folder {folder}; give a converted folder or a Hub repository `owner/name`."
        )
    kind = repo.kind_of(folder)
    _refuse_links(folder, kind)
    if not os.path.lexists(folder / WORKSPACE):
        files, kept = _renewed(folder, kind, card)
        if not files:
            return Refreshed(kept=kept)
    with workspace_of(folder) as workspace:
        undo(folder, workspace)  # what a killed run began
        files, kept = _renewed(folder, kind, card)
        _check_weights(folder)
        before = _weights(folder)
        exchange(folder, workspace, files)
    if _weights(folder) != before:
        raise CheckpointError(f"Something else changed the weights of {folder} meanwhile; run `viscpm verify`.")
    return Refreshed(sorted(files), kept)


def refresh_on_hub(repo_id: str, push: bool = False, pull_request: bool = False, card: bool = False) -> Refreshed:
    """Brings a repository on the Hub up to this version; weights are neither fetched nor uploaded.

    Args:
        repo_id: `owner/name`.
        push: whether to commit what is new.
        pull_request: whether to propose it instead. With neither, nothing is uploaded.
        card: as for `refresh`.

    Raises:
        CheckpointError: as for `refresh`, or the Hub refuses.
    """
    if not is_repo_id(repo_id):
        raise CheckpointError(f"Got {quoted(repo_id)} as a repository on the Hub, expected `owner/name`.")
    with tempfile.TemporaryDirectory() as temporary:
        commit = fetch_small_files(repo_id, temporary, [*SMALL, *(f"*/{pattern}" for pattern in SMALL)])
        folder = Path(temporary)
        files, kept = _renewed(folder, repo.kind_of(folder, repo_id), card)
        address = None
        if files and (push or pull_request):
            address = commit_files(repo_id, files, "Refreshed with viscpm_hf", commit, pull_request)
    return Refreshed(sorted(files), kept, address)


def _refuse_links(folder: Path, kind: str) -> None:
    """Stops where the files of another folder would be written to."""
    where = folder.resolve()
    if where.parent.name == "snapshots" and (where.parents[1] / "blobs").is_dir():
        raise CheckpointError(
            f"{folder} lies in the cache of huggingface_hub, which holds what the Hub has; refresh the repository on "
            "the Hub by its name, or a copy of this folder (`cp -rL`)."
        )
    parts = repo.PAINT_CODE if kind == PAINT.model_type else ()
    if links := [name for name in (*parts, WORKSPACE) if (folder / name).is_symlink()]:
        raise CheckpointError(f"In {folder}, {listed(links)} is a link to another folder; put a copy in its place.")


def _renewed(folder: Path, kind: str, card: bool) -> tuple[dict[str, bytes], list[str]]:
    """Contents by name of the files that are to change, and why others stay."""
    report = repo.read_json(folder, repo.CONVERSION)
    before = dict(report)
    with tempfile.TemporaryDirectory() as temporary:
        new = Path(temporary)
        for place in (folder, *(folder / part for part in _parts(folder, kind))):
            _copy_small_files(place, new / place.relative_to(folder))
        try:
            {CHAT.model_type: _chat, PAINT.model_type: _paint, PLAIN_CPMBEE.model_type: _cpmbee}[kind](new)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(f"{new}{os.sep}", f"{folder}{os.sep}")) from error
        except (ValueError, OSError, TypeError, AttributeError, LookupError, RuntimeError) as error:
            what = first_line(error).replace(str(new), str(folder))
            raise CheckpointError(f"{folder} does not load and stays as it is ({what}); convert it again.") from error
        kept = _renew_card(new, kind, report, card)
        files = {}
        for path in new.rglob("*"):
            name = path.relative_to(new).as_posix()
            if path.is_file() and ((data := path.read_bytes()) != _contents(folder / name)):
                files[name] = data
        if files and report:
            report["refreshed"] = repo.versions()
        if report != before:
            files[repo.CONVERSION] = repo.report_text(report)
    return files, kept


def _parts(folder: Path, kind: str) -> list[str]:
    """Of Paint, the folders in a repository; the other models have none."""
    if kind != PAINT.model_type:
        return []
    index = repo.read_json(folder, repo.INDEX)
    optional = [name for name in repo.OPTIONAL_PAINT_PARTS if repo.has_part(index, name)]
    return [*repo.PAINT_PARTS, *optional]


def _contents(path: Path) -> bytes | None:
    return read_small(path) if path.exists() else None


def _copy_small_files(place: Path, to: Path) -> None:
    """What a part is without its weights; the report is not among it."""
    if not place.is_dir():
        raise CheckpointError(f"There is no folder {place}, which this VisCPM-Paint should have; convert again.")
    to.mkdir(exist_ok=True)
    for pattern in SMALL:
        for path in place.glob(pattern):
            indexes_weights = path.name.endswith(".index.json")
            if path.is_file() and not indexes_weights and path.name != repo.CONVERSION:
                (to / path.name).write_bytes(read_small(path))


def _chat(new: Path) -> None:
    repo.copy_code(new, repo.CHAT_CODE)
    _set(new / "config.json", {"auto_map": repo.CHAT_AUTO_MAP})
    config = VisCPMChatConfig.from_pretrained(new)
    _set(new / "config.json", {"text_config": {"logit_scale": config.text_config.logit_scale}})
    _save_again(new, VisCPMChatProcessor)
    _generation(new, config.text_config, repo.CHAT_GENERATION)


def _cpmbee(new: Path) -> None:
    repo.copy_code(new, repo.CPMBEE_CODE)
    _set(new / "config.json", {"auto_map": repo.CPMBEE_AUTO_MAP})
    config = CpmBeeConfig.from_pretrained(new)
    _set(new / "config.json", {"logit_scale": config.logit_scale})
    _save_again(new, CpmBeeTokenizer)
    _generation(new, config, repo.CPMBEE_GENERATION)


def _paint(new: Path) -> None:
    from . import pipeline_repo  # diffusers, which takes seconds to import

    pipeline_repo.copy_pipeline_code(new)
    index = read_json_file(new / repo.INDEX)
    absent = {name: [None, None] for name in repo.OPTIONAL_PAINT_PARTS if name not in index}
    own = {"_class_name": pipeline_repo.CLASS_NAME, **repo.PAINT_CODE, **absent}
    _set(new / repo.INDEX, own)
    _set(new / "text_encoder" / "config.json", {"auto_map": pipeline_repo.TEXT_ENCODER_AUTO_MAP})
    config = CpmBeeConfig.from_pretrained(new / "text_encoder")
    _set(new / "text_encoder" / "config.json", {"logit_scale": config.logit_scale})
    pipeline_repo.check_parts(new)
    _save_again(new / "tokenizer", CpmBeeTokenizer)


def _set(path: Path, fields: Mapping) -> None:
    """Writes entries of a JSON file, if they are others, and leaves the rest as it is."""
    before = read_json_file(path)
    after = _merged(before, fields)
    if after == before:
        return
    path.write_text(json.dumps(after, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _merged(before, new):
    """Settings with newer ones over them, section by section; in the order of the newer, or sorted as they were."""
    if not isinstance(before, dict) or not isinstance(new, Mapping):
        return new
    keys = [*new, *before] if list(before) != sorted(before) else sorted({*new, *before})
    return {key: _merged(before.get(key), new[key]) if key in new else before[key] for key in keys}


def _save_again(new: Path, kind: type) -> None:
    """What the class of today makes of a processor's or a tokenizer's files, over these.

    It has read them, so settings are kept, and what it knows nothing of stays, too.
    """
    wanted = ["vocab.txt"] + ["processor_config.json"] * (kind is VisCPMChatProcessor)
    if lacking := [name for name in wanted if not (new / name).exists()]:
        what = "processor" if kind is VisCPMChatProcessor else "tokenizer"
        raise CheckpointError(
            f"{new}{os.sep} lacks {listed(lacking)}, as after save_pretrained() of the model alone: load the {what} "
            f"of the repository the model came from and run `{what}.save_pretrained(...)` into this folder."
        )
    own = kind.from_pretrained(new)
    _check_templates(new, getattr(own, "chat_template", None))
    with tempfile.TemporaryDirectory() as saved:
        own.save_pretrained(saved)
        for path in Path(saved).iterdir():
            if path.suffix == ".json" and (new / path.name).exists():
                _set(new / path.name, {k: v for k, v in read_json_file(path).items() if k not in OF_THE_MOMENT})
            elif not (new / path.name).exists():
                shutil.copyfile(path, new / path.name)


def _check_templates(new: Path, templates: str | dict | None) -> None:
    """Compiles the templates of a processor or a tokenizer, which otherwise happens on first use."""
    for template in templates.values() if isinstance(templates, dict) else [templates or ""]:
        try:
            render_jinja_template([], chat_template=template)
        except TemplateError as error:
            raise CheckpointError(
                f"The chat template in {new}{os.sep} is no Jinja ({first_line(error)}); mend it, or remove "
                "chat_template.jinja to get that of this version."
            ) from error


def _generation(new: Path, language, defaults: Mapping) -> None:
    """The original's search where nothing is said; otherwise settings are the user's."""
    if not (new / "generation_config.json").exists():
        repo.write_generation_config(new, language, defaults)
    GenerationConfig.from_pretrained(new)


def _renew_card(new: Path, kind: str, report: dict, overwrite: bool) -> list[str]:
    """Writes the card unless it was edited, and its digest into the report; says what was left."""
    if not report:  # as after fine-tuning
        why = say(
            f"There is no {repo.CONVERSION} to make the model card from.",
            f"没有 {repo.CONVERSION}，无法生成模型卡。",
        )
        return [why] if overwrite else []
    card = new / repo.CARD
    own = converted_cards(new, kind, report)
    found = card.read_bytes() if card.exists() else None
    added = b"" if found is None else added_to(found, report, own)
    # what `viscpm quantize` has added stays: what loading the weights needs
    section = re.search(rb"\n## Quantized weights\n.*?(?=\n## |\Z)", found or b"", re.S)
    kept = section[0] if section and "quantized" in report else b""
    if added not in (b"", kept) and not overwrite:
        if added is None:
            report.pop("card", None)
        why = say(
            f"{repo.CARD} was edited and stays as it is; --card writes that of this version.",
            f"{repo.CARD} 被改动过，保持原样；加 --card 则写入当前版本的模型卡。",
        )
        return [why]
    card.write_bytes(named(own[0], name_in(found or own[0])) + kept)
    report["card"] = repo.digest(own[0])
    return []


def _check_weights(folder: Path) -> None:
    """Reads the headers of the weight files: what was only fetched in part is found now and not in use.

    Quantized ones have other files; they are checked by whoever loads them.
    """
    if not repo.is_quantized(folder):
        repo.read_repo(folder, repo.family_of(folder))


def _weights(folder: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for path in folder.rglob("*"):
        if path.suffix in WEIGHTS and path.is_file():
            status = path.stat()
            found[str(path)] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found
