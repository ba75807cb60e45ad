"""Guards what is said of a path that is no converted model: one sentence, with commands that are safe to paste."""

import os
import shlex

import pytest

from viscpm_hf.checkpoint.repo import check_is_converted

NAMES = ["$(touch PWNED)'.bin", "a b.bin", "-x.bin", "\x1b[2J.bin", "图\n片.bin", "\udcff.bin", "`x`.bin"]


def error(path):
    with pytest.raises(ValueError) as raised:
        check_is_converted(path, "VisCPM-Chat", "chat", "config.json")
    assert str(raised.value).isprintable()
    return str(raised.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_is_put_into_a_command(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    open(name, "w").close()
    command = error(name).partition("run `")[2].partition(" --vocab VOCAB")[0]
    words = shlex.split(command)
    assert words[:4] == ["viscpm", "convert", "chat", "--checkpoint"] and len(words) == 5
    assert words[4].endswith(".bin") and not words[4].startswith("-")
    if name.isprintable():
        assert os.path.samefile(words[4], name)


@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling link", "device", "nothing"])
def test_what_else_it_may_be(tmp_path, kind):
    path = tmp_path / "a"
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "dangling link":
            path.symlink_to("nowhere")
        case "device":
            path = "/dev/zero"
    expected = {"folder": "has no config.json", "nothing": "does not exist"}
    assert expected.get(kind, "is neither a folder nor a file") in error(path)


@pytest.mark.parametrize(
    "name", ["/nowhere", "~/VisCPM-Chat", "./VisCPM-Chat", "../VisCPM-Chat", "VisCPM-Chat", "a b/c"]
)
def test_a_path_that_is_not_there_is_no_hub_repository(name):
    """transformers would say something of ids."""
    assert "does not exist" in error(name)


def test_a_hub_repository_and_a_converted_folder_pass(tmp_path):
    (tmp_path / "config.json").touch()
    for path in (tmp_path, str(tmp_path), "owner/name"):
        check_is_converted(path, "VisCPM-Chat", "chat", "config.json")
