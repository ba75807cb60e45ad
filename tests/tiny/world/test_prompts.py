"""Guards the prompts of the tiny Paint: what is held out, what they say, and that the vocabulary has their words."""

import random
import re

import pytest

from viscpm_hf.tiny import VOCABULARY
from viscpm_hf.tiny.world.prompts import (
    KINDS,
    LANGUAGES,
    MIDDLE,
    NEVER_PAINTED,
    PLAIN,
    SPLITS,
    held_out_prompts,
    never_painted,
    prompt_phrases,
    training_wish,
    wish,
    write_prompt,
    write_training_prompts,
)
from viscpm_hf.tiny.world.scenes import pairs, place_is_held_out
from viscpm_hf.tiny.world.things import BY_NAME, COLOURS, SHAPES, THINGS


def asked(prompt):
    """Combinations that a prompt asks for, as training could show them."""
    return (prompt.names, prompt.cell, prompt.relation, prompt.background)


def told(scene, relation):
    names = tuple(placed.name for placed in scene.things)
    names = names[::-1] if relation in ("right", "below") else names
    return (names, scene.things[0].cell if len(names) == 1 else None, relation, scene.background)


def test_no_prompt_that_is_held_out_is_shown_in_training():
    rng = random.Random(0)
    shown = {told(*training_wish(rng)) for _ in range(20_000)}
    for language in LANGUAGES:
        for split in SPLITS:
            prompts = held_out_prompts(language, 300, split=split)
            assert len({prompt.text for prompt in prompts}) == 300
            assert not shown & {asked(prompt) for prompt in prompts}


@pytest.mark.parametrize("things", [THINGS, (*THINGS, *[BY_NAME["elephant"]] * 80)], ids=["all alike", "one often"])
def test_training_shows_nothing_that_is_held_out(things):
    rng = random.Random(1)
    for _ in range(3000):
        scene, relation = training_wish(rng, things)
        assert not never_painted(scene)
        for placed in scene.things:
            assert placed.name not in NEVER_PAINTED
            assert not place_is_held_out(placed.name, placed.cell, scene.background)
        if relation:
            (first, second), *_ = ((a, b) for a, b, where in pairs(scene) if where == relation)
            assert told(scene, relation)[0] == (first.name, second.name)


def test_one_colour_of_each_shape_is_never_painted_and_every_other_is():
    assert sorted(name.split()[1] for name in NEVER_PAINTED) == sorted(SHAPES)
    assert len({name.split()[0] for name in NEVER_PAINTED}) >= 5
    rng, painted = random.Random(2), set()
    for _ in range(6000):
        painted |= {placed.name for placed in training_wish(rng)[0].things}
    assert painted == set(BY_NAME) - NEVER_PAINTED - {f"{colour} ring" for colour in COLOURS}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_prompt_names_its_things_and_what_is_not_usual(language):
    rng = random.Random(3)
    for _ in range(1500):
        scene, relation = wish(rng.choice(KINDS), rng)
        prompt = write_prompt(language, scene, relation, rng)
        assert asked(prompt) == told(scene, relation)
        assert prompt.grounded or prompt.background == PLAIN
        if not prompt.placed:
            assert prompt.cell in (None, MIDDLE) and prompt.relation in (None, "left")
        for name in prompt.names:
            thing = BY_NAME[name]
            words = (
                (thing.chinese, thing.chinese.replace("的", "")) if language == "zh" else (thing.name, thing.plural)
            )
            assert any(word in prompt.text for word in words), prompt
        assert "  " not in prompt.text and " ," not in prompt.text and not re.search(r"\ba [aeio]", prompt.text)


def test_relations_are_said_the_right_way_round():
    rng, seen = random.Random(4), 0
    while seen < 40:
        scene, relation = wish("pair", rng)
        prompt = write_prompt("en", scene, relation, rng)
        first, second = prompt.names
        found = re.search(rf"{first} (left of|to the right of|above|below) (?:an? )?{second}\b", prompt.text)
        if found:
            assert found[1].split()[-2 if "of" in found[1] else -1] == prompt.relation
            seen += 1


def test_every_character_of_a_prompt_is_in_the_vocabulary():
    known = set(VOCABULARY.read_text(encoding="utf-8").splitlines())
    unknown = {c for c in "".join(prompt_phrases()) if not c.isascii() and c not in known}
    assert not unknown


def test_training_prompts_take_turns_in_both_languages():
    rng = random.Random(5)
    for _ in range(200):
        languages = [prompt.language for prompt in write_training_prompts(*training_wish(rng), rng, 4)]
        assert languages == ["zh", "en", "zh", "en"]
