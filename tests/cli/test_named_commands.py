"""Guards the commands that messages, docstrings and model cards name: all exist where only the package is."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer

import viscpm_hf
from viscpm_hf.checkpoint.layout.keys import CHAT, PAINT, PLAIN_CPMBEE
from viscpm_hf.checkpoint.repo import check_is_converted
from viscpm_hf.cli.app import app

PACKAGE = Path(viscpm_hf.__file__).parent
VALUE = "VALUE"  # stands for what a message fills in


def texts(path):
    """The strings of a file, each with its line; the names of what an f-string fills in are replaced."""
    if path.suffix == ".md":
        yield 1, path.read_text(encoding="utf-8")
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(getattr(part, "value", None) or VALUE for part in _parts(node))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


def _parts(node):
    return [part if isinstance(part, ast.Constant) else ast.Constant(VALUE) for part in node.values]


TEXTS = [
    (f"{path.relative_to(PACKAGE)}:{line}", text)
    for path in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.md")])
    for line, text in texts(path)
]
COMMANDS = sorted(
    {(command, place) for place, text in TEXTS for command in re.findall(r"(?s)`(viscpm\s[^`]+)`", text)}
)


def parses(words):
    """Whether the command line reads these words of a command, the program's name left out; nothing is run."""
    command = typer.main.get_command(app)
    rest = list(words)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    if getattr(command, "commands", None) is not None:  # a group that is spoken of, or no verb
        return not rest or rest == ["--help"]
    if not rest:  # a verb that is spoken of
        return True
    done = typer.main.get_command(app).main(list(words), prog_name="viscpm", standalone_mode=False)
    return callable(done) or done == 0  # of an option like --help, which is all that is done


@pytest.mark.parametrize(("command", "place"), COMMANDS)
def test_every_command_exists(command, place):
    words = shlex.split(command)[1:]
    alternatives = [words]
    for index, word in enumerate(words):  # `viscpm convert chat|paint`
        if "|" in word:
            alternatives = [[*words[:index], each, *words[index + 1 :]] for each in word.split("|")]
        elif word == VALUE and words[index - 1] == "convert":  # the messages' own tests give the verb
            alternatives = [words[:index]]
    assert all(map(parses, alternatives)), f"{place} names `{command}`"


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 8


@pytest.mark.parametrize("name", ["conversion/", "convert_chat.py", "push_to_hub.py", "viscpm-hf[", "viscpm_hf["])
def test_no_message_needs_the_checkout_or_an_index(name):
    """conversion/ is in no wheel, and the package on no index."""
    assert not [place for place, text in TEXTS if name in text]


@pytest.mark.parametrize("family", [CHAT, PAINT, PLAIN_CPMBEE], ids=lambda family: family.name)
def test_every_family_has_its_verb(family):
    assert parses(["convert", family.verb]) and family.verb in typer.main.get_command(app).commands["convert"].commands


@pytest.mark.parametrize(("name", "verb"), [("VisCPM-Chat", "chat"), ("VisCPM-Paint", "paint --sd-base SD_BASE")])
def test_what_converts_can_be_typed_as_it_is_said(tmp_path, name, verb):
    (tmp_path / "a.bin").touch()
    for path in (tmp_path, tmp_path / "a.bin"):
        with pytest.raises(ValueError) as error:
            check_is_converted(path, name, verb, "config.json")
        assert parses(shlex.split(re.search("`viscpm ([^`]+)`", str(error.value))[1]))
