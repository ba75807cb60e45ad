"""Guards opening files of others: no waiting for pipes and devices, changes are noticed."""

import os
import socket
import time

import pytest

from viscpm_hf.checkpoint import CheckpointError
from viscpm_hf.checkpoint.files.disk import identity, open_regular, read_small, require_unchanged


@pytest.fixture(params=["a folder", "a named pipe", "a socket", "a device"])
def no_file(request, tmp_path):
    """A path that is no regular file, and what it is."""
    path = tmp_path / "a.bin"
    match request.param:
        case "a folder":
            path.mkdir()
        case "a named pipe":
            os.mkfifo(path)
        case "a socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
        case "a device":
            path.symlink_to("/dev/zero")
    return path, request.param


def test_only_regular_files_are_opened(no_file):
    path, what = no_file
    for read in (open_regular, read_small):
        with pytest.raises(CheckpointError, match=f"a.bin is {what}, expected a regular file"):
            read(path)


@pytest.mark.parametrize("name", ["nowhere", "file/below", "a\0b", "x\ud800"])
def test_what_is_not_there(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="There is no file"):
        open_regular(tmp_path / name)


def test_small_files_are_small(tmp_path):
    (tmp_path / "a").write_bytes(b"123")
    assert read_small(tmp_path / "a") == b"123"
    os.truncate(tmp_path / "a", 1 << 40)
    with pytest.raises(CheckpointError, match="has more than 32 MB"):
        read_small(tmp_path / "a")


@pytest.mark.parametrize("change", ["write", "grow", "replace", "write and set the time back"])
def test_every_change_is_noticed(tmp_path, change):
    path = tmp_path / "a"
    path.write_bytes(b"123")  # a moment before: the clock of the file system may not have moved
    with open_regular(path) as file:
        seen = identity(file)
        require_unchanged(file, path, seen)
    match change:
        case "write":
            with open(path, "r+b") as file:
                file.write(b"1")
        case "write and set the time back":
            path.write_bytes(b"124")
            os.utime(path, ns=(seen.modified, seen.modified))
        case "grow":
            os.truncate(path, 10)
        case "replace":
            (tmp_path / "b").write_bytes(b"123")
            os.utime(tmp_path / "b", ns=(seen.modified, seen.modified))
            os.replace(tmp_path / "b", path)
    with open_regular(path) as file, pytest.raises(CheckpointError, match="changed or replaced while"):
        require_unchanged(file, path, seen)


@pytest.mark.parametrize("age", [0, 3600])
def test_the_clock_must_have_moved_since_the_last_write(tmp_path, monkeypatch, age):
    """A write in the same tick of the file system's clock as the one before could not be told from it."""
    (tmp_path / "a").write_bytes(b"123")
    waited, now = [], time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + age * 10**9)
    monkeypatch.setattr(time, "sleep", waited.append)
    with open_regular(tmp_path / "a") as file:
        identity(file)
    assert bool(waited) == (age == 0)
