"""Guards the judging of painted pictures: what of a prompt is right, and what Chat's answers name."""

import random

import pytest
import torch
from PIL import Image

from viscpm_hf.tiny.measures.judge import Found, Judge, Look
from viscpm_hf.tiny.measures.painted_prompts import (
    CHECKS,
    ask_chat,
    check_picture,
    format_table,
    load_judge,
    named_things,
)
from viscpm_hf.tiny.world.prompts import LANGUAGES, SPLITS, held_out_prompts, wish, write_prompt
from viscpm_hf.tiny.world.scenes import Placed, Scene


def look(background, *things):
    found = [Found(name, cell, (cell // 3 + 0.5) / 3, (cell % 3 + 0.5) / 3) for name, cell in things]
    return Look(tuple(found), background)


def prompt(background, *things, relation=None):
    rng = random.Random(0)
    scene = Scene(tuple(Placed(name, "large", cell) for name, cell in things), background)
    return next(p for p in iter(lambda: write_prompt("en", scene, relation, rng), None) if p.placed or len(things) > 2)


def wrong(asked, seen):
    return {check for check, right in check_picture(asked, seen).items() if not right}


def test_one_thing():
    asked = prompt("night", ("cat", 2))
    assert set(check_picture(asked, look("night", ("cat", 2)))) == {"thing", "number", "place", "background"}
    assert not wrong(asked, look("night", ("cat", 2)))
    assert wrong(asked, look("sky", ("cat", 2))) == {"background"}
    assert wrong(asked, look("night", ("cat", 5))) == {"place"}
    assert wrong(asked, look("night", ("dog", 2))) == {"thing"}
    assert wrong(asked, look("night", ("cat", 2), ("cat", 8))) == {"number"}
    assert wrong(asked, look("night")) == {"thing", "number", "place"}


def test_two_things_and_their_relation():
    asked = prompt("grass", ("cat", 3), ("dog", 5), relation="left")
    assert set(check_picture(asked, look("grass"))) == {"both things", "number", "relation", "background"}
    assert not wrong(asked, look("grass", ("cat", 3), ("dog", 5)))
    assert wrong(asked, look("grass", ("dog", 3), ("cat", 5))) == {"relation"}
    assert wrong(asked, look("grass", ("cat", 1), ("dog", 7))) == {"relation"}
    assert wrong(asked, look("grass", ("cat", 3), ("cat", 5))) == {"both things", "relation"}


def test_shapes_by_colour_and_shape():
    asked = prompt("white", ("red star", 0))
    assert set(CHECKS["shapes"]) <= set(check_picture(asked, look("white")))
    assert wrong(asked, look("white", ("blue star", 0))) == {"thing", "colour"}
    assert wrong(asked, look("white", ("red heart", 0))) == {"thing", "shape"}
    assert wrong(asked, look("white", ("apple", 0))) == {"thing", "colour", "shape"}


def test_some_of_a_kind():
    scene = Scene(tuple(Placed("bee", "large", cell) for cell in (1, 6, 8)), "sky")
    asked = write_prompt("zh", scene, None, random.Random(0))
    assert not wrong(asked, look("sky", ("bee", 1), ("bee", 6), ("bee", 8)))
    assert wrong(asked, look("sky", ("bee", 3), ("bee", 5))) == {"thing", "number"}


@pytest.mark.parametrize("split", SPLITS)
def test_every_check_is_asked_of_some_held_out_prompt(split):
    for language in LANGUAGES:
        asked = {
            check for each in held_out_prompts(language, 60, split=split) for check in check_picture(each, look("sky"))
        }
        assert set(CHECKS[split]) <= asked


def test_names_in_answers():
    assert named_things("There are two cats and a pineapple.", "en") == {"cat", "pineapple"}
    assert named_things("图里有一只熊猫和一个鸡蛋。", "zh") == {"panda", "egg"}
    assert named_things("图里有一个红色的圆形和一只熊。", "zh") == {"red circle", "bear"}
    assert named_things("There is a red circle.", "en") == {"red circle"}
    assert named_things("Sorry, I only know simple drawings.", "en") == set()


def test_chat_is_asked_in_the_prompts_language():
    class Inputs(dict):
        ext_tables = None

        def to(self, device):
            return self

    class Processor:
        def __call__(self, images, text):
            self.text = text
            return Inputs(input_ids=torch.zeros(len(text), 3, dtype=torch.long))

        def post_process_image_text_to_text(self, new, **kwargs):
            return ["图里有一只猫。" if "图" in text else "There is a dog." for text in self.text]

    class Model:
        device = "cpu"

        def generate(self, input_ids, num_beams):
            return torch.zeros(len(input_ids), 5, dtype=torch.long)

    rng = random.Random(0)
    scene = Scene((Placed("cat", "large", 4),), "white")
    prompts = [write_prompt(language, scene, None, rng) for language in ("zh", "en", "zh")]
    assert ask_chat(prompts, [Image.new("RGB", (96, 96))] * 3, Model(), Processor(), batch_size=2) == [
        True,
        False,
        True,
    ]


def test_a_judge_is_read_from_its_file(tmp_path):
    torch.manual_seed(0)
    judge = Judge(32)
    state = {f"judge.{name}": value for name, value in judge.state_dict().items()}
    torch.save({"learner": state, "elapsed": 1.0, "seconds": 1.0}, tmp_path / "judge.pt")
    read = load_judge(tmp_path / "judge.pt", 32, "cpu")
    assert torch.equal(read.first.weight, judge.first.weight) and not read.training


def test_the_table_counts_what_applies():
    table = format_table(
        {"zh": {"colour": [True, False], "place": [True]}, "en": {"place": [False], "thing": [True]}}, "t"
    )
    assert table.splitlines()[2:] == [
        "| colour | 50.0 % of 2 | – |",
        "| place | 100.0 % of 1 | 0.0 % of 1 |",
        "| thing | – | 100.0 % of 1 |",
    ]


def test_wishes_are_of_the_kind_asked_for():
    rng = random.Random(1)
    for kind in ("thing", "pair", "shape", "number"):
        for _ in range(20):
            asked = write_prompt("en", *wish(kind, rng), rng)
            assert asked.kind == kind or kind == "number" and len(set(asked.names)) == 1
