"""Guards what is said when the network is not there: the whole command to repeat, fit for a shell."""

import re
import shlex

import pytest

from viscpm_hf.checkpoint import CheckpointError, push_to_hub
from viscpm_hf.checkpoint.files.hub import fetch
from viscpm_hf.checkpoint.parts import RANKER


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


def test_what_cannot_be_fetched_is_one_sentence():
    for source in ("nobody/nothing", "a", "a b/c", "../..//x", "x" * 300, "a/b/c/d", "a\0b"):
        with pytest.raises(CheckpointError, match=re.escape("give --ranker the folder")) as error:
            fetch(source, RANKER, ["config.json"])
        assert str(error.value).isprintable() and len(str(error.value)) < 1200
