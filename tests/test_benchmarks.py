"""Guards benchmarks/full_size.py: every step works, it wants room first, and nothing stays on the disk."""

import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "full_size.py"


def command(folder):
    return [sys.executable, str(SCRIPT), "--scale", "small", "--models", "chat", "--folder", str(folder)]


def test_full_size_measures_every_step_and_cleans_up(tmp_path):
    done = subprocess.run(command(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"\| chat: ([a-z ]+) \| ([\d.]+) \| ([\d.]+) GiB \| ([\d.]+) GiB \|", done.stdout)
    assert [row[0] for row in rows] == ["write", "cp", "convert", "verify", "load and use"]
    resident, anonymous = (float(number) for number in rows[2][2:])
    assert 0 < anonymous < resident < 1.5  # of the conversion
    assert not list(tmp_path.iterdir())


def test_full_size_cleans_up_when_interrupted(tmp_path):
    process = subprocess.Popen(command(tmp_path), stderr=subprocess.PIPE, text=True, start_new_session=True)
    until = time.monotonic() + 60
    while not list(tmp_path.glob("*/vocab.txt")) and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.endswith("error: interrupted; all files were removed\n")
    assert not list(tmp_path.iterdir())


def test_full_size_refuses_a_disk_without_room(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**11, 10**11 - 10**10, 10**10)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--folder", str(tmp_path)])
    monkeypatch.syspath_prepend(SCRIPT.parent)
    with pytest.raises(SystemExit, match="error: 45 GB of disk are needed, but .* has 10.0 GB free."):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert not list(tmp_path.iterdir())
