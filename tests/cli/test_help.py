"""Guards help, version, wrong command lines, shell completion: right in both languages, nothing heavy imported."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.cells import cell_len

import viscpm_hf
from viscpm_hf.cli.app import app


def verbs(command, path=()):
    """The words of every command and group."""
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from verbs(below, (*path, name))


START = "import sys\nfrom viscpm_hf.cli import main\n"
VERBS = sorted(verbs(typer.main.get_command(app)))
PROGRAMS = (["viscpm"], ["-m", "viscpm_hf"], ["-m", "viscpm_hf.cli"])


@pytest.fixture(scope="module")
def viscpm(tmp_path_factory):
    """Runs the command as the console script does, or as a module; it must not import what takes long."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "viscpm").write_text(f"{START}sys.exit(main())\n")
    (folder / "pages").mkdir()
    (folder / "pages" / "viscpm").write_text(f"{START}for verb in sys.argv[1:]: main([*verb.split(), '--help'])\n")

    def run(*arguments, program=PROGRAMS[0], **environment):
        environment = {"PYTHONPATH": str(Path(viscpm_hf.__file__).parents[1]), "COLUMNS": "80", **environment}
        done = subprocess.run(
            [sys.executable, "-X", "importtime", *program, *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            env={**os.environ, "LANGUAGE": "", "LC_ALL": "", "HOME": str(folder), **environment},
        )
        lines = done.stderr.splitlines(keepends=True)
        imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
        assert "typer" in imported
        heavy = {"torch", "transformers", "diffusers", "numpy", "PIL", "huggingface_hub", "accelerate"}
        assert not heavy & imported
        return done.returncode, done.stdout, "".join(line for line in lines if not line.startswith("import time:"))

    return run


@pytest.mark.parametrize("language", ["C.UTF-8", "zh_CN.UTF-8"])
def test_help_of_every_verb(viscpm, language):
    """It fits into 80 columns, with nothing cut off and no type beside what takes none."""
    code, pages, err = viscpm(*map(" ".join, VERBS), program=["pages/viscpm"], LC_ALL=language)
    pages = [f"Usage: viscpm{page}" for page in pages.split("Usage: viscpm")[1:]]
    assert (code, err, len(pages)) == (0, "", len(VERBS))
    chinese = language.startswith("zh")
    for words, page in zip(VERBS, pages, strict=True):
        assert page.startswith(f"Usage: {' '.join(['viscpm', *words])} [OPTIONS]")
        assert "…" not in page and "<bool>" not in page and max(map(cell_len, page.splitlines())) <= 80, page
        assert ("选项" in page, "显示本页" in page, "Options" in page) == (chinese, chinese, not chinese)
        assert bool(re.search("[一-鿿]", page)) == chinese


@pytest.mark.parametrize("program", PROGRAMS, ids=" ".join)
def test_version_and_wrong_command_lines(viscpm, program):
    assert viscpm("--version", program=program) == (0, f"viscpm-hf {viscpm_hf.__version__}\n", "")
    for arguments in ([], ["fly"], ["fit"], ["convert", "chat", "--dtype", "int8"], ["push", "-x"]):
        code, out, err = viscpm(*arguments, program=program)
        assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize("name", ["viscpm_hf.__main__", "viscpm_hf.cli.__main__"])
def test_to_import_is_not_to_run(name):
    assert runpy.run_module(name)["main"]  # to run is to exit


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("viscpm conv", ["convert"]),
        ("viscpm convert ", ["chat", "cpmbee", "lora", "paint"]),
        ("viscpm convert chat --vo", ["--vocab"]),
        ("viscpm fit --device ", ["cpu", "cuda"]),
    ],
)
def test_completion_in_bash(viscpm, words, offered):
    number = str(len(words.split(" ")) - 1)
    code, out, _ = viscpm(_VISCPM_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=number)
    assert code == 0 and sorted(out.split()) == offered


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="needs bash")
def test_completion_is_installed(viscpm, tmp_path):
    """typer asks which shell it runs in; a shell that starts it stands for that."""
    code, out, err = viscpm("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert (code, err) == (0, "") and "_VISCPM_COMPLETE=complete_bash" in out
    option = ("--install-completion", "bash")
    code, out, err = viscpm(*option, HOME=str(tmp_path), _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert (code, err) == (0, "") and "viscpm.sh" in out
    assert "_VISCPM_COMPLETE" in (tmp_path / ".bash_completions" / "viscpm.sh").read_text()


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "said"),
    [
        (["--install-completion", "zsh"], {}, 2, "Got 'zsh' after --install-completion"),
        (["--show-completion", "nosuch"], {}, 2, "Got 'nosuch' after --show-completion"),
        (["--install-completion", "bash"], {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}, 1, "/proc"),
        ([], {"_VISCPM_COMPLETE": "complete_bash"}, 1, "COMP_WORDS"),
        ([], {"_VISCPM_COMPLETE": "complete_bash", "COMP_WORDS": "viscpm ", "COMP_CWORD": "x"}, 1, "'x'"),
    ],
)
def test_completion_that_does_not_work_is_one_sentence(viscpm, arguments, environment, code, said):
    found, out, err = viscpm(*arguments, HOME="/proc", **environment)
    assert (found, out) == (code, "") and err.startswith("error: ") and err.count("\n") == 1 and said in err


@pytest.mark.parametrize(("redirection", "code"), [("| head -c 3; exit ${PIPESTATUS[0]}", 0), (">&-", 0), ("2>&-", 0)])
def test_help_that_nobody_reads_is_no_error(redirection, code, tmp_path):
    done = subprocess.run(["bash", "-c", f"{sys.executable} -m viscpm_hf --help {redirection}"], capture_output=True)
    assert (done.returncode, done.stderr) == (code, b"")


def test_a_full_disk_behind_the_help_is_said():
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m viscpm_hf --help > /dev/full"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == "error: the output could not be printed ([Errno 28] No space left on device)\n"


@pytest.mark.parametrize(
    ("name", "program"),
    [("viscpm", ["viscpm"]), ("viscpm.py", ["viscpm.py"]), ("own.py", ["-m", "own", "viscpm_hf"])],
)
def test_a_program_of_somebody_else_gets_the_auto_classes_and_keeps_its_ctrl_c(tmp_path, name, program):
    (tmp_path / name).write_text(
        "import signal, viscpm_hf\nfrom transformers import CONFIG_MAPPING\n"
        "assert 'viscpm_chat' in CONFIG_MAPPING\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    )
    source = str(Path(viscpm_hf.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, *program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": source}, capture_output=True
    )
    assert done.returncode == 0, done.stderr
