"""Guards what people see: one line whatever a message holds, and no traceback where nothing can be printed."""

import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest

import viscpm_hf
from viscpm_hf.cli.program import run_script

BODY = """
import sys
import time
import weakref
sys.path.insert(0, sys.argv[2])
from viscpm_hf.cli import program
if "without the Auto classes" in sys.argv:
    program.register = lambda: None
def body():
    print("完成 \\udcff", "x" * 20000)
    with open(sys.argv[1], "w") as file:
        file.write("done")
sys.exit(program.run_script(body))
"""


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """Exit code and errors of a script that prints and then works, its output going where a shell says.

    A verb registers the Auto classes first, which takes seconds, and is the same wherever the output goes.
    """
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "viscpm").write_text(BODY, encoding="utf-8")

    def run(redirection, registers=False, **environment):
        mark = folder / "mark"
        mark.unlink(missing_ok=True)
        script = f"{sys.executable} {folder}/viscpm {mark} {Path(viscpm_hf.__file__).parents[1]}"
        script += "" if registers else " 'without the Auto classes'"
        command = ["bash", "-c", f"{script} {redirection}"]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=60)
        assert mark.read_text() == "done", "printing stopped the work"
        return done.returncode, done.stdout, done.stderr

    return run


def test_a_full_disk_behind_the_output_is_said(ends):
    code, out, err = ends("> /dev/full")
    assert (code, out) == (1, "")
    assert err == "error: the output could not be printed ([Errno 28] No space left on device)\n"


def test_a_reader_that_has_enough_is_no_error(ends):
    code, _, err = ends("| head -c 3; exit ${PIPESTATUS[0]}")
    assert (code, err) == (0, "")


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&- >&- 2>&-", "2> /dev/full"])
def test_closed_files_are_no_error(ends, redirection):
    assert ends(redirection, registers=redirection == "<&- >&- 2>&-")[0] == 0


def test_an_output_that_is_ascii_only(ends):
    code, out, err = ends("", LC_ALL="C", PYTHONIOENCODING="ascii")
    assert (code, err) == (0, "") and out.startswith("\\u5b8c\\u6210 \\udcff")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_disturb_the_cleaning_up(number):
    cleaned = []

    def body():
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(number)
            cleaned.append(True)

    before = signal.getsignal(number)
    if number == signal.SIGINT:
        assert run_script(body) == 130
    else:
        with pytest.raises(SystemExit) as ending:
            run_script(body)
        assert ending.value.code == 143
    assert cleaned and signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_callback_of_the_interpreter_is_not_lost(number):
    """What is raised there is dropped, as in importlib's callbacks while a model is loaded."""

    class Thing:
        pass

    def body():
        thing = Thing()
        watch = weakref.ref(thing, lambda _: signal.raise_signal(number))
        del thing
        assert watch() is None
        time.sleep(5)

    hook = sys.unraisablehook
    if number == signal.SIGINT:
        assert run_script(body) == 130
    else:
        with pytest.raises(SystemExit) as ending:
            run_script(body)
        assert ending.value.code == 143
    assert sys.unraisablehook is hook


def test_too_little_memory_is_one_line(capsys):
    def body():
        raise MemoryError

    assert run_script(body) == 1 and capsys.readouterr().err == "error: out of memory\n"
