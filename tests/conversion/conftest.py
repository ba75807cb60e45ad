"""Running the scripts of conversion/, in this process or in one of their own."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from paint_original import write_original

SCRIPTS = Path(__file__).parents[2] / "conversion"
VOCAB = Path(__file__).parents[1] / "golden" / "vocab.txt"


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def is_error(self, *phrases):
        """Exit code 1 and one sentence on stderr that has these phrases."""
        assert self.code == 1 and self.err.startswith("error: ") and self.err.count("\n") == 1, self.err
        assert all(phrase in self.err for phrase in phrases), self.err
        return True


@pytest.fixture
def script(capsys, monkeypatch):
    """Runs a script as `python conversion/<name>` would, without starting Python anew."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ending:
            runpy.run_path(SCRIPTS / name, run_name="__main__")
        return Result(ending.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def verified(script):
    """What verify.py says of a checkpoint and a repository that agree: number of tensors and verdict of each part."""

    def run(checkpoint, repo):
        result = script("verify.py", "--checkpoint", checkpoint, "--repo", repo)
        assert result.code == 0 and result.err == ""
        table = [line.split() for line in result.out.splitlines()[1:]]
        return {part: (int(tensors), verdict) for part, tensors, _, verdict in table}

    return run


@pytest.fixture
def process():
    """Runs a script in a process of its own."""

    def run(name, *arguments, **options):
        command = [sys.executable, SCRIPTS / name, *arguments]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, **options)
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def chat_options(chat_checkpoint):
    """What convert_chat.py needs for the golden checkpoint, but --checkpoint and --output."""
    configs = ["--llm-config", chat_checkpoint / "llm_config.json"]
    configs += ["--vision-config", chat_checkpoint / "vision_config.json"]
    return ["--vocab", VOCAB, *configs]


@pytest.fixture(scope="session")
def paint_original(tmp_path_factory):
    """Folder with the golden Paint checkpoint, its configurations and `sd_base/`; not to be changed."""
    return write_original(tmp_path_factory.mktemp("paint"))


@pytest.fixture
def paint_options(paint_original):
    """What convert_paint.py needs for the golden checkpoint, but --checkpoint and --output."""
    options = ["--vocab", VOCAB, "--sd-base", paint_original / "sd_base"]
    options += ["--llm-config", paint_original / "llm_config.json"]
    return [*options, "--unet-config", paint_original / "unet_config.json"]
