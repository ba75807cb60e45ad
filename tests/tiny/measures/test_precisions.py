"""Guards `viscpm evaluate tiny`: its table, its counts, and floors for the tiny models in every precision."""

import json
from functools import cache

import pytest

from viscpm_hf.cli import main
from viscpm_hf.tiny.measures.painted_prompts import CHECKS
from viscpm_hf.tiny.measures.precisions import PRECISIONS, Settings, as_json, measure, table_rows
from viscpm_hf.tiny.world.prompts import SPLITS
from viscpm_hf.tiny.world.questions import KINDS, LANGUAGES

SETTINGS = Settings(questions=33, prompts=4, steps=12)
# well below the figures of docs/tiny.md: these are few questions and few pictures
FLOORS = {
    "chat: all": 0.9,
    "paint, combinations: number": 0.75,
    "paint, combinations: background": 0.85,
    "paint, shapes: shape": 0.8,
    "round trip, combinations": 0.6,
}


@pytest.fixture(scope="module")
def measured():
    """What was found in a precision, measured once."""
    return cache(lambda precision: measure(precision, SETTINGS))


@pytest.mark.parametrize(
    "precision", [PRECISIONS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in PRECISIONS[1:])]
)
def test_no_precision_falls_below_the_floor(measured, precision):
    for row, floor in FLOORS.items():
        right = [each for language in LANGUAGES for each in measured(precision)[row][language]]
        assert sum(right) >= floor * len(right), (row, right)


@pytest.mark.slow
def test_the_table_holds_every_skill_check_and_precision(measured):
    measured = {precision: measured(precision) for precision in PRECISIONS}
    header, rows = table_rows(measured)
    assert header == ["right in %, zh / en", *PRECISIONS]
    names = [row[0] for row in rows]
    assert names[: len(KINDS) + 1] == [f"chat: {kind}" for kind in (*KINDS, "all")]
    assert [name for name in names if name.startswith("paint")] == [
        f"paint, {split}: {check}" for split in SPLITS for check in CHECKS[split]
    ]
    assert len(names) == len(KINDS) + 1 + 11 + 2 and names[-1] == "round trip, shapes"
    found = json.loads(as_json(measured, SETTINGS))
    count = found["precisions"]["int8"]["chat: all"]["zh"]
    assert count == {"right": sum(measured["int8"]["chat: all"]["zh"]), "count": 33}
    zh, en = (100 * sum(measured["int8"]["chat: all"][language]) / 33 for language in LANGUAGES)
    assert rows[len(KINDS)][1 + PRECISIONS.index("int8")] == f"{zh:.1f} / {en:.1f}"
    assert found["settings"]["questions"] == 33


@pytest.mark.slow
def test_the_verb_prints_one_precision_as_json_and_refuses_another(capsys, measured):
    words = ["--precision", "float32", "--questions", "33", "--prompts", "4", "--steps", "12", "--json"]
    assert main(["evaluate", "tiny", *words]) == 0
    out, err = capsys.readouterr()
    wanted = json.loads(as_json({"float32": measured("float32")}, SETTINGS))
    assert json.loads(out)["precisions"] == wanted["precisions"]
    assert err == ""
    assert main(["evaluate", "tiny", "--precision", "int4"]) == 2
    assert "Got 'int4' as --precision, expected one of float32, bfloat16, int8, 4bit" in capsys.readouterr().err


def test_wrong_answers_are_counted_as_wrong(monkeypatch):
    """Chat that says nothing right."""
    module = "viscpm_hf.tiny.measures.precisions"

    monkeypatch.setattr(f"{module}.answer_questions", lambda model, processor, samples, **_: ["mm"] * len(samples))
    found = measure("float32", Settings(questions=11, prompts=1, steps=2))
    assert found["chat: all"] == {"zh": [False] * 11, "en": [False] * 11}
