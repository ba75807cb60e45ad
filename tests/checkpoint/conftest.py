"""The golden checkpoint as a state dict, and running a function in a process of its own."""

import os
import time

import pytest
from safetensors.torch import load_file

from viscpm_hf.checkpoint import convert_chat


@pytest.fixture(scope="session")
def weights(golden):
    """Original names → tensors of the golden checkpoint; not to be changed."""
    return golden("chat_weights.safetensors")


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
