"""The examples run as they are, outside the checkout, with the models that the package ships."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from viscpm_hf.tiny import PICTURES, tiny_chat_repo

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, folder, *arguments):
    """What an example prints, run in a folder."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stderr
    # of the original's schedule, which is not outdated
    assert "Traceback" not in done.stderr and "steps_offset" not in done.stderr
    return done.stdout


def test_every_example_is_run_here():
    """A further example needs a test."""
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"chat.py", "paint.py"}


def test_chat_answers(tmp_path):
    """A question, the turn after it, a batch and a streamed answer."""
    printed = run("chat.py", tmp_path)
    for answer in ("猫在左上角。", "它是黄色的。", "图里有一只猫和一个苹果。"):
        assert f"答 {answer}\n" in printed
    # as one of a batch, and streamed
    assert "答 There is a cat and an apple.\n" in printed
    assert "答 On grass there is a large cat in the top left and a small apple in the middle right.\n" in printed


def test_chat_takes_a_model_and_a_picture(tmp_path):
    """A folder or repository, and a picture, from the command line."""
    printed = run("chat.py", tmp_path, tiny_chat_repo(), PICTURES / "2_rocket_and_moon.png")
    assert "答 At night there is a large moon in the top right and a large rocket in the bottom left.\n" in printed


@pytest.mark.parametrize("arguments", [["chat.py", "/no/where"], ["chat.py"], ["paint.py", "/no/where"]])
def test_what_goes_wrong_is_one_sentence(tmp_path, arguments):
    name, *model = arguments
    given = model or [tiny_chat_repo(), "nowhere.png"]
    done = subprocess.run([sys.executable, EXAMPLES / name, *given], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "where" in done.stderr.splitlines()[-1]  # behind what shows that weights are loaded


@pytest.mark.slow
def test_paint_saves_what_was_asked_for(tmp_path):
    """A prompt, three at once, DPM++ and a picture redrawn, each as a file with its thing in it."""
    printed = run("paint.py", tmp_path)
    things = {
        "1_prompt.png": "cat",
        "2_prompts_0.png": "rocket",
        "2_prompts_1.png": "car",
        "2_prompts_2.png": "orange cross",
        "3_dpm.png": "cat",
        "4_redrawn.png": "dog",
    }
    assert {path.name for path in tmp_path.iterdir()} == set(things)
    from viscpm_hf.tiny.measures.painted_prompts import load_judge

    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert "1_prompt_2.png: 96 × 96" in run("paint.py", tmp_path)
    assert all(path.read_bytes() == data for path, data in before.items())
    judge = load_judge(None, 96, "cpu")
    for name, thing in things.items():
        assert f"{name}: 96 × 96" in printed
        with Image.open(tmp_path / name) as picture:
            (look,) = judge.look([picture])
        assert [found.name for found in look.things] == [thing], name
