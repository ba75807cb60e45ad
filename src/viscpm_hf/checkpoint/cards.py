"""Model cards: templates filled from what a repository says of itself."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template

from . import repo
from .errors import printable
from .files.json_file import read_json_file
from .layout.keys import CHAT, PAINT, PLAIN_CPMBEE

HERE = Path(__file__).parent  # of the templates
CARDS = {CHAT.model_type: "viscpm_chat.md", PAINT.model_type: "viscpm_paint.md", PLAIN_CPMBEE.model_type: "cpmbee.md"}
NAMELESS = "path/or/name/of/this/repository"  # stands in snippets until a repository has a name
_NAME = re.compile(r'^(repo = ")([^"]*)"$', re.M)
_RELATION = re.compile(rb"^base_model_relation: .*\n", re.M)


def write_card(folder: Path, template: str, **fields: str) -> None:
    """README.md from one of the templates."""
    (folder / repo.CARD).write_bytes(card_text((HERE / template).read_text(encoding="utf-8"), **fields))


def card_text(template: str, **fields: str) -> bytes:
    """A model card; the fields may be names of files, of which anything can be part."""
    fields = {key: printable(" ".join(value.replace("`", "'").split())) for key, value in fields.items()}
    return repo.encoded(Template(template).substitute({"repo": NAMELESS, **fields}))


def named(card: bytes, name: str) -> bytes:
    """A card whose snippets load the repository by this name."""
    return repo.encoded(_NAME.sub(lambda line: f'{line[1]}{name}"', card.decode("utf-8", "replace")))


def related(card: bytes, relation: str) -> bytes:
    """A card that says what its model is to the base model: `quantized`, `finetune` or `adapter`."""
    text = card.decode("utf-8", "replace")
    line = rf"\g<0>\nbase_model_relation: {relation}"
    return repo.encoded(re.sub(r"^base_model: .*$", line, text, count=1, flags=re.M))


def name_in(card: bytes) -> str:
    """The name by which a card's snippets load the repository."""
    found = _NAME.search(card.decode("utf-8", "replace"))
    return found[2] if found else NAMELESS


def converted_cards(folder: Path, kind: str, report: Mapping) -> list[bytes]:
    """What the card of a converted repository is by this version, and then by those that wrote no digest of it.

    Args:
        folder: of the repository.
        kind: its model type.
        report: what its conversion.json holds.
    """
    main = folder / "text_encoder" if kind == PAINT.model_type else folder
    config = read_json_file(main / "config.json")
    family = PAINT.name if kind == PAINT.model_type else CHAT.name  # CPM-Bee's card asks for none
    fields = {
        "name": " ".join(filter(None, (family, _word(report, "variant")))),
        "dtype": _word(config, "dtype") or _word(config, "torch_dtype") or "several types",
        "source": _word(report.get("source"), "file") or "the original",
        "base": _word(report.get("ready_made"), "vae") or "Stable Diffusion 2.1",
    }
    # in old_cards/ the templates of those versions, where they are others
    templates = [HERE / CARDS[kind], *(HERE / "old_cards").glob(f"*{CARDS[kind]}")]
    return [card_text(template.read_text(encoding="utf-8"), **fields) for template in templates]


def added_to(found: bytes, report: Mapping, own: list[bytes]) -> bytes | None:
    """What was added at the end of a card that was written here, None if it was edited otherwise.

    Args:
        found: the card.
        report: of the conversion, which has the digest of what it wrote.
        own: what it may have written besides.
    """
    found = _RELATION.sub(b"", named(found, NAMELESS), 1)
    for beginning in _beginnings(found):
        if repo.digest(beginning) == report.get("card") or beginning in own:
            return found[len(beginning) :]
    return None


def _beginnings(card: bytes) -> Iterator[bytes]:
    """All of it, then what is before each of its headings, the longest first."""
    yield card
    for heading in reversed(list(re.finditer(rb"^\n?## ", card, re.M))):
        yield card[: heading.start()]


def _word(section, key: str) -> str | None:
    value = section.get(key) if isinstance(section, dict) else None
    return value if isinstance(value, str) else None
