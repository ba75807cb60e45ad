"""Guards the READMEs: their Python runs as printed, and the two languages show the same commands."""

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from viscpm_hf.tiny import PICTURES, tiny_chat_repo, tiny_paint_repo

ROOT = Path(__file__).parents[1]
READMES = ["README.md", "README_zh.md"]


def blocks(name, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / name).read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("name", READMES)
def test_python_blocks_run(name, tmp_path, monkeypatch, capsys):
    pytest.importorskip("torchao")
    (tmp_path / "VisCPM-Chat").symlink_to(tiny_chat_repo())
    (tmp_path / "VisCPM-Paint").symlink_to(tiny_paint_repo())
    shutil.copyfile(sorted(PICTURES.glob("*.png"))[0], tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    found = blocks(name, "python")
    assert len(found) == 8
    for block in found:
        exec(compile(block, name, "exec"), {})
    printed = capsys.readouterr().out
    assert "左上角有一个红色的圆形" in printed and "AI: " in printed
    for picture in ("painted.png", "redrawn.png"):
        with Image.open(tmp_path / picture) as image:
            assert image.size == (64, 64)


def test_both_languages_show_the_same_commands():
    english, chinese = ("\n".join(blocks(name, "")) for name in READMES)
    commands = [re.findall(r"^(?:make|python) [^#\n]*", text, re.M) for text in (english, chinese)]
    assert [command.strip() for command in commands[0]] == [command.strip() for command in commands[1]]
    assert {"make demo", "make test"} <= {command.strip() for command in commands[0]}


@pytest.mark.parametrize("name", READMES)
def test_named_files_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for path in re.findall(r"\]\(([^)#:]+)\)|(?:python) (conversion/\w+\.py)", text):
        assert (ROOT / (path[0] or path[1])).exists(), path
