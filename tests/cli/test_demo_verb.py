"""Guards `viscpm demo` and `viscpm serve --ui`: which pages are meant, what is missing, and that they open."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from configparser import ConfigParser
from importlib.util import find_spec
from pathlib import Path

import pytest

from viscpm_hf.cli import demo, engines, main, serve

LACKS_GRADIO = find_spec("gradio") is None


@pytest.mark.parametrize(
    ("arguments", "chat", "paint"),
    [
        ("", "tiny", "tiny"),
        ("chat", "tiny", "none"),
        ("paint --paint DIR --chat DIR2", "none", "DIR"),
        ("--chat DIR", "DIR", "tiny"),
    ],
)
def test_which_models_are_meant(monkeypatch, arguments, chat, paint):
    found = []
    monkeypatch.setattr(demo, "_demo", lambda models, *_: lambda: found.append(models))
    assert main(["demo", *arguments.split()]) == 0 and found == [{"chat": chat, "paint": paint}]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["chat", "--chat", "none"], 2, "leaves nothing to show"),
        (["sing"], 2, "sing"),
        (["--lang", "fr"], 2, "fr"),
        (["--password-env", "NO_SUCH_VARIABLE"], 1, "not set or empty"),
    ],
)
def test_what_is_wrong_is_one_sentence(monkeypatch, capsys, arguments, code, said):
    monkeypatch.setattr(engines, "find_spec", lambda name: True)
    assert main(["demo", *arguments]) == code
    assert said in (err := capsys.readouterr().err) and err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["demo"], ["serve", "--ui", "--port", "0"]])
def test_without_gradio_a_command_is_named(monkeypatch, capsys, arguments):
    monkeypatch.setattr(engines, "find_spec", lambda name: None if name == "gradio" else True)
    assert main(arguments) == 1
    assert '(gradio): pip install "fastapi' in (err := capsys.readouterr().err) and '"gradio>=' in err


def test_the_extra_is_what_is_asked_for():
    config = ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg", encoding="utf-8")
    extra = config["options.extras_require"]["demo"].split()
    assert extra == ["viscpm-hf[serve]", *serve.GRADIO.values()]


@pytest.mark.skipif(LACKS_GRADIO, reason="the pages need the extra demo")
@pytest.mark.parametrize(
    "arguments",
    [["demo", "chat", "--lang", "zh"], pytest.param(["serve", "--ui", "--paint", "none"], marks=pytest.mark.slow)],
    ids=["demo", "serve"],
)
def test_the_pages_open_and_a_signal_ends_them(arguments):
    """`serve --ui` answers as an API, too."""
    process = subprocess.Popen(
        [sys.executable, "-m", "viscpm_hf", *arguments, "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        address = next(found[0] for line in process.stderr if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        proxies = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        asked = urllib.request.Request(address, headers={"Accept-Language": "zh-CN"})
        with proxies.open(asked, timeout=60) as answer:
            assert answer.url == f"{address}/zh/chat/" and "看图对话" in answer.read().decode()
        if "serve" in arguments:
            with proxies.open(f"{address}/v1/models", timeout=60) as answer:
                assert json.load(answer)["data"][0]["id"] == "VisCPM-Chat-tiny"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
