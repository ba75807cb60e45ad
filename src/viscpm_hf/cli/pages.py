"""How the pages of `--help` look: what is needed comes first, flags have no type, and Chinese where typer lets us."""

import re

import typer

from ..language import is_chinese, say

# others follow
_ORDER = "chat paint serve demo batch finetune merge evaluate convert verify export refresh push fit quantize".split()
_CHINESE_TITLES = {
    "ARGUMENTS_PANEL_TITLE": "参数",
    "OPTIONS_PANEL_TITLE": "选项",
    "COMMANDS_PANEL_TITLE": "命令",
    "DEFAULT_STRING": "[默认：{}]",
    "REQUIRED_LONG_STRING": "[必填]",
}
_OWN_OPTIONS = {  # of typer
    "help": ("show this page", "显示本页"),
    "install_completion": ("install completion for this shell", "为当前 shell 安装命令补全"),
    "show_completion": ("print completion for this shell", "打印当前 shell 的补全脚本"),
}


def tidy(command) -> None:
    """Tidies the help of a command and of all below it.

    Args:
        command: as typer makes it of an app.
    """
    if is_chinese():
        from typer import rich_utils

        for name, text in _CHINESE_TITLES.items():
            setattr(rich_utils, name, text)
    _tidy(command)


def _tidy(command) -> None:
    command.help = _breakable(command.help)
    command.params.sort(key=lambda option: not option.required)
    for option in command.get_params(typer.Context(command, help_option_names=["-h", "--help"])):
        if getattr(option, "is_flag", False):
            option.metavar = ""
        option.min = option.max = None  # only what is printed of a range, which takes the room of the text
        if option.name in _OWN_OPTIONS:
            option.help = say(*_OWN_OPTIONS[option.name])
        option.help = _breakable(option.help)
    if commands := getattr(command, "commands", None):
        command.commands = dict(sorted(commands.items(), key=lambda item: (*_ORDER, item[0]).index(item[0])))
        for each in commands.values():
            _tidy(each)


def _breakable(text: str | None) -> str | None:
    """A long text with spaces behind Chinese punctuation: rich cuts off what has none and is longer than a line."""
    if not text or max(map(len, text.split())) < 15:
        return text
    return re.sub(r"([，。；：、])(?=\S)", r"\1 ", text)
