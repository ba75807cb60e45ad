"""Guards the `viscpm` command: what `fit` prints before anything is loaded, its picture, errors in one sentence."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from rich.cells import cell_len

import viscpm_hf
from viscpm_hf.cli import main


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_fit_lists_every_plan_and_the_one_taken(chat_repo, capsys):
    code, out, err = run(capsys, "fit", "--model", chat_repo, "--memory", "2GB", "--device", "cpu")
    assert code == 0 and not err
    assert "language model" in out and "vision_tower" in out and "3 blocks" in out
    table = [re.split(r"\s{2,}", line.strip()) for line in out.partition("\n\n")[2].partition("\n\n")[0].splitlines()]
    assert table[0] == ["plan", "RAM", "s/prompt", "s/token", "s/answer", "lossless", "fits"]
    assert {row[-1] for row in table[1:]} == {"yes"}
    assert [row[0] for row in table[1:] if row[0] == "*"] == ["*"]
    assert re.search(r"\* would be taken: all in RAM$", out, re.M)


def test_fit_speaks_chinese_in_columns(chat_repo, capsys, monkeypatch):
    """A character takes two cells of a terminal; the plans are those of the English table."""
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    code, out, _ = run(capsys, "fit", "--model", chat_repo, "--memory", "2GB", "--device", "cuda")
    table = out.partition("\n\n")[2].partition("\n\n")[0].splitlines()
    assert code == 0 and re.search(r"^\* 将采用：全部在 GPU 上$", out, re.M)
    assert re.split(r"\s{2,}", table[0].strip()) == "方案 显存 内存 秒/提示 秒/token 秒/回答 无损 放得下".split()
    assert {cell_len(line[: re.search(r"[是否]$", line).start()]) for line in table[1:]} == {
        cell_len(table[0].removesuffix("放得下"))
    }
    english = {"language model", "all ", "RAM", "streamed", "bit", "measured", "assumed"}
    assert not [word for word in english if word in out.partition("\n")[2]]


def test_fit_says_what_does_not_fit_and_takes_one_way_of_quantizing(chat_repo, capsys):
    code, out, _ = run(capsys, "fit", "--model", chat_repo, "--memory", "10MB", "--device", "cpu")
    table = out.partition("\n\n")[2].splitlines()
    assert code == 1 and {line.split()[-1] for line in table[1:] if line.strip()} == {"no"}
    code, out, _ = run(capsys, "fit", "--model", chat_repo, "--device", "cuda", "--quantization", "int8")
    assert code == 0 and "8-bit language model" in out and "4-bit" not in out and "all on the GPU" not in out
    for asked in (["--quantization", "auto"], ["--allow-lossy"]):
        assert run(capsys, "fit", "--model", chat_repo, "--device", "cuda", *asked)[0] == 0


def test_fit_for_a_gpu_that_is_not_here(chat_repo, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, out, _ = run(capsys, "fit", "--model", chat_repo, "--device", "cuda", "--memory", "8GB")
    assert code == 0
    assert "no GPU here" in out and "GPU memory 400 GB/s (assumed)" in out
    for plan in ("all on the GPU", "language model streamed", "4-bit language model"):
        assert plan in out


def test_fit_draws_memory_by_component(chat_repo, capsys, tmp_path):
    picture = tmp_path / "memory.png"
    code, out, _ = run(capsys, "fit", "--model", chat_repo, "--memory", "2GB", "--device", "cuda", "--plot", picture)
    assert code == 0 and f"Drawn to {picture}" in out
    with Image.open(picture) as image:
        colours = {colour for _, colour in image.getcolors(2**20)}
        assert image.format == "PNG" and image.width > 800
    assert (255, 0, 0) in colours  # the budget
    assert {(140, 140, 140), (79, 157, 105)} <= colours  # CUDA, KV cache


@pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
def test_fit_draws_over_nothing(chat_repo, capsys, tmp_path, kind):
    """A file of that name may be weights, and a link may lead anywhere."""
    picture, elsewhere = tmp_path / "memory.png", tmp_path / "elsewhere"
    if kind != "dangling link":
        (picture if kind == "file" else elsewhere).write_bytes(b"weights")
    if kind != "file":
        picture.symlink_to(elsewhere)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.exists()}
    code, _, err = run(capsys, "fit", "--model", chat_repo, "--device", "cpu", "--plot", picture)
    assert code == 1 and "exists already" in err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.exists()} == before


def test_fit_prints_no_escapes_of_a_path(chat_repo, capsys, tmp_path):
    picture = tmp_path / "\x1b[31mred\n.png"
    code, out, _ = run(capsys, "fit", "--model", chat_repo, "--device", "cpu", "--plot", picture)
    assert code == 0 and picture.exists() and r"\x1b[31mred\n.png" in out and "\x1b" not in out


def test_errors_are_one_sentence(chat_repo, capsys, tmp_path):
    for arguments, message in (
        (["--model", tmp_path / "nowhere"], "There is no folder"),
        (["--model", tmp_path], "There is no converted model"),
        (["--model", chat_repo, "--memory", "apples"], "'apples'"),
        (["--model", chat_repo, "--memory", "8"], "Got '8' as --memory, which is 8 bytes; did you mean 8GB?"),
        (["--model", chat_repo, "--memory", "9" * 400], "expected bytes or a size such as '5GB'"),
        (["--model", chat_repo, "--memory", "1MB", "--device", "cpu"], "too little for"),
        (["--model", chat_repo, "--plot", tmp_path / "memory.jpg"], "ending in .png"),
        (["--model", chat_repo, "--plot", "/proc/x.png"], "Could not write '/proc/x.png'"),
    ):
        code, _, err = run(capsys, "fit", *arguments)
        assert code == 1 and err.startswith("error: ") and err.count("\n") == 1 and message in err
    code, out, err = run(capsys, "fit", "--model", chat_repo, "--memory", "1MB", "--device", "cpu")
    assert "all in RAM" in out  # what there would be to choose from is shown all the same


def test_it_runs_as_a_program(chat_repo):
    command = [sys.executable, "-m", "viscpm_hf.cli", "fit", "--model", str(chat_repo), "--device", "cpu"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "would be taken" in result.stdout


@pytest.mark.parametrize(
    "program",
    [
        ["-m", "viscpm_hf.cli", "fit", "--model", "x"],
        ["-m", "viscpm_hf", "fit", "--model", "x"],
        ["viscpm", "fit", "--model", "x"],
        [str(Path(__file__).parents[2] / "conversion" / "verify.py"), "--checkpoint", "x", "--repo", "y"],
    ],
)
def test_ctrl_c_while_libraries_are_imported_is_one_line(program, tmp_path):
    """However far the imports are; a library that is interrupted while it is imported stands for all."""
    (tmp_path / "transformers").mkdir()
    code = "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException:\n    pass\n"
    (tmp_path / "transformers" / "__init__.py").write_text(code)
    (tmp_path / "viscpm").write_text("import sys\nfrom viscpm_hf.cli import main\nsys.exit(main())\n")
    source = Path(viscpm_hf.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, source)))}
    result = subprocess.run([sys.executable, *program], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "error: interrupted\n")


def test_a_program_of_somebody_else_keeps_its_ctrl_c(tmp_path):
    code = "import signal, viscpm_hf.libraries; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "True\n"
