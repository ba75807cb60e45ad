"""Guards what is said when the network is not there: the whole command to repeat, fit for a shell."""

import re
import shlex
from contextlib import redirect_stderr
from io import StringIO

import pytest

from viscpm_hf.checkpoint import CheckpointError, push_to_hub
from viscpm_hf.checkpoint.files.hub import fetch
from viscpm_hf.checkpoint.parts import RANKER
from viscpm_hf.cli import main


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("name", ["chat", "my chat", "$(touch PWNED)'`", "--private"])
def test_a_failed_upload_is_repeated_as_it_was(tmp_path, monkeypatch, name, private):
    """The tests run offline. Without --private the command would publish."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / name, name):
        with pytest.raises(CheckpointError, match="Could not upload") as error:
            push_to_hub(folder, "me/chat", private=private)
        program, verb, place, *rest = shlex.split(str(error.value).partition("repeat with ")[2])
        assert (program, verb) == ("viscpm", "push") and (tmp_path / place).samefile(tmp_path / name)
        assert not place.startswith("-") and rest == ["me/chat", *["--private"] * private]


@pytest.mark.parametrize("name", ["", "a b", "a/b/c", "x", "/x", "~/x", "a--b/c", "a/b\n", "\x1b/x"])
def test_what_is_no_name_is_not_uploaded_to(tmp_path, name):
    """Also at the end of a conversion, where it is known before the work begins."""
    (tmp_path / "config.json").write_text('{"model_type": "cpmbee"}')
    output = ["--checkpoint", "nothing", "--vocab", "nothing", "--output", str(tmp_path / "out")]
    with pytest.raises(CheckpointError, match="expected `owner/name`") as error:
        push_to_hub(tmp_path, name)
    assert str(error.value).isprintable()
    for arguments in (
        ["push", str(tmp_path), name],
        ["convert", "chat", *output, "--push-to-hub", name],
        ["convert", "cpmbee", *output, "--push-to-hub", name],
        ["convert", "paint", *output, "--sd-base", "nothing", "--push-to-hub", name],
    ):
        said = StringIO()
        with redirect_stderr(said):
            assert main(arguments) == (1 if name else 2)
        assert "owner/name" in said.getvalue() or not name


@pytest.mark.parametrize("config", ['{"model_type": "gpt2"}', "{}", "[]", None])
def test_what_is_not_converted_is_not_pushed(tmp_path, capsys, monkeypatch, config):
    """Somebody's folder of something else would be public."""
    uploads = []
    monkeypatch.setattr("viscpm_hf.checkpoint.push_to_hub", lambda *arguments, **options: uploads.append(arguments))
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert main(["push", str(tmp_path), "me/chat"]) == 1 and not uploads
    assert capsys.readouterr().err.count("\n") == 1


def test_what_cannot_be_fetched_is_one_sentence():
    for source in ("nobody/nothing", "a", "a b/c", "../..//x", "x" * 300, "a/b/c/d", "a\0b"):
        with pytest.raises(CheckpointError, match=re.escape("give --ranker the folder")) as error:
            fetch(source, RANKER, ["config.json"])
        assert str(error.value).isprintable() and len(str(error.value)) < 1200
