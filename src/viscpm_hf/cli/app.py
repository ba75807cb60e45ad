"""The root of the command line."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from .. import __version__
from ..language import say
from . import batch, chat, convert, demo, evaluate, finetune, memory, merge, paint, refresh, repositories, serve
from .pages import tidy
from .program import complain, fill_standard_files, guarded_output, run_script
from .usage import check_names, sentence


def _print_version(asked: bool) -> None:
    if asked:
        print(f"viscpm-hf {__version__}")
        raise typer.Exit()


app = typer.Typer(
    help=say("VisCPM on today's transformers and diffusers.", "在当前的 transformers 和 diffusers 上使用 VisCPM。"),
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help=say("print the version", "打印版本号")),
    ] = False,
) -> None:
    pass


for group in (convert, repositories, refresh, memory, chat, paint, serve, demo, batch, finetune, merge, evaluate):
    group.add_to(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: of the command line, without the program's name; default: those of this process.

    Returns:
        The exit code: 0, 1 after an error, 2 for a command line that means nothing, 130 after Ctrl-C.
    """
    if arguments is None:  # a process of its own: torch, not yet imported, takes huge pages for large tensors where
        # Linux has them, so that weights are read a sixth faster and new memory costs less
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    fill_standard_files()
    command = typer.main.get_command(app)
    tidy(command)
    check_names(command)
    completing = bool(os.environ.get("_VISCPM_COMPLETE"))
    for option in command.params:
        if option.name in ("install_completion", "show_completion") and arguments[:1] == option.opts[:1]:
            completing = True
            if option.is_flag and arguments[1:]:  # typer would install for the shell it runs in, whatever is named
                return complain(
                    f"Got {arguments[1]!r} after {arguments[0]}, expected nothing: it is for the shell that runs it.",
                    2,
                )
    with guarded_output() as output:
        try:
            done = command.main(arguments, prog_name="viscpm", standalone_mode=False)
        except typer.TyperException as error:
            return complain(sentence(error, command, arguments), 2)
        except SystemExit as ending:  # of completion
            done = ending.code
        except Exception as error:
            if not completing:
                raise
            return complain(f"Shell completion did not work ({type(error).__name__}: {error}).", 1)
    return run_script(done) if callable(done) else output.exit_code(done or 0)
