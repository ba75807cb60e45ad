"""Guards the judging of painted pictures: by their pixels, and by what the tiny Chat model says about them."""

import numpy as np
import pytest
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from viscpm_hf.tiny import tiny_chat_repo
from viscpm_hf.tiny.measures.painted_prompts import check_picture, format_table, name_painted
from viscpm_hf.tiny.world.prompts import held_out_prompts, painted_scene, write_prompt
from viscpm_hf.tiny.world.scenes import Scene, Thing, draw


def picture(*things):
    return Image.fromarray(draw(Scene(tuple(Thing(*thing) for thing in things), "white")))


def test_what_was_asked_for_is_found():
    prompt = write_prompt("zh", "star", "blue", 6, 0)
    right = picture(("star", "blue", "large", 6))
    assert check_picture(prompt, right) == {"colour": True, "shape": True, "number": True, "place": True}
    assert "place" not in check_picture(write_prompt("en", "star", "blue", None, 0), right)


@pytest.mark.parametrize(
    "things, wrong",
    [
        ([("star", "red", "large", 6)], {"colour"}),
        ([("heart", "blue", "large", 6)], {"shape"}),
        ([("star", "blue", "large", 2)], {"place"}),
        ([("star", "blue", "large", 6), ("star", "blue", "large", 2)], {"number"}),
        ([], {"colour", "shape", "number", "place"}),
    ],
)
def test_what_is_wrong_is_noticed(things, wrong):
    checks = check_picture(write_prompt("zh", "star", "blue", 6, 0), picture(*things))
    assert {check for check, right in checks.items() if not right} == wrong


@pytest.mark.parametrize("language", ["zh", "en"])
def test_chat_names_what_is_drawn_and_not_something_else(language):
    repo = tiny_chat_repo()
    processor = AutoProcessor.from_pretrained(repo)
    model = AutoModelForImageTextToText.from_pretrained(repo, dtype="float32").eval()
    prompts = held_out_prompts(language, 24)
    drawn = [Image.fromarray(draw(painted_scene(p.shape, p.colour, p.cell or 4))) for p in prompts]
    named = name_painted(prompts, drawn, model, processor)
    assert all(np.mean(right) > 0.9 for right in named.values()), named
    others = name_painted(prompts, drawn[1:] + drawn[:1], model, processor)
    assert all(np.mean(right) < 0.6 for right in others.values()), others


def test_the_table_counts_what_applies():
    table = format_table(
        {"zh": {"colour": [True, False], "place": [True]}, "en": {"colour": [], "place": [False]}}, "t"
    )
    assert table.splitlines()[2:] == ["| colour | 50.0 % of 2 | – |", "| place | 100.0 % of 1 | 0.0 % of 1 |"]
