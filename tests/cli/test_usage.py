"""Guards what is said of a command line that means nothing: one line with got, wanted and the page to read, code 2."""

from itertools import chain
from typing import Annotated

import pytest
import typer

from viscpm_hf.cli import main
from viscpm_hf.cli.usage import sentence

FIT = ["fit", "--model", "x"]
QUANTIZE = ["quantize", "--model", "x", "--prompts", "y", "--output", "z"]


def refused(capsys, arguments):
    """The sentence without its beginning and its end, and the page that it sends to."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.endswith(" --help`.\n") and err[:-1].isprintable()
    assert "Value error" not in err and len(err) < 400
    return err.removeprefix("error: ").removesuffix(" --help`.\n").split("; see `")


@pytest.mark.parametrize(
    ("arguments", "said", "page"),
    [
        ([], "Got no verb, expected one of ", "viscpm"),
        (["fly"], "Got 'fly' as a verb, expected one of ", "viscpm"),
        (["convert"], "Got no verb, expected one of chat, paint, cpmbee", "viscpm convert"),
        (["convert", "fly"], "Got 'fly' as a verb, expected one of chat, paint, cpmbee", "viscpm convert"),
        (["--fly"], "No such option: --fly", "viscpm"),
        (["fit"], "--model is missing", "viscpm fit"),
        (["fit", "--model", ""], "Got '' as --model, expected a name", "viscpm fit"),
        ([*FIT, "--plot", ""], "Got '' as --plot, expected a name", "viscpm fit"),
        (["chat", "--image", ""], "Got '' as --image, expected a name", "viscpm chat"),
        (["push", "x"], "REPO_ID is missing", "viscpm push"),
        (["push", "x", "y", "z"], "Got unexpected extra argument(s) (z)", "viscpm push"),
        (["push", "x", "y", "--private=z"], "Option '--private' does not take a value", "viscpm push"),
        ([*FIT, "--device"], "Option '--device' requires an argument", "viscpm fit"),
        ([*FIT, "--device", "abacus"], "Got 'abacus' as --device, expected one of 'cuda', 'cpu'", "viscpm fit"),
        ([*FIT, "--device", "a" * 10**6], f"Got '{'a' * 49} … ", "viscpm fit"),
        ([*FIT, "--dtype", "\x1b[2J\n\udcff"], r"Got '\x1b[2J\n\udcff' as --dtype", "viscpm fit"),
        ([*FIT, "\x1b[2J\n\u202e\udcff"], "Got unexpected extra argument(s) (", "viscpm fit"),
        ([*FIT, "--\x1b[2J\n\u202e\udcff"], "No such option: --", "viscpm fit"),
        (["\x1b[2J\n\u202e\udcff"], r"Got '\x1b[2J\n\u202e\udcff' as a verb", "viscpm"),
        ([*QUANTIZE, "--samples", "abc"], "Got 'abc' as --samples, expected a whole number", "viscpm quantize"),
        ([*QUANTIZE, "--samples", "1.5"], "Got '1.5' as --samples, expected a whole number", "viscpm quantize"),
        ([*QUANTIZE, "--samples", "nan"], "Got 'nan' as --samples, expected a whole number", "viscpm quantize"),
        ([*QUANTIZE, "--samples", ""], "Got '' as --samples, expected a whole number", "viscpm quantize"),
        ([*QUANTIZE, "--samples", "9" * 5000], "Got '9999", "viscpm quantize"),
        (["paint", "x", "--size", "3x"], "Got '3x' as --size, expected width and height", "viscpm paint"),
        (["paint", "x", "--steps", "0"], "Got '0' as --steps, expected a number greater than or", "viscpm paint"),
        # argparse took beginnings of options, which then mean something else once there is another option
        (["convert", "chat", "--check", "x"], "No such option: --check (Possible options: --checkpoint", None),
    ],
)
def test_a_command_line_without_meaning_is_one_sentence(capsys, arguments, said, page):
    sentence, sent_to = refused(capsys, arguments)
    assert sentence.startswith(said) and page in (sent_to, None)


CONVERTED = {"--checkpoint": "x", "--vocab": "x", "--sd-base": "x", "--output": "x"}


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["refresh", ""], "DIR_OR_REPO"),
        (["push", "", "a/b"], "DIR"),
        (["push", "x", ""], "REPO_ID"),
        (["verify", "--checkpoint", "x", "--repo", ""], "--repo"),
        (["export", "--checkpoint", "", "--repo", "x"], "--checkpoint"),
        *(
            (["convert", "paint", *chain(*(CONVERTED | {name: ""}).items())], name)
            for name in (*CONVERTED, "--llm-config", "--unet-config", "--safety-checker", "--ranker", "--push-to-hub")
        ),
    ],
)
def test_an_empty_path_is_not_the_current_folder(capsys, arguments, name):
    """As of a variable of the shell that is not set."""
    assert refused(capsys, arguments)[0] == f"Got '' as {name}, expected a name"


def test_of_an_option_given_twice_the_last_counts(chat_repo, capsys):
    """As in the scripts, so that a command can be repeated with something changed at its end."""
    assert main(["fit", "--model", "nowhere", "--model", str(chat_repo), "--device", "cuda", "--device", "cpu"]) == 0
    assert "all in RAM" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("0", "a number greater than or equal to 1"), ("nan", "a number less than or equal to 9"), ("x", "a number")],
)
def test_a_number_out_of_its_range_is_one_sentence(given, wanted):
    app = typer.Typer()

    @app.command()
    def verb(scale: Annotated[float, typer.Option(min=1, max=9)]):
        pass

    command = typer.main.get_command(app)
    with pytest.raises(typer.BadParameter) as error:
        command.main(["--scale", given], standalone_mode=False)
    assert sentence(error.value, command, []).startswith(f"Got '{given}' as --scale, expected {wanted}; see ")
