"""Guards `viscpm paint`: pictures that say how to paint them again, nothing overwritten, what goes wrong."""

import io
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from terminal import Terminal

from viscpm_hf import VisCPMPaint
from viscpm_hf.cli import examples, main
from viscpm_hf.tiny import GUIDANCE_SCALE, tiny_paint_repo

CAT, ROCKET = "草地上有一只猫", "夜空中有一枚火箭"
FAST = ("--steps", "2")


@pytest.fixture(scope="module")
def repo():
    return tiny_paint_repo()


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs the verb in an empty folder; exit code, the lines of its output, errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        code = main(["paint", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err

    return run


def information(path):
    with Image.open(path) as picture:
        picture.load()
        return picture.text


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_it_prints_where_the_pictures_are_and_nothing_else(repo, run):
    code, lines, err = run(CAT, "A ../red/apple?", "¿?", "--model", repo, *FAST, "--size", "32x64")
    assert (code, err) == (0, "")
    assert lines == [f"painted/{name}.png" for name in ("0001_草地上有一只猫", "0002_A_red_apple", "0003_picture")]
    for line in lines:
        with Image.open(line) as picture:
            assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (32, 64))


def test_a_picture_says_how_to_paint_it_again(repo, run):
    """Seed and settings of each picture of a list, drawn by lot or given, make the same pixels of its prompt alone."""
    settings = ["--negative", "白色", "--guidance", "3.5", "--scheduler", "dpm++", "--dtype", "float32"]
    first = run(CAT, "春眠不觉晓", "--model", repo, *FAST, *settings)[1]
    found = information(first[1])
    assert found.pop("Software").startswith("viscpm-hf ") and 0 <= int(found["seed"]) < 2**32
    assert found == {
        "prompt": "春眠不觉晓",
        "negative prompt": "白色",
        "seed": found["seed"],
        "steps": "2",
        "guidance": "3.5",
        "size": "96x96",
        "scheduler": "DPMSolverMultistepScheduler",
        "model": repo.name,
        "dtype": "float32",
    }
    assert information(first[0])["seed"] != found["seed"]
    again = run(found["prompt"], "--seed", found["seed"], "--model", repo, *FAST, *settings)[1]
    assert (pixels(again[0]) == pixels(first[1])).all() and not (pixels(first[0]) == pixels(first[1])).all()


def test_a_prompt_that_comes_again_gets_the_next_seed(repo, run):
    lines = run(CAT, ROCKET, CAT, "--model", repo, *FAST, "--seed", "7")[1]
    assert [information(line)["seed"] for line in lines] == ["7", "7", "8"]
    assert (pixels(run(CAT, "--model", repo, *FAST, "--seed", 8)[1][0]) == pixels(lines[2])).all()


def test_without_a_model_the_tiny_one_paints_as_it_should_and_says_so_once(run, repo):
    code, lines, err = run(ROCKET, "--seed", "1")
    assert code == 0 and err.count("\n") == 1 and "--model" in err and "a cat on the grass" in err and ROCKET in err
    found = information(lines[0])
    assert found["model"] == "VisCPM-Paint-tiny" and (found["guidance"], found["steps"]) == (str(GUIDANCE_SCALE), "50")
    painter = VisCPMPaint(repo, image_safety_checker=False, prompt_safety_checker=False, add_ranker=False)
    assert (np.asarray(painter.generate(ROCKET, guidance_scale=GUIDANCE_SCALE, generator=1)) == pixels(lines[0])).all()


def test_nothing_is_overwritten(repo, run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "0041_holiday.jpg").write_bytes(b"precious")
    (tmp_path / "out" / "0042_草地上有一只猫.png").symlink_to(tmp_path / "nowhere")
    assert run(CAT, "--model", repo, *FAST, "--output", "out")[1] == ["out/0043_草地上有一只猫.png"]
    assert run(CAT, "--model", repo, *FAST, "--output", "out")[1] == ["out/0044_草地上有一只猫.png"]
    assert (tmp_path / "out" / "0041_holiday.jpg").read_bytes() == b"precious" and not (tmp_path / "nowhere").exists()


def test_a_name_is_never_too_long_for_a_disk(repo, run):
    lines = run("𠮷" * 300, "--model", repo, *FAST)[1]
    assert len(lines[0].encode()) < 255 and information(lines[0])["prompt"] == "𠮷" * 300


@pytest.mark.parametrize("source", ["prompts.txt", "-"])
def test_prompts_of_a_file_come_after_those_of_the_command_line(repo, run, tmp_path, source):
    text = f"\ufeff\r\n{CAT}\r\n  \r\n\t{ROCKET}".encode()
    (tmp_path / "prompts.txt").write_bytes(text)
    lines = run("a red apple", "--file", source, "--model", repo, *FAST, stdin=text)[1]
    assert [information(line)["prompt"] for line in lines] == ["a red apple", CAT, ROCKET]


def test_a_sheet_shows_all(repo, run):
    lines = run(CAT, "春眠不觉晓", "--model", repo, *FAST, "--sheet")[1]
    assert lines[2:] == ["painted/0003_sheet.png"]
    assert information(lines[2])["pictures"].splitlines() == [line.removeprefix("painted/") for line in lines[:2]]
    sheet = pixels(lines[2])
    assert (sheet[8:200, 8:200] == pixels(lines[0]).repeat(2, 0).repeat(2, 1)).all()


def test_the_examples_are_in_both_languages(run):
    code, lines, err = run("--examples")
    assert code == 0 and not err
    for pair in examples.PROMPTS:
        assert all(any(prompt in line for line in lines) for prompt in pair)


def test_refused_prompts_do_not_keep_others_from_being_painted(run, tmp_path):
    from paint import golden_pipeline, prompt_checker_parts

    parts = prompt_checker_parts(tmp_path, "月", "血")
    golden_pipeline(**parts).save_pretrained(tmp_path / "repo")
    code, lines, err = run("red", "green", "--model", tmp_path / "repo", *FAST)  # of two, one remark
    assert (
        (code, len(lines)) == (0, 2) and err.startswith("warning: The prompt is not Chinese") and err.count("\n") == 1
    )
    shutil.rmtree("painted")
    code, lines, err = run("血", "月", "长" * 5000, "长 \udcff", "--model", tmp_path / "repo", *FAST, "--sheet")
    assert code == 1 and lines == ["painted/0001_月.png", "painted/0002_sheet.png"]
    errors = err.splitlines()
    assert len(errors) == 3 and all(line.startswith("error: ") for line in errors)
    for line, message in zip(errors, ("prompt checker refused", "4096 characters", "surrogates"), strict=True):
        assert message in line
    code, lines, err = run("血", "--model", tmp_path / "repo", *FAST, "--sheet")
    assert (code, lines) == (1, []) and err.count("\n") == 1


@pytest.mark.parametrize("options", [("--dtype", "float16"), ("--memory", "2GB"), ("--quantization", "int8")])
def test_no_remarks_of_libraries_however_it_is_loaded(repo, run, options):
    pytest.importorskip("torchao")
    code, lines, err = run("a red apple", "--model", repo, *FAST, "--device", "cpu", *options)
    assert (code, len(lines), err) == (0, 1, "")
    assert information(lines[0])[options[0].strip("-")] == options[1]


def test_a_picture_names_a_model_that_is_the_current_folder(repo, run, tmp_path, monkeypatch):
    monkeypatch.chdir(repo)
    monkeypatch.setenv("HOME", str(tmp_path))
    lines = run(CAT, "--model", ".", *FAST, "--output", "~/out")[1]
    assert lines == [str(tmp_path / "out" / "0001_草地上有一只猫.png")] and information(lines[0])["model"] == repo.name


def test_an_english_prompt_has_no_candidates_to_choose_from(run, tmp_path):
    from paint import golden_pipeline, ranker_parts

    golden_pipeline(**ranker_parts(tmp_path, ["红red"])).save_pretrained(tmp_path / "repo")
    code, lines, err = run("red", "红", "--model", tmp_path / "repo", *FAST, "--candidates", "2")
    assert (code, len(lines)) == (0, 2) and "error" not in err
    assert ["candidates" in information(line) for line in lines] == [False, True]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no such terminals")
def test_at_a_terminal_there_is_progress_and_ctrl_c_keeps_what_is_done(repo, tmp_path):
    terminal = Terminal("paint", CAT, ROCKET, "--model", repo, "--steps", "100", "--output", tmp_path / "out")
    terminal.wait_for(r"1/2 草地上有一只猫: +\d+%")
    terminal.wait_for(r"0001_草地上有一只猫\.png\r\n")
    terminal.wait_for(r"2/2 夜空中有一枚火箭: +\d+%")
    terminal.type("\x03")
    terminal.wait_for("error: interrupted")
    assert terminal.end() == 130 and [path.name for path in (tmp_path / "out").iterdir()] == [
        "0001_草地上有一只猫.png"
    ]


def test_the_class_comes_and_paints_on_a_cpu_without_remarks_of_libraries(repo):
    code = """
import sys
from viscpm_hf import VisCPMPaint
painter = VisCPMPaint(sys.argv[1], False, False, False, device="cpu", dtype="float16")
painter.pipeline.set_progress_bar_config(disable=True)
painter.generate("红", num_inference_steps=1)
"""
    environment = {**os.environ, "TQDM_DISABLE": "1"}
    command = [sys.executable, "-c", code, str(repo)]
    assert subprocess.run(command, env=environment, capture_output=True, text=True).stderr == ""


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        ([], 2, "no prompt"),
        ([""], 2, "empty prompt"),
        ([CAT, " "], 2, "empty prompt"),
        ([CAT, "--size", "big"], 2, "'big'"),
        ([CAT, "--size", "0x64"], 2, "512x512"),
        ([CAT, "--size", "999999x999999"], 2, "512x512"),
        ([CAT, "--size", "64x63"], 1, "multiples of 4 for this model, such as 64x64"),
        ([CAT, "--guidance", "nan"], 2, "'nan'"),
        ([CAT, "--seed", "-1"], 2, "--seed"),
        ([CAT, "--steps", "0"], 2, "--steps"),
        ([CAT, "--candidates", "0"], 2, "--candidates"),
        ([CAT, "--scheduler", "pndm"], 2, "ddpm"),
        ([CAT, CAT, "--candidates", "2"], 1, "Got --candidates 2, but this model has no ranker"),
        ([CAT, "--candidates", "65"], 2, "--candidates"),
        ([CAT, "--candidates", "1" + "0" * 12], 2, "--candidates"),
        ([CAT, "--output", "x/" + "y" * 300], 1, "choose another --output"),
        ([CAT, "--output", ""], 2, "Got '' as --output, expected a name"),
        ([CAT, "--model", ""], 2, "Got '' as --model, expected a name"),
        (["--file", " "], 2, "Got ' ' as --file, expected a name"),
        ([CAT, "--output", __file__], 1, "is not a folder"),
        ([CAT, "--output", "/proc/painted"], 1, "/proc"),
        (["--file", "nowhere.txt"], 1, "There is no file nowhere.txt"),
        (["--file", "empty.txt"], 1, "holds no prompt"),
        (["--file", "-"], 1, "standard input holds no prompt"),
        (["--file", "binary.txt"], 1, "not a text in UTF-8"),
        ([CAT, "--model", "/no/where"], 1, "/no/where does not exist"),
    ],
)
def test_what_goes_wrong_is_one_sentence_and_leaves_nothing(run, tmp_path, arguments, code, message):
    (tmp_path / "empty.txt").write_text("\ufeff\n \n", encoding="utf-8")
    (tmp_path / "binary.txt").write_bytes(b"\x89PNG\xff")
    found, lines, err = run(*arguments)
    last = err.splitlines()[-1]
    assert (found, lines) == (code, []) and message in last and last.startswith("error: ")
    assert len(err.splitlines()) <= 2 and {path.name for path in tmp_path.iterdir()} == {"empty.txt", "binary.txt"}
