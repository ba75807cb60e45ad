"""Guards `viscpm batch --ray`: the lines are those without Ray, though a process is killed; nobody else connects."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from viscpm_hf.cli.examples import QUESTIONS
from viscpm_hf.tiny import PICTURES

for name in ("ray", "pandas", "pyarrow"):
    pytest.importorskip(name)


def processes(pattern, mark):
    """Of Ray, by name; those that this test started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if re.search(pattern, (folder / "cmdline").read_bytes()) and mark in (folder / "environ").read_bytes():
                yield int(folder.name)
        except OSError:
            continue


def listens_at(process):
    """Addresses, as the kernel writes them."""
    own = {os.readlink(link) for link in Path(f"/proc/{process}/fd").iterdir() if link.is_symlink()}
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own}


def begun(folder, lines):
    """The command, once it has answered ten rows."""
    (folder / "in.jsonl").write_text("\n".join(lines))
    command = [sys.executable, "-m", "viscpm_hf", "batch", "chat", "--input", folder / "in.jsonl", "--output"]
    command += [folder / "out.jsonl", "--images", PICTURES, "--ray", "--processes", "2", "--batch", "2"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["VISCPM_TEST"] = str(folder)
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, env=environment)
    end = time.monotonic() + 400
    while not (folder / "out.jsonl").exists() or (folder / "out.jsonl").read_bytes().count(b"\n") < 10:
        if process.poll() is not None or time.monotonic() > end:
            process.terminate()
            errors = process.communicate()[1]
            assert "Ray could not start" in errors
            pytest.skip(errors)
        time.sleep(0.05)
    return process


def test_without_ray_it_ends_at_once_and_says_so(tmp_path):
    """Told to stop without a raylet, Ray Data would end the process without a word."""
    process = begun(tmp_path, [json.dumps({"question": "图里有什么？"})] * 2000)
    (raylet,) = processes(rb"^\S*/raylet\0", bytes(tmp_path))
    os.kill(raylet, signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 70 and "error: Ray, which ran the models, is gone" in errors
    assert "Traceback" not in errors and (tmp_path / "out.jsonl").read_bytes().endswith(b"}\n")


def test_the_lines_are_those_of_one_process(tmp_path):
    rows = [{"number": n, "image": QUESTIONS[n % 10][0], "question": QUESTIONS[n % 10][1]} for n in range(120)]
    lines = [json.dumps(row) for row in rows]
    lines.insert(7, "no JSON")
    process = begun(tmp_path, lines)
    workers = list(processes(b"^ray::MapWorker", str(tmp_path).encode()))
    assert len(workers) == 2
    addresses = set().union(
        *map(listens_at, (process.pid, *workers, *processes(b"raylet|gcs_server", bytes(tmp_path))))
    )
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    os.kill(workers[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert process.returncode == 1 and "121 rows in" in errors and "1 failed" in errors
    assert found.pop(7)["line"] == "no JSON"
    assert [row["number"] for row in found] == list(range(120))
    assert [row["answer"] for row in found] == [QUESTIONS[n % 10][2] for n in range(120)]
