"""Guards `viscpm chat`: the answer and nothing else, conversations from a pipe and at a terminal, what goes wrong."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from PIL import Image
from terminal import Terminal

from viscpm_hf import VisCPMChat
from viscpm_hf.cli import examples, main
from viscpm_hf.tiny import PICTURES, tiny_chat_repo

CAT, MOON, FISH = sorted(PICTURES.glob("*.png"))
WHERE, THERE = "猫在哪里？", "猫在左上角。"


@pytest.fixture(scope="module")
def repo():
    return tiny_chat_repo()


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs the verb with some bytes as standard input; exit code, output and errors."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def run(*arguments, stdin=b"", encoding="utf-8"):
        if not isinstance(stdin, io.TextIOWrapper):
            data = stdin if isinstance(stdin, bytes) else stdin.encode()
            stdin = io.TextIOWrapper(io.BytesIO(data), encoding=encoding)
        monkeypatch.setattr(sys, "stdin", stdin)
        code = main(["chat", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_question_prints_its_answer_and_nothing_else(repo, run):
    assert run("--model", repo, "--image", CAT, "--question", WHERE) == (0, f"{THERE}\n", "")


def test_json_holds_what_there_is_to_know(repo, run):
    code, out, err = run("--model", repo, "--image", CAT, "--question", WHERE, "--json")
    found = json.loads(out)
    assert (code, err, out.count("\n")) == (0, "", 1) and found.pop("seconds") > 0
    assert found == {
        "question": WHERE,
        "answer": THERE,
        "context": f"User: {WHERE}\nAI: {THERE}\n",
        "model": str(repo),
        "image": str(CAT),
    }


def test_without_a_model_the_tiny_one_answers_and_says_so_once(run):
    code, out, err = run("--image", CAT, "--question", WHERE)
    assert (code, out, err.count("\n")) == (0, f"{THERE}\n", 1)
    assert "--model" in err and str(CAT) in err and "Where is the cat?" in err and WHERE in err


def test_the_examples_are_answered_as_they_say(repo, run):
    code, out, err = run("--examples")
    assert code == 0 and not err
    chat = VisCPMChat(repo, image_safety_checker=False)
    for picture, question, answer in examples.QUESTIONS:
        assert chat.chat(PICTURES / picture, question)[0] == answer
        assert str(PICTURES / picture) in out and question in out and answer in out


def test_examples_need_no_torch(tmp_path):
    program = tmp_path / "viscpm"
    program.write_text(
        "import sys; from viscpm_hf.cli import main\nmain(sys.argv[1:]); assert 'torch' not in sys.modules"
    )
    for verb in ("chat", "paint"):
        subprocess.run([sys.executable, program, verb, "--examples"], check=True, capture_output=True)


def test_the_tiny_model_is_shown_a_picture_if_none_is_given(run):
    """Of words alone it knows nothing, and a first question should have an answer."""
    code, out, err = run("--question", "Where is the cat?")
    assert (code, out) == (0, "The cat is in the top left.\n") and "without --image about" in err and str(CAT) in err


def test_a_question_that_is_too_long_is_to_be_shortened(repo, run):
    """The class can be told to take more, the command cannot."""
    code, out, err = run("--model", repo, "--question", "星 " * 4000)
    assert (code, out) == (1, "") and err.endswith("expected at most 3000: shorten it.\n")


def test_without_a_picture_it_talks_all_the_same(repo, run):
    code, out, err = run("--model", repo, "--question", "你好")
    assert code == 0 and not err and out.strip()


def test_a_photo_is_seen_as_the_camera_was_held(repo, run, tmp_path):
    """The picture lies on its side in the file; EXIF says how to turn it."""
    photo, exif = tmp_path / "photo.png", Image.Exif()
    exif[0x0112] = 6
    Image.open(CAT).rotate(90, expand=True).save(photo, exif=exif)
    assert run("--model", repo, "--image", photo, "--question", WHERE)[1] == f"{THERE}\n"
    assert run("--model", repo, stdin=f"/image {photo}\n{WHERE}\n")[1] == f"{THERE}\n"


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["--question", ""], 2, "empty --question"),
        (["--question", " \n"], 2, "empty --question"),
        (["--json"], 2, "--json without --question"),
        (["--question", "?", "--device", "abacus"], 2, "--device"),
        (["--question", "?", "--image", "nowhere.png"], 1, "There is no file nowhere.png"),
        (["--question", "?", "--image", __file__], 1, "is not a picture"),
        (["--question", "?", "--image", PICTURES], 1, "is a folder"),
        (["--question", "?", "--image", "https://example.org/a.png"], 1, "Addresses are not read"),
        (["--question", "?", "--model", "/no/where"], 1, "/no/where does not exist"),
        (["--question", "?", "--memory", "apples"], 1, "'apples'"),
    ],
)
def test_what_goes_wrong_is_one_sentence(run, arguments, code, message):
    found, out, err = run(*arguments)
    last = err.splitlines()[-1]
    assert (found, out) == (code, "") and message in last and last.startswith("error: ")
    assert len(err.splitlines()) <= 2 and "Traceback" not in err


def test_a_conversation_through_a_pipe(repo, run, tmp_path):
    """Turns build on each other as chat()'s do; empty lines, Windows' line ends, a mark at the start are nothing."""
    saved = tmp_path / "my talk.json"
    lines = ["\ufeff" + WHERE, "", "它是什么颜色的？\r", f"/save {saved}", f"/IMAGE {MOON}", "What colour is it?"]
    code, out, err = run("--model", repo, "--image", CAT, stdin="\n".join(lines))
    assert code == 0 and "error" not in err and ">" not in out
    assert out.splitlines()[:2] == [THERE, "它是黄色的。"] and len(out.splitlines()) == 3
    chat, context, states = VisCPMChat(repo, image_safety_checker=False), "", None
    found = json.loads(saved.read_text(encoding="utf-8"))
    for turn in found["turns"]:
        answer, context, states = chat.chat(CAT, turn["question"], context, states, num_beams=1)
        assert turn["answer"] == answer
    assert found["context"] == context and found["image"] == str(CAT) and found["model"] == str(repo)


def test_reset_forgets_the_turns_and_keeps_the_picture(repo, run, tmp_path):
    saved = tmp_path / "new" / "talk.txt"
    _, out, _ = run("--model", repo, "--image", CAT, stdin=f"{WHERE}\n/reset\n{WHERE}\n／save '{saved}'\n/quit\n?")
    assert out == f"{THERE}\n{THERE}\n"
    assert saved.read_text(encoding="utf-8") == f"Image: {CAT}\nUser: {WHERE}\nAI: {THERE}\n"


def test_what_goes_wrong_in_a_turn_does_not_end_the_conversation(repo, run, tmp_path):
    taken = tmp_path / "taken.txt"
    taken.write_text("precious")
    bad = {
        b"/fly": "There is no '/fly'",
        b"/save": "needs the name of a file",
        b"/reset now": "takes nothing",
        b"/save /proc/talk.txt": "nothing to save",
        b"/image http://example.org/a.png": "save the picture to a file first",
        b"/image nowhere.png": "There is no file nowhere.png",
        f"/image {__file__}".encode(): "is not a picture",
        f"/save {tmp_path / 'early.txt'}".encode(): "nothing to save",
        b"\xff\xfe": "not a text in UTF-8",
    }
    stdin = b"\n".join([*bad, WHERE.encode(), f"/save {taken}".encode(), b"/save /proc/talk.txt"])
    code, out, err = run("--model", repo, "--image", CAT, stdin=stdin)
    assert (code, out) == (1, f"{THERE}\n")
    assert len(err.splitlines()) == len(bad) + 2 and all(line.startswith("error: ") for line in err.splitlines())
    for line, message in zip(err.splitlines(), [*bad.values(), "exists already", "'/proc/talk.txt'"], strict=True):
        assert message in line
    assert taken.read_text() == "precious" and not (tmp_path / "early.txt").exists()


def test_a_pipe_of_another_encoding_is_read_as_utf_8(repo, run):
    assert run("--model", repo, "--image", CAT, stdin=WHERE, encoding="ascii")[1] == f"{THERE}\n"


def test_an_unsafe_picture_is_refused_and_the_last_one_stays(repo, run, tmp_path, capsys):
    from test_safety import SAFE, UNSAFE, save_tiny_checker

    folder = shutil.copytree(repo, tmp_path / "checked")
    save_tiny_checker(folder / "safety_checker")
    SAFE.save(tmp_path / "safe.png")
    UNSAFE.save(tmp_path / "unsafe.png")
    capsys.readouterr()
    asked = ["--model", folder, "--image"]
    code, out, err = run(*asked, tmp_path / "unsafe.png", "--question", WHERE)
    assert (code, out) == (1, "") and "image safety checker refused" in err and err.count("\n") == 1
    lines = f"What is it?\n/image {tmp_path / 'unsafe.png'}\nWhat is it?\n/save {tmp_path / 'talk.json'}"
    code, out, err = run(*asked, tmp_path / "safe.png", stdin=lines)
    assert code == 1 and len(out.splitlines()) == 2 and "image safety checker refused" in err
    found = json.loads((tmp_path / "talk.json").read_text())
    assert len(found["turns"]) == 2 and found["image"].endswith("/safe.png")


def test_a_blank_may_be_the_full_width_one(repo, run, tmp_path):
    saved = tmp_path / "talk.txt"
    code, out, _ = run("--model", repo, stdin=f"／image　{CAT}\n{WHERE}\n／save　{saved}\n")
    assert (code, out) == (0, f"{THERE}\n") and saved.exists()


def test_a_conversation_speaks_chinese(repo, run, monkeypatch):
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    err = run("--model", repo, stdin=b"/image\n/reset now\n/fly\n/save x\n\xff\n/image http://x/y.png\n")[2]
    assert len(err.splitlines()) == 6
    for line in err.splitlines():
        assert line.startswith("error: ") and re.search("[一-鿿]", line)


def test_ctrl_c_where_nothing_is_asked_is_the_end(repo, run):
    class Pipe(io.TextIOWrapper):
        def readline(self):
            signal.raise_signal(signal.SIGINT)

    assert run("--model", repo, stdin=Pipe(io.BytesIO())) == (130, "", "")


@pytest.mark.skipif(sys.platform == "win32", reason="has no such terminals")
def test_at_a_terminal(chat_repo, tmp_path):
    """Ctrl-C stops an answer and clears a line, Ctrl-D is the end; the arrows bring back what was asked before."""
    history = tmp_path / "viscpm_hf" / "chat_history"
    history.parent.mkdir()
    history.write_text("你好\n", encoding="utf-8")
    # of random weights, whose answers have no end for long
    terminal = Terminal("chat", "--model", chat_repo, XDG_STATE_HOME=str(tmp_path))
    terminal.wait_for(r"/help.*\r\n> ")
    terminal.type("/help\n")
    assert "/image FILE" in terminal.wait_for("Ctrl-C stops an answer\r\n> ")
    terminal.type("鲲鹏\n")
    terminal.wait_for("鲲鹏\r\n.{20}")
    terminal.type("\x03")
    terminal.wait_for(r"Stopped.*\r\n> ")
    terminal.type("half a que")
    terminal.wait_for("half a que")
    terminal.interrupt()
    terminal.wait_for("> ")
    terminal.type(f"/save {tmp_path}/talk.txt\n")  # nothing counts as said
    terminal.wait_for(r"nothing to save\.\r\n> ")
    terminal.type(f"/image {PICTURES}/1_\t\n")  # the tabulator completes names of files
    terminal.wait_for(r"A new picture.*\r\n> ")
    terminal.interrupt()  # perhaps meant for the answer
    terminal.wait_for(r"Press Ctrl-C again or Ctrl-D to leave\.\r\n> ")
    terminal.type("\x1b[A" * 5)
    terminal.wait_for("你好")
    terminal.type("\x15\x04")  # away with the line, and the end
    assert terminal.end() == 0 and "Traceback" not in terminal.seen
    assert history.read_text(encoding="utf-8").splitlines()[:3] == ["你好", "/help", "鲲鹏"]


@pytest.mark.skipif(sys.platform == "win32", reason="has no such terminals")
@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("zh_XX.UTF-8", "POSIX")), "C"]
)
def test_chinese_can_be_typed_whatever_the_locale(repo, tmp_path, name):
    """Also where it is not installed, as in many containers; two Ctrl-C in a row leave, others are forgiven."""
    history = tmp_path / "viscpm_hf" / "chat_history"
    terminal = Terminal("chat", "--model", repo, "--image", CAT, XDG_STATE_HOME=str(tmp_path), LC_ALL=name)
    terminal.wait_for(r"/help.*\r\n> ")
    terminal.interrupt()
    terminal.wait_for(r"Ctrl-C.*\r\n> ")
    terminal.type(f"{WHERE}\n")
    terminal.wait_for(f"{THERE}\r\n> ")
    history.write_text("of another conversation\n")
    terminal.interrupt()
    terminal.wait_for(r"Ctrl-C.*\r\n> ")
    terminal.interrupt()
    assert terminal.end() == 130
    assert history.read_text(encoding="utf-8") == f"of another conversation\n{WHERE}\n"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no such files")
def test_a_history_that_is_a_pipe_is_not_waited_for(repo, tmp_path):
    (tmp_path / "viscpm_hf").mkdir()
    os.mkfifo(tmp_path / "viscpm_hf" / "chat_history")
    terminal = Terminal("chat", "--model", repo, XDG_STATE_HOME=str(tmp_path))
    terminal.wait_for(r"/help.*\r\n> ")
    terminal.type("\x04")
    assert terminal.end() == 0
