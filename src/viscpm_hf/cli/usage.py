"""What is said of a command line that means nothing: what was got, what was wanted, and which page tells more."""

import os
from collections.abc import Sequence

import typer

_WANTED = {  # what pydantic calls a mistake
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller number",
    "float_parsing": "a number",
    "bool_parsing": "true or false",
    "finite_number": "a finite number",
}
_PATHS = ("DIR", "DIR_OR_REPO", "FILE", "JSON", "PNG", "TXT")  # metavars
_NAMES = (*_PATHS, "REPO_ID")


def check_names(command) -> None:
    """Makes every name of a command and of all below it be one: none is empty, and `~` in a path is the home folder.

    Args:
        command: as typer makes it of an app.
    """
    for option in command.params:
        if option.metavar in _NAMES:
            option.process_value = _name_reader(option, option.process_value)
    for each in getattr(command, "commands", {}).values():
        check_names(each)


def _name_reader(option, process):
    def read(context, value):
        if isinstance(value, str):
            if not value.strip():  # as of a variable that is not set; a path would mean the current folder
                raise typer.BadParameter(f"Got {value!r}, expected a name.", ctx=context, param=option)
            if option.metavar in _PATHS:
                value = os.path.expanduser(value)
        return process(context, value)

    return read


def sentence(error: typer.TyperException, command, arguments: Sequence[str]) -> str:
    """One sentence.

    Args:
        error: what typer says.
        command: the root of the command line, as typer makes it.
        arguments: of the command line.
    """
    page = "viscpm"
    for word in arguments:
        if word not in getattr(command, "commands", {}):
            break
        page, command = f"{page} {word}", command.commands[word]
    else:
        word = None
    return f"{_what_is_wrong(error, command, word)}; see `{page} --help`."


def _what_is_wrong(error, command, word) -> str:
    message = error.format_message().strip().rstrip(".")
    verbs = ", ".join(getattr(command, "commands", {}))
    if verbs and (word is None or not word.startswith("-")):
        got = "Got no verb" if word is None else f"Got {_short(word)} as a verb"
        return f"{got}, expected one of {verbs}"
    option = getattr(error, "param", None)
    if option is None:
        return message
    name = max(option.opts, key=len) if option.param_type_name == "option" else option.metavar or option.name
    for mistake in getattr(error.__cause__, "errors", list)():
        got, context = mistake["input"], mistake.get("ctx", {})
        choices = str(context.get("error", "")).partition(" is not one of ")[2].rstrip(".")
        wanted = _WANTED.get(mistake["type"], mistake["msg"].replace("Input should be", "a number"))
        return f"Got {_short(got)} as {name}, expected {f'one of {choices}' if choices else wanted}"
    if error.message.startswith("Got "):  # of our own parsers
        return error.message.replace(", expected", f" as {name}, expected", 1).rstrip(".")
    return f"{name} is missing" if message.startswith("Missing") else message


def _short(got) -> str:
    text = repr(got)
    return text if len(text) < 100 else f"{text[:50]} … {text[-40:]}"
