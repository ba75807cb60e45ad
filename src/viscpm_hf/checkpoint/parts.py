"""Ready-made parts of a repository, which do not come out of the checkpoint: checkers and ranker."""

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .errors import CheckpointError, listed
from .files.disk import read_small
from .files.hub import Wanted, fetch
from .files.json_file import is_size, named, quoted, read_json_file
from .files.safetensors_file import read_weights
from .files.source import open_checkpoint
from .files.stored import StoredTensor

VOCABULARY_FILES = ("vocab.txt", "tokenizer.json")
TOKENIZER_FILES = (*VOCABULARY_FILES, "added_tokens.json", "special_tokens_map.json", "tokenizer_config.json")
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
HALVES = ("fp16", "bf16")  # which diffusers calls variants


@dataclass(frozen=True)
class Part:
    """A folder of a repository, taken from elsewhere.

    Args:
        folder: in the repository.
        files: contents by name.
        weights: places of its tensors by name; they are written as they are.
        stem: name of its weight file, without the ending.
    """

    folder: str
    files: Mapping[str, bytes]
    weights: Mapping[str, StoredTensor] = field(default_factory=dict)
    stem: str = "model"

    def write_files(self, repo: Path) -> None:
        (repo / self.folder).mkdir()
        for name, data in self.files.items():
            (repo / self.folder / name).write_bytes(data)


SAFETY_CHECKER = Wanted(
    "--safety-checker",
    "a safety checker",
    "the folder or Hub repository of a Stable Diffusion safety checker, or none",
)
PROMPT_CHECKER = Wanted(
    "--prompt-checker", "a prompt checker", "the folder or Hub repository of a BERT that classifies prompts, or none"
)
RANKER = Wanted("--ranker", "a ranker", "the folder or Hub repository of a Chinese-CLIP, or none")


def chat_safety_checker(source: str) -> Part:
    """The image safety checker with its image processor in one folder.

    Args:
        source: a folder, or a repository on the Hub such as `CompVis/stable-diffusion-safety-checker`.

    Raises:
        CheckpointError: there is nothing of the kind.
    """
    folder, _, weights = _model(source, SAFETY_CHECKER, "clip")
    return Part("safety_checker", _contents(folder, ("config.json", *PROCESSOR_FILES)), weights)


def safety_checker(source: str) -> list[Part]:
    """The image safety checker and its image processor; arguments and errors as in `chat_safety_checker`."""
    folder, config, weights = _model(source, SAFETY_CHECKER, "clip")
    processor = _contents(folder, PROCESSOR_FILES)
    if not processor:  # beside a checker in diffusers' layout there is none; what CLIP needs follows from the size
        vision = config.get("vision_config")
        side = vision.get("image_size", 224) if isinstance(vision, dict) else 224
        if not is_size(side, 2**12):
            raise CheckpointError(f"{folder}/config.json has image_size={quoted(side)}, expected a number of pixels.")
        sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        text = json.dumps({"image_processor_type": "CLIPImageProcessor", **sizes}, indent=2) + "\n"
        processor = {"preprocessor_config.json": text.encode()}
    return [
        Part("safety_checker", _contents(folder, ("config.json",)), weights),
        Part("feature_extractor", processor),
    ]


def prompt_checker(source: str) -> list[Part]:
    """The BERT that refuses prompts and its tokenizer.

    Args:
        source: a folder, a repository on the Hub, or a folder in one: `openbmb/VisCPM-Paint/text-security-checker`.

    Raises:
        CheckpointError: there is nothing of the kind.
    """
    folder, _, weights = _model(source, PROMPT_CHECKER, "bert")
    tokenizer = _contents(folder, TOKENIZER_FILES)
    _require(source, PROMPT_CHECKER, tokenizer, VOCABULARY_FILES)
    return [
        Part("prompt_checker", _contents(folder, ("config.json",)), weights),
        Part("prompt_checker_tokenizer", tokenizer),
    ]


def ranker(source: str) -> list[Part]:
    """The Chinese-CLIP that chooses among candidates and its processor.

    Args:
        source: a folder, or a repository on the Hub such as `OFA-Sys/chinese-clip-vit-base-patch16`.

    Raises:
        CheckpointError: there is nothing of the kind.
    """
    folder, _, weights = _model(source, RANKER, "chinese_clip")
    # transformers finds the processor's tokenizer by the model's configuration
    processor = _contents(folder, ("config.json", *PROCESSOR_FILES, *TOKENIZER_FILES))
    _require(source, RANKER, processor, VOCABULARY_FILES)
    _require(source, RANKER, processor, PROCESSOR_FILES)
    return [
        Part("ranker", _contents(folder, ("config.json",)), weights),
        Part("ranker_processor", processor),
    ]


def located(source: str, wanted: Wanted, stem: str, old: str, inside: str = "") -> tuple[Path, dict, dict]:
    """Finds a model: on disk, or on the Hub.

    Args:
        source: folder or repository.
        wanted: for messages.
        stem: name of the safetensors file, without the ending.
        old: name of the file from before safetensors, which is taken where there is no other.
        inside: folder in the source, with a slash after it.

    Returns:
        The folder, what its config.json says, places of the tensors by name.

    Raises:
        CheckpointError: it cannot be fetched, or is incomplete.
    """
    halves = [[f"{stem}.{kind}.safetensors"] for kind in HALVES]  # some repositories have nothing else
    for names in ([f"{stem}.safetensors", f"{stem}-*-of-*.safetensors"], [old], *halves):
        folder = fetch(source, wanted, [inside + name for name in ("*.json", "*.txt", *names)]) / inside
        found = sorted(path for name in names for path in folder.glob(name))
        if not found or not (folder / "config.json").is_file():
            continue
        if not found[0].is_file():
            raise CheckpointError(f"{found[0]} is not a file; give {wanted.option} {wanted.advice}.")
        config = read_json_file(folder / "config.json")
        if names == [old]:
            return folder, config, open_checkpoint(found[0])
        if names in halves:
            warnings.warn(f"{source} has its weights in half precision only: {names[0]} is taken.", stacklevel=3)
        return folder, config, read_weights(folder, names[0].removesuffix(".safetensors"))
    others = sorted(path.name for path in folder.glob("*") if path.name.endswith((".safetensors", ".bin", ".ckpt")))
    raise CheckpointError(
        f"{source} is not {wanted.what}: expected {inside}config.json and beside it {stem}.safetensors or {old}, "
        f"found {listed(map(quoted, others), 3) or 'no weights'}; give {wanted.option} {wanted.advice}."
    )


def _model(source: str, wanted: Wanted, model_type: str) -> tuple[Path, dict, dict]:
    """A model of transformers; arguments and result as for `located`."""
    folder, config, weights = located(source, wanted, "model", "pytorch_model.bin")
    if config.get("model_type", model_type) != model_type:
        kind = named(config["model_type"])
        raise CheckpointError(
            f"{source} is not {wanted.what} but a {kind} model; give {wanted.option} {wanted.advice}."
        )
    return folder, config, weights


def _contents(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Contents of those of the files that are there."""
    there = [name for name in names if (folder / name).is_file()]
    for name in there:
        if name.endswith(".json") and name not in VOCABULARY_FILES:  # which may be long
            read_json_file(folder / name)
    return {name: read_small(folder / name) for name in there}


def _require(source: str, wanted: Wanted, files: Mapping[str, bytes], names: Iterable[str]) -> None:
    if not files.keys() & set(names):
        raise CheckpointError(f"{source} is not {wanted.what}: it has no {' or '.join(names)}; add it.")
