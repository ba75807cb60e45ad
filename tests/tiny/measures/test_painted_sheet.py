"""Guards the sheet of everything the tiny Paint knows: each thing is asked for once, and said where it is wrong."""

import re

import torch
from PIL import Image

from viscpm_hf.tiny.measures.judge import Judge
from viscpm_hf.tiny.measures.painted_sheet import main, sheet_prompts
from viscpm_hf.tiny.world.pictures import IMAGE_SIZE
from viscpm_hf.tiny.world.prompts import NEVER_PAINTED
from viscpm_hf.tiny.world.things import SHAPES, THINGS


def test_every_thing_is_asked_for_once_and_no_pair_that_is_never_painted():
    names = [name for prompt in sheet_prompts() for name in prompt.names]
    assert names[: len(THINGS)] == [thing.name for thing in THINGS]
    assert [name.split()[1] for name in names[len(THINGS) :]] == list(SHAPES)
    assert not NEVER_PAINTED & set(names)
    assert {prompt.language for prompt in sheet_prompts()} == {"zh", "en"}
    assert len({prompt.background for prompt in sheet_prompts()}) == 6


def test_the_sheet_holds_all_pictures_and_tells_what_is_wrong(tmp_path, capsys):
    judge = {f"judge.{name}": value for name, value in Judge(IMAGE_SIZE, (8, 8, 8, 8)).state_dict().items()}
    torch.save({"learner": judge}, tmp_path / "judge.pt")
    options = ["--judge", str(tmp_path / "judge.pt"), "--steps", "1", "--device", "cpu"]
    assert main(["--output", str(tmp_path / "sheet.png"), *options]) == 0
    out = capsys.readouterr().out
    assert re.search(r": .*wrong; seen: .* on \w+\n", out) and out.splitlines()[-1].endswith("sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 10 * 64
