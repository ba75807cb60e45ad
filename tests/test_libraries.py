"""Guards the import of the package: in any process, from several threads, and without a trace in others' loggers."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

import viscpm_hf
from viscpm_hf.libraries import SAID_BY_DIFFUSERS, quiet

SOURCE = str(Path(viscpm_hf.__file__).parents[1])
IN_THREADS = """
import logging, threading
import viscpm_hf
errors, start = [], threading.Barrier(4)
def get(name):
    start.wait()
    try:
        getattr(viscpm_hf, name)
    except BaseException as error:
        errors.append(error)
names = ("VisCPMChat", "VisCPMPaint", "VisCPMPaintPipeline", "pack_linears")
threads = [threading.Thread(target=get, args=(name,)) for name in names]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not errors, errors
assert [logging.getLogger(name).level for name in LOGGERS] == [0] * len(LOGGERS)
"""
# what multiprocessing starts has the arguments of its parent, which here is the command
SPAWNED = """
import multiprocessing
def ask(connection):
    from transformers import CONFIG_MAPPING
    connection.send("viscpm_chat" in CONFIG_MAPPING)
import viscpm_hf.cli
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=ask, args=(there,)).start()
    assert here.recv()
"""


def run(*command, cwd=None):
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    done = subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_names_are_loaded_on_first_use_by_several_threads_at_once():
    run("-c", f"LOGGERS = {SAID_BY_DIFFUSERS!r}\n{IN_THREADS}")


@pytest.mark.parametrize("arguments", ["[]", "[None]", "['']"])
def test_a_process_without_arguments(arguments):
    """As an interpreter has that is part of another program."""
    run(
        "-c",
        f"import sys; sys.argv = {arguments}; import viscpm_hf, transformers; transformers.CONFIG_MAPPING['cpmbee']",
    )


def test_a_process_that_the_command_started(tmp_path):
    (tmp_path / "viscpm").write_text(SPAWNED)
    run("viscpm", cwd=tmp_path)


def test_loggers_are_as_they_were_when_the_last_one_leaves():
    logger = logging.getLogger("somebody.else")
    logger.setLevel(logging.INFO)
    first, second = quiet(logger.name), quiet(logger.name)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert logger.level == logging.ERROR
    second.__exit__(None, None, None)
    assert logger.level == logging.INFO
