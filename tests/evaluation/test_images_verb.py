"""Guards `viscpm evaluate images`: prompts, pictures that do not depend on how they were painted, and the table."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from diffusers import DPMSolverMultistepScheduler
from paint import golden_pipeline, ranker_parts
from PIL import Image
from test_fid_and_clip import Network, chinese_clip_folder, clip_folder, scripted

from viscpm_hf import VisCPMPaint
from viscpm_hf.checkpoint.errors import CheckpointError
from viscpm_hf.cli import main
from viscpm_hf.evaluation.captions import read_prompts
from viscpm_hf.evaluation.painting import batches_of
from viscpm_hf.tiny import CHAT_CHECKPOINT, PICTURES

PROMPTS = ["海上生明月", "北京", "a red car", "天涯共此时", "月", "明月"]
FAST = ["--steps", "2", "--scheduler", "dpm++", "--device", "cpu"]


def coco(path):
    annotations = [
        {"image_id": 7, "id": 12, "caption": "a later caption"},
        {"image_id": 7, "id": 3, "caption": " a first\ncaption "},
        {"image_id": 5, "id": 4, "caption": "another picture"},
    ]
    path.write_text(json.dumps({"info": {}, "annotations": annotations}))
    return path


def test_prompts_are_cocos_first_captions_rows_or_lines(tmp_path):
    assert read_prompts(coco(tmp_path / "captions.json")) == ["a first caption", "another picture"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"caption": "一"}\n\n{"prompt": "二"}\n{"text": "三"}\n', encoding="utf-8")
    assert read_prompts(rows) == ["一", "二", "三"]
    lines = tmp_path / "lines.txt"
    lines.write_text("\ufeff一\n\n 二 \n" + "".join(f"{i}\n" for i in range(50)), encoding="utf-8")
    prompts = read_prompts(lines)
    drawn = read_prompts(lines, 10, seed=3)
    assert prompts[:2] == ["一", "二"] and len(prompts) == 52
    assert drawn == read_prompts(lines, 10, seed=3) != read_prompts(lines, 10, seed=4)
    assert sorted(drawn, key=prompts.index) == drawn and len(set(drawn)) == 10


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.txt", "\n \n", "holds 0 prompts, expected some"),
        ("a.txt", b"\xff\xfe", "not a text in UTF-8"),
        ("a.json", "[]", "holds a JSON list"),
        ("a.json", "{}", "annotations=None"),
        ("a.json", '{"annotations": [{"caption": "a"}]}', "annotation 1, has no id and image_id"),
        ("a.json", '{"annotations": [{"caption": 1, "id": 3, "image_id": 1}]}', "annotation 3, has caption=1"),
        ("a.jsonl", '{"words": "a"}', "row 1, has caption=None"),
        ("a.jsonl", '{"caption": ""}', "has caption=''"),
    ],
)
def test_a_file_without_prompts_is_one_sentence(tmp_path, name, text, said):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError) as error:
        read_prompts(path)
    assert said in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match="holds 2 prompts, expected 3"):
        read_prompts(coco(tmp_path / "captions.json"), 3)


def test_chinese_prompts_and_others_are_painted_apart():
    """As ranker and checker want it."""
    assert batches_of(PROMPTS, 2) == [[0, 1], [2], [3, 4], [5]]
    assert batches_of(PROMPTS, 8) == [[0, 1], [2], [3, 4, 5]]
    assert batches_of([], 8) == []


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def run(paint_repo, prompts, tmp_path, capsys):
    """Runs the verb on the golden Paint; its exit code, output and errors."""

    def run(*arguments, model=paint_repo, output="out"):
        words = ["--prompts", prompts, "--model", model, "--output", tmp_path / output, *FAST, *arguments]
        code = main(["evaluate", "images", *map(str, words)])
        return code, *capsys.readouterr()

    return run


def pictures(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def test_each_prompt_has_its_seed_and_what_is_painted_stays(run, paint_repo, tmp_path):
    code, out, err = run("--seed", "5", "--batch", "1", "--format", "json")
    assert (code, err) == (0, "") and json.loads(out)[0]["count"] == 6
    folder = tmp_path / "out" / "prompts"
    painted = pictures(folder)
    assert list(painted) == [f"{number:06}.png" for number in range(6)]
    painter = VisCPMPaint(paint_repo, False, False, False)
    config = painter.pipeline.scheduler.config
    painter.pipeline.scheduler = DPMSolverMultistepScheduler.from_config(config, timestep_spacing="trailing")
    expected = painter.generate(PROMPTS[3], generator=8, num_inference_steps=2)
    with Image.open(folder / "000003.png") as picture:
        assert picture.text["prompt"] == PROMPTS[3] and picture.text["seed"] == "8"
        assert (np.asarray(picture) == np.asarray(expected)).all()

    kept = {name: (folder / name).stat().st_mtime_ns for name in painted if name != "000003.png"}
    (folder / "000003.png").unlink()
    (folder / ".000003.png.partial").write_bytes(b"of a run that was killed")
    code, out, err = run("--seed", "5", "--batch", "1", "--format", "markdown")
    assert code == 0 and pictures(folder) == painted
    assert kept == {name: (folder / name).stat().st_mtime_ns for name in kept}  # these were not painted again
    assert out.startswith("| model ") and "published" not in out

    code, out, err = run("--seed", "6", "--batch", "1")
    assert (code, out) == (1, "") and "results of another run (seed 5, now 6)" in err
    # in batches, the whole batch is painted again: each picture is what it was
    run("--batch", "4", output="batches")
    folder = tmp_path / "batches" / "prompts"
    before = pictures(folder)
    (folder / "000003.png").unlink()
    run("--batch", "4", output="batches")
    assert pictures(folder) == before


def test_the_table_has_fid_and_clip_scores_of_both_languages(run, tmp_path):
    english = tmp_path / "english.txt"
    english.write_text("a red car\nblue moon\n")
    network, sha256 = tmp_path / "network.pt", scripted(Network(), tmp_path / "network.pt")
    for name in ("clip", "chinese"):
        (tmp_path / name).mkdir()
    clips = ["--clip", clip_folder(tmp_path / "clip")]
    clips += ["--chinese-clip", chinese_clip_folder(tmp_path / "chinese", PROMPTS)]
    fid = ["--references", PICTURES, "--inception", network, "--inception-sha256", sha256]
    code, out, err = run("--prompts", english, *fid, *clips)
    assert code == 0 and err.count("warning: ") == 2 and "cannot be compared with the published ones" in err
    rows = [line.split() for line in out.splitlines()[2:]]
    assert [row[1:3] for row in rows[:2]] == [["prompts", "zh"], ["english", "en"]]
    assert all(float(row[5]) > 0 and row[7] == "±" for row in rows[:2])
    assert rows[2][0] == "VisCPM-Paint-balance," and [row[-2] for row in rows[2:]] == ["10.9", "9.6", "9.5", "9.9"]
    found = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert [each["real"] for each in found] == [3, 3] and found[0]["clip_error"] > 0


def test_the_ranker_chooses_unless_it_is_left_out(run, tmp_path):
    folder = tmp_path / "ranker"
    folder.mkdir()
    golden_pipeline(**ranker_parts(folder, PROMPTS)).save_pretrained(tmp_path / "repo")
    found = {}
    for name, options in (("with", ["--candidates", "3"]), ("without", ["--no-ranker"])):
        code, out, err = run(*options, "--format", "json", model=tmp_path / "repo", output=name)
        assert code == 0, err
        assert json.loads(out)[0]["ranked"] == (name == "with")
        found[name] = pictures(tmp_path / name / "prompts")
    assert found["with"]["000002.png"] == found["without"]["000002.png"]  # English, which it does not know
    assert found["with"] != found["without"]
    code, out, err = run("--candidates", "3")
    assert code == 1 and "has no ranker" in err


def test_a_prompt_that_cannot_be_painted_is_said_and_left_out(run, tmp_path, prompts, paint_repo, monkeypatch):
    """Its neighbours in the batch are painted."""
    paint = VisCPMPaint.paint

    def fail(self, texts, **options):
        if PROMPTS[1] in texts:
            raise RuntimeError("the picture is NaN\nand more")
        return paint(self, texts, **options)

    monkeypatch.setattr(VisCPMPaint, "paint", fail)
    code, out, err = run("--format", "json")
    assert code == 1 and "1 prompts have no picture and are left out: 1 (RuntimeError: the picture is NaN)" in err
    assert json.loads(out)[0]["count"] == 5 and len(pictures(tmp_path / "out" / "prompts")) == 5


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--references", PICTURES], 2, "FID needs both"),
        (["--inception-sha256", "abc"], 2, "Got 'abc' as --inception-sha256"),
        (["--no-ranker", "--candidates", "2"], 2, "nothing to choose with"),
        (["--references", "nowhere", "--inception", PICTURES / "1_cat_and_apple.png"], 1, "has the SHA-256"),
        (["--limit", "7"], 1, "holds 6 prompts, expected 7"),
        (["--size", "33x32"], 1, "expected multiples of"),
        (["--clip", "nowhere"], 1, "is not a CLIP that can be loaded"),
        (["--model", "nowhere"], 1, "nowhere does not exist, expected a converted folder"),
        (["--model", CHAT_CHECKPOINT], 1, "has no model_index.json, expected a converted VisCPM-Paint"),
    ],
)
def test_what_cannot_be_is_one_sentence_before_anything_is_painted(run, tmp_path, arguments, code, said):
    found, out, err = run(*arguments)
    assert (found, out) == (code, "") and err.startswith("error: ") and err.count("\n") == 1 and said in err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_processes_paint_the_same_and_merge_their_scores(run, prompts, paint_repo, tmp_path):
    """Told of each other as `accelerate launch` does it; the table comes once."""
    network, sha256 = tmp_path / "network.pt", scripted(Network(), tmp_path / "network.pt")
    (tmp_path / "clip").mkdir()
    words = ["--batch", "2", "--references", PICTURES, "--inception", network, "--inception-sha256", sha256]
    words += ["--chinese-clip", chinese_clip_folder(tmp_path / "clip", PROMPTS), "--format", "json"]
    code, out, err = run(*words)
    alone = json.loads(out)[0]
    options = ["--prompts", prompts, "--model", paint_repo, "--output", tmp_path / "two", *FAST, *words]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "viscpm_hf", "evaluate", "images", *map(str, options)],
            env={**os.environ, **together, "LOCAL_WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    printed = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert printed[1] == ("", "")
    both = json.loads(printed[0][0])[0]
    assert both.pop("fid") == pytest.approx(alone.pop("fid"), rel=1e-5)
    assert both.pop("clip") == pytest.approx(alone.pop("clip"), abs=1e-3)
    assert both.pop("clip_error") == pytest.approx(alone.pop("clip_error"), abs=1e-3)
    assert both == alone
    assert pictures(tmp_path / "two" / "prompts") == pictures(tmp_path / "out" / "prompts")


def test_an_empty_picture_is_painted_again(run, tmp_path):
    assert run("--batch", "1")[0] == 0
    folder = tmp_path / "out" / "prompts"
    painted = pictures(folder)
    (folder / "000001.png").write_bytes(b"")
    assert run("--batch", "1")[0] == 0
    assert pictures(folder) == painted
