"""How the pages of `--help` look: what is needed comes first, flags have no type, and Chinese where typer lets us."""

import typer

from ..language import is_chinese, say

_CHINESE_TITLES = {
    "ARGUMENTS_PANEL_TITLE": "参数",
    "OPTIONS_PANEL_TITLE": "选项",
    "COMMANDS_PANEL_TITLE": "命令",
    "DEFAULT_STRING": "[默认：{}]",
    "REQUIRED_LONG_STRING": "[必填]",
}
_OWN_OPTIONS = {  # of typer
    "help": ("Show this page.", "显示本页。"),
    "install_completion": ("Install completion for this shell.", "为当前 shell 安装命令补全。"),
    "show_completion": ("Print the completion for this shell.", "打印当前 shell 的补全脚本。"),
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
    command.params.sort(key=lambda option: not option.required)
    command.get_help_option(typer.Context(command, help_option_names=["-h", "--help"]))  # is made then
    for option in command.get_params(typer.Context(command, help_option_names=["-h", "--help"])):
        if getattr(option, "is_flag", False):
            option.metavar = ""
        if option.name in _OWN_OPTIONS:
            option.help = say(*_OWN_OPTIONS[option.name])
    for each in getattr(command, "commands", {}).values():
        _tidy(each)
