"""Ready-made parts of a repository, which do not come out of the checkpoint: checkers and ranker."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .errors import CheckpointError
from .hub import Wanted, fetch
from .safetensors_file import load_json, read_weights
from .source import open_checkpoint
from .stored import StoredTensor

VOCABULARY_FILES = ("vocab.txt", "tokenizer.json")
TOKENIZER_FILES = (*VOCABULARY_FILES, "added_tokens.json", "special_tokens_map.json", "tokenizer_config.json")
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


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
    for weights in ((f"{stem}.safetensors", f"{stem}-*-of-*.safetensors"), (old,)):
        patterns = [inside + name for name in ("*.json", "*.txt", *weights)]
        folder = fetch(source, wanted, patterns) / inside
        config = folder / "config.json"
        if config.is_file() and any(any(folder.glob(name)) for name in weights):
            tensors = open_checkpoint(folder / old) if weights == (old,) else read_weights(folder, stem)
            return folder, load_json(config.read_bytes(), str(config)), tensors
    raise CheckpointError(
        f"{source} is not {wanted.what}: expected {inside}config.json and beside it {stem}.safetensors or {old}; give "
        f"{wanted.option} {wanted.advice}."
    )


def _model(source: str, wanted: Wanted, model_type: str) -> tuple[Path, dict, dict]:
    """A model of transformers; arguments and result as for `located`."""
    folder, config, weights = located(source, wanted, "model", "pytorch_model.bin")
    if config.get("model_type", model_type) != model_type:
        raise CheckpointError(
            f"{source} is not {wanted.what} but a {config['model_type']} model; give {wanted.option} {wanted.advice}."
        )
    return folder, config, weights


def _contents(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Contents of those of the files that are there."""
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


def _require(source: str, wanted: Wanted, files: Mapping[str, bytes], names: Iterable[str]) -> None:
    if not files.keys() & set(names):
        raise CheckpointError(f"{source} is not {wanted.what}: it has no {' or '.join(names)}; add it.")
