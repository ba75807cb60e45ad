"""The golden checkpoint as a state dict, and running a function in a process of its own."""

import os
import re
import resource
import signal
import time
import traceback
from pathlib import Path

import pytest
from paint_original import converted_paint, write_original
from safetensors.torch import load_file

from viscpm_hf.checkpoint import convert_chat
from viscpm_hf.checkpoint.files.safetensors_file import read_safetensors


@pytest.fixture(scope="session")
def weights(golden):
    """Original names → tensors of the golden checkpoint; not to be changed."""
    return golden("chat_weights.safetensors")


@pytest.fixture(scope="session")
def weights_of_paint():
    """Original names → places of the golden Paint checkpoint's tensors; not to be changed."""
    return read_safetensors(Path(__file__).parents[1] / "golden" / "paint_weights.safetensors")


@pytest.fixture
def convert(chat_checkpoint, tmp_path):
    """Converts a checkpoint with the golden vocabulary and configurations to `tmp_path / "out"`."""

    def run(checkpoint=chat_checkpoint / "pytorch_model.plain.bin", output=tmp_path / "out", **options):
        options = {
            "vocab": os.path.join(os.path.dirname(__file__), "..", "golden", "vocab.txt"),
            "llm_config": chat_checkpoint / "llm_config.json",
            "vision_config": chat_checkpoint / "vision_config.json",
            "progress": False,
            **options,
        }
        return convert_chat(checkpoint, output=output, **options)

    return run


@pytest.fixture(scope="session")
def paint_original(tmp_path_factory):
    """Folder with the golden Paint checkpoint, its configurations and `sd_base/`; not to be changed."""
    return write_original(tmp_path_factory.mktemp("paint"))


@pytest.fixture
def convert_paint_to(paint_original, tmp_path):
    """Converts the golden Paint checkpoint, or another, with its configurations to `tmp_path / "out"`."""

    def run(checkpoint=None, output=tmp_path / "out", **options):
        return converted_paint(paint_original, checkpoint, output=output, **options)

    return run


@pytest.fixture
def stored():
    """All tensors of a converted repository, by name."""

    def load(folder):
        files = sorted(folder.glob("*.safetensors"))
        tensors = [load_file(file) for file in files]
        merged = {name: tensor for file in tensors for name, tensor in file.items()}
        assert len(merged) == sum(map(len, tensors))
        return merged

    return load


class Child:
    """A forked process that runs a function and ends with the exit code it returns."""

    def __init__(self, function):
        self.pid = os.fork()
        if not self.pid:
            code = 99
            try:
                code = function()
            finally:
                os._exit(code)

    def send(self, signal):
        os.kill(self.pid, signal)
        return self

    def code(self):
        """Exit code, or minus the signal that ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def child():
    return Child


@pytest.fixture
def wait_for():
    def wait(condition, seconds=20):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "nothing happened"
            time.sleep(0.01)

    return wait


@pytest.fixture
def bounded(child):
    """Runs a function in a process that may take a minute and, beyond what it has, a gigabyte; 0 if it returns.

    What the function raises is printed there.
    """

    def run(function, spare=1 << 30):
        def limited():
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + spare
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            signal.alarm(60)
            try:
                function()
            except BaseException:
                traceback.print_exc()
                return 1
            return 0

        return child(limited).code()

    return run


def peak_memory():
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


@pytest.fixture
def memory_growth():
    """By how many bytes a function raises the peak of this process's memory."""
    clear = Path("/proc/self/clear_refs")
    if not clear.exists():
        pytest.skip("measures memory the Linux way")

    def measure(function):
        clear.write_text("5")  # forgets the peak
        before = peak_memory()
        function()
        return peak_memory() - before

    return measure
