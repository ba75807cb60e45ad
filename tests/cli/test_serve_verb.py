"""Guards `viscpm serve` before it serves: which models are meant, and one sentence for what is wrong, at once."""

import os
import re
import signal
import socket
from configparser import ConfigParser
from pathlib import Path

import pytest

from viscpm_hf.cli import engines, main, serve
from viscpm_hf.tiny import tiny_chat_repo, tiny_paint_repo


@pytest.fixture
def run(capsys):
    """Exit code and errors of a command line that is wrong."""

    def run(*arguments):
        capsys.readouterr()
        code = main(["serve", "--port", "0", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert out == ""
        return code, err

    return run


@pytest.fixture(autouse=True)
def load(monkeypatch):
    """What loads models, which is not to happen here."""
    load = serve.load_engine

    def refuse(*arguments):
        raise AssertionError(f"it loads {arguments}")

    monkeypatch.setattr(serve, "load_engine", refuse)
    return load


@pytest.mark.parametrize(
    ("arguments", "chat", "paint"),
    [
        ("", "tiny", "tiny"),
        ("--chat DIR", "DIR", "tiny"),
        ("--paint DIR", "tiny", "DIR"),
        ("--chat none", "none", "tiny"),
        ("--paint none", "tiny", "none"),
        ("--chat none --paint DIR", "none", "DIR"),
        ("--chat tiny", "tiny", "tiny"),
    ],
)
def test_which_models_are_meant(monkeypatch, arguments, chat, paint):
    """Each option has its own default."""
    monkeypatch.setattr(serve, "_serve", lambda models, *_: lambda: print(models) or int(models != wanted))
    wanted = {"chat": chat, "paint": paint}
    assert main(["serve", *arguments.split()]) == 0


@pytest.mark.parametrize(
    ("arguments", "wanted"), [("", 8), ("--memory 5GB", 1), ("--memory 5GB --max-batch 3", 3), ("--max-batch 2", 2)]
)
def test_a_budget_is_for_one_request_at_a_time(monkeypatch, arguments, wanted):
    """What a plan counts is one; who knows better may say so."""
    found = []
    monkeypatch.setattr(serve, "_serve", lambda *options: lambda: found.append(options[5]["max_batch"]))
    assert main(["serve", *arguments.split()]) == 0 and found == [wanted]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--chat", "none", "--paint", "none"], "leaves nothing to serve"),
        (["--port", "65536"], "'65536' as --port"),
        (["--port", "http"], "'http' as --port, expected a whole number"),
        (["--max-batch", "0"], "'0' as --max-batch"),
        (["--max-queue", "0"], "'0' as --max-queue"),
        *(
            (["--timeout", value], f"{value!r} as --timeout, expected seconds")
            for value in ("0", "-1", "nan", "inf", "x")
        ),
        *((["--max-pixels", value], f"{value!r} as --max-pixels") for value in ("0", "1.5", "nan", "40e60", "many")),
        *((["--cors", value], f"{value!r} as --cors") for value in ("example.org", "https://a.b/c", "")),
        (["--chat", " "], "Got ' '"),
        (["--dtype", "int8"], "--dtype"),
    ],
)
def test_a_wrong_option_is_one_sentence(run, arguments, said):
    code, err = run(*arguments)
    assert code == 2 and err.count("\n") == 1 and said in err and "viscpm serve --help" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "no.such.invalid"], "'no.such.invalid' as --host"),
        (["--host", ""], "'' as --host"),
        (["--host", "http://127.0.0.1"], "as --host"),
        (["--host", "x" * 300], "as --host"),
        (["--host", "203.0.113.7"], "no address of this machine"),
        (["--api-key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY is not set or empty"),
        (["--api-key-env", "EMPTY"], "EMPTY is not set or empty"),
        (["--api-key-env", "ODD"], "The key in ODD has a space"),
        (["--chat", "/no/such"], "/no/such does not exist"),
        (["--chat", __file__], "is a file, expected a converted folder"),
        (["--paint", os.path.dirname(__file__)], "has no model_index.json"),
        (["--chat", "tiny", "--paint", os.path.dirname(__file__)], "has no model_index.json"),
    ],
)
def test_what_cannot_be_served_is_said_before_a_model_is_loaded(run, monkeypatch, arguments, said):
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("ODD", "secret\n")
    code, err = run(*arguments)
    assert code == 1 and err.count("\n") == 1 and err.startswith("error: ") and said in err and "secret" not in err


def test_a_port_in_use_is_said(run):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, err = run("--port", port)
    assert code == 1
    assert err == f"error: Port {port} of 127.0.0.1 is in use: stop what uses it, or give another --port.\n"


def test_two_models_of_one_name_are_refused(run, tmp_path):
    for kind, file in (("chat", "config.json"), ("paint", "model_index.json")):
        (tmp_path / kind / "model").mkdir(parents=True)
        (tmp_path / kind / "model" / file).write_text("{}")
    code, err = run("--chat", tmp_path / "chat" / "model", "--paint", tmp_path / "paint" / "model")
    assert code == 1 and "both be called 'model'" in err


def test_missing_libraries_come_with_the_command_that_installs_them(run, monkeypatch):
    """Not with the extra's name: no index has this package. The versions are those of setup.cfg."""
    monkeypatch.setattr(engines, "find_spec", lambda name: None if name in ("fastapi", "uvicorn") else True)
    code, err = run()
    assert code == 1 and err.count("\n") == 1 and "not here (fastapi, uvicorn): pip install " in err
    config = ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg")
    wanted = config["options.extras_require"]["serve"].split()
    assert sorted(re.findall('"(.+?)"', err)) == sorted(wanted)


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)])
def test_other_machines_without_a_key_are_warned_of(monkeypatch, capsys, host, warned):
    monkeypatch.setattr(serve, "load_engine", lambda *arguments: None)
    monkeypatch.setattr(serve, "_run", lambda *arguments: 0)
    monkeypatch.setenv("KEY", "s3cret")
    arguments = ["serve", "--port", "0", "--host", host]
    assert main(arguments) == 0
    assert ("warning: whoever reaches" in capsys.readouterr().err) == warned
    assert main([*arguments, "--api-key-env", "KEY"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_while_it_loads_ends_it(monkeypatch, number, code):
    """With the same codes as later; what stops services takes another than 0 for a failure."""
    monkeypatch.setattr(serve, "load_engine", lambda *arguments: signal.raise_signal(number))
    assert main(["serve", "--port", "0"]) == code


def test_what_is_not_checked_is_said(load, monkeypatch, capsys):
    """Of models that somebody converted; names are those of the folders."""
    chat, paint = tiny_chat_repo(), tiny_paint_repo()
    capsys.readouterr()
    engines = []
    monkeypatch.setattr(serve, "load_engine", lambda *arguments: engines.append(load(*arguments)) or engines[0])
    monkeypatch.setattr(serve, "_run", lambda *arguments: 0)
    assert main(["serve", "--port", "0", "--chat", str(chat), "--paint", str(paint), "--max-batch", "3"]) == 0
    engines[0].close()
    assert engines[0].max_batch == 3
    assert capsys.readouterr().err.splitlines() == [
        f"warning: {chat.name} has no safety checker for pictures, which are not checked.",
        f"warning: {paint.name} has no safety checker for pictures, which are not checked.",
        f"warning: {paint.name} has no safety checker for prompts, which are not checked.",
    ]
