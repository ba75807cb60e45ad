"""LLaVA-QA90: questions about pictures of COCO, the reference's answers, and what the judge is told, as published."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..checkpoint.errors import CheckpointError, first_line, listed
from ..checkpoint.files.disk import open_regular
from ..checkpoint.files.json_file import named, quoted, read_json_file
from .runs import read_lines

PREFIX = "COCO_val2014_"  # of the pictures' names in COCO, which the questions leave out


@dataclass(frozen=True)
class Question:
    """A question about a picture.

    Args:
        question_id (`int` or `str`): tells it apart.
        image (`str`): the picture's file name.
        text (`str`): what is asked.
        category (`str`): `conv`, `detail` or `complex` in QA90.
    """

    question_id: int | str
    image: str
    text: str
    category: str


@dataclass(frozen=True)
class Material:
    """What the judge is given beside question and answer.

    Args:
        references (`dict`): question id → the text-only GPT-4's answer.
        contexts (`dict`): picture → its captions and boxes, in words.
        rules (`dict`): category → `role` and `prompt`.
    """

    references: dict[int | str, str]
    contexts: dict[str, str]
    rules: dict[str, dict[str, str]]


def read_questions(path: str | Path) -> list[Question]:
    """The questions of a file in LLaVA's format.

    Raises:
        CheckpointError: it is none.
    """
    questions = []
    for number, row in enumerate(read_lines(path), 1):
        question_id = row.get("question_id")
        if type(question_id) not in (int, str):
            raise CheckpointError(
                f"{path}, row {number}, has question_id={quoted(question_id)}, expected a number or a text."
            )
        values = [_text(row, name, f"{path}, question {named(str(question_id))},") for name in ("image", "text")]
        questions.append(Question(question_id, *values, str(row.get("category", "all"))))
    if not questions:
        raise CheckpointError(f"{path} holds no question.")
    if len({question.question_id for question in questions}) < len(questions):
        raise CheckpointError(f"{path} has a question_id twice.")
    return questions


def find_pictures(questions: Sequence[Question], folder: Path) -> dict[str, Path]:
    """Where each picture is, looked at once, so that hours of answering do not end at the last one.

    Args:
        questions: which name them.
        folder: of COCO's val2014; with or without its prefix.

    Returns:
        `dict[str, Path]`: the name in the questions → the file.

    Raises:
        CheckpointError: some are not there, or cannot be read.
    """
    found, missing = {}, []
    for name in dict.fromkeys(question.image for question in questions):
        if Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).name:
            raise CheckpointError(f"Got {quoted(name)} as a picture's name, expected one inside the folder.")
        path = Path(name)
        paths = [folder / path, folder / path.with_name(PREFIX + path.name)]
        paths.append(folder / path.with_name(path.name.removeprefix(PREFIX)))
        place = next((each for each in paths if each.is_file()), None)
        if place is None:
            missing.append(name)
            continue
        try:
            with open_regular(place) as file, Image.open(file) as picture:
                picture.load()
        except Exception as error:  # each format fails in its own way
            raise CheckpointError(f"{place} is not a picture that can be read ({first_line(error)}).") from error
        found[name] = place
    if missing:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of {len(missing) + len(found)} pictures ({listed(missing, 3)}): give the "
            "folder of COCO's val2014 as --images."
        )
    return found


def read_material(
    questions: Sequence[Question], references: str | Path, contexts: str | Path, rules: str | Path
) -> Material:
    """What the judge needs for all questions.

    Raises:
        CheckpointError: something is missing or of another form.
    """
    answers, pictures = _rows_by("question_id", references), _rows_by("image", contexts)
    rule_of = read_json_file(rules)
    for what, wanted, there in (
        (f"{references} lacks the answer to question", [q.question_id for q in questions], answers),
        (f"{contexts} lacks the picture", [q.image for q in questions], pictures),
        (f"{rules} lacks the category", [q.category for q in questions], rule_of),
    ):
        missing = [each for each in dict.fromkeys(wanted) if each not in there]
        if missing:
            raise CheckpointError(f"{what} {listed(missing, 5)}; give the files that belong to the questions.")
    of_rules = {}
    for category in dict.fromkeys(question.category for question in questions):
        rule = rule_of[category] if isinstance(rule_of[category], dict) else {}
        of_rules[category] = {name: _text(rule, name, f"{rules}, {category},") for name in ("role", "prompt")}
    return Material(
        {q.question_id: _text(answers[q.question_id], "text", f"{references}, {q.question_id},") for q in questions},
        {q.image: _context(pictures[q.image], f"{contexts}, {q.image},") for q in questions},
        of_rules,
    )


def _rows_by(key, path):
    """Rows of a file by a field that tells them apart."""
    found = {}
    for row in read_lines(path):
        value = row.get(key)
        if not isinstance(value, str | int):
            raise CheckpointError(f"{path} has {quoted(value)} as {key}, expected a text or a number.")
        if value in found and found[value] != row:
            raise CheckpointError(f"{path} has {key} {quoted(value)} twice, with different contents; leave one.")
        found[value] = row
    return found


def judging_prompt(question: Question, answer: str, material: Material) -> str:
    """What the judge is asked, in LLaVA's published form: the reference answers first, the model second."""
    rule = material.rules[question.category]
    role = rule["role"]
    return (
        f"[Context]\n{material.contexts[question.image]}\n\n"
        f"[Question]\n{question.text}\n\n"
        f"[{role} 1]\n{material.references[question.question_id]}\n\n[End of {role} 1]\n\n"
        f"[{role} 2]\n{answer}\n\n[End of {role} 2]\n\n"
        f"[System]\n{rule['prompt']}\n\n"
    )


def _context(row: dict[str, Any], what: str) -> str:
    captions, boxes = row.get("captions"), row.get("instances")
    captions = [captions] if isinstance(captions, str) else captions
    if not isinstance(captions, list) or not all(isinstance(each, str) for each in captions):
        raise CheckpointError(f"{what} has captions={quoted(captions)}, expected a list of texts.")
    boxes = boxes if isinstance(boxes, list) else [None]
    if not all(isinstance(each, dict) and {"category", "bbox"} <= each.keys() for each in boxes):
        raise CheckpointError(
            f"{what} has instances={quoted(row.get('instances'))}, expected a list with category and bbox."
        )
    lines = [f"{box['category']}: {box['bbox']}" for box in boxes]
    return "\n".join(captions) + "\n\n" + "\n".join(lines)


def _text(row: dict[str, Any], name: str, what: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise CheckpointError(f"{what} has {name}={quoted(value)}, expected a text.")
    return value
