"""Guards complete-or-nothing: no error, signal or kill leaves a half-written output, and a rerun starts clean."""

import resource
import shutil
import signal
import time

import pytest

from viscpm_hf.checkpoint import CheckpointError, export_original, job, run_script, verify, weights


@pytest.fixture
def stuck(monkeypatch, tmp_path):
    """Makes every conversion hang after its first piece; gives a function that tells when it does."""
    real = weights.read_pieces

    def read_pieces(tensor):
        yield from real(tensor)
        (tmp_path / "stuck").touch()
        time.sleep(60)

    monkeypatch.setattr(weights, "read_pieces", read_pieces)
    return (tmp_path / "stuck").exists


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("command", "source", "marker"),
    [
        ("convert", "chat_checkpoint/pytorch_model.plain.bin", "config.json"),
        ("convert_paint_to", "paint_original/pytorch_model.bin", "unet/config.json"),
    ],
)
def test_kill_then_rerun(request, child, stuck, wait_for, tmp_path, monkeypatch, command, source, marker):
    convert, (fixture, _, name) = request.getfixturevalue(command), source.partition("/")
    running = child(lambda: convert() and 0)
    wait_for(stuck)
    partial = tmp_path / ".out.partial"
    assert not (tmp_path / "out").exists() and (partial / "out" / marker).exists()
    with pytest.raises(CheckpointError, match="Another process is writing"):
        convert()
    assert (partial / "out" / marker).exists()
    assert running.send(signal.SIGKILL).code() == -signal.SIGKILL
    assert (partial / "out").exists() and not (tmp_path / "out").exists()
    (partial / "out" / "leftover").touch()
    monkeypatch.undo()
    out = convert()
    assert names(tmp_path) == ["out", "stuck"] and not (out / "leftover").exists()
    assert not any(result.differences for result in verify(request.getfixturevalue(fixture) / name, out).values())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_signals_leave_nothing(convert, child, stuck, wait_for, tmp_path, number, code):
    running = child(lambda: run_child(lambda: convert(output=tmp_path / "new" / "deep" / "out")))
    wait_for(stuck)
    assert (tmp_path / "new" / "deep" / ".out.partial" / "out").exists()
    assert running.send(number).code() == code
    assert names(tmp_path) == ["stuck"]


def run_child(function):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return run_script(lambda: function() and 0)
    except SystemExit as ending:
        return ending.code


def test_signals_that_were_ignored_stay_so():
    """As `nohup` wants it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_script(lambda: int(signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN)) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("limit", [1000, 100_000])
def test_a_disk_that_fills_up_leaves_nothing(convert, child, chat_repo, tmp_path, limit):
    def full(function):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            function()
        except CheckpointError as error:
            return 0 if "make room" in str(error) and "\n" not in str(error) else 2
        return 1

    assert child(lambda: full(convert)).code() == 0
    assert child(lambda: full(lambda: export_original(chat_repo, tmp_path / "a.bin"))).code() == 0
    assert names(tmp_path) == []


def test_too_little_space_is_seen_before_writing(convert, chat_repo, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    for command in (convert, lambda: export_original(chat_repo, tmp_path / "new" / "a.bin")):
        with pytest.raises(CheckpointError, match=r"needs 0\.\d\d GB but only 0\.00 GB are free"):
            command()
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["folder", "full folder", "file", "dangling link"])
def test_an_existing_output_is_left_alone(convert, tmp_path, kind):
    out = tmp_path / "out"
    match kind:
        case "folder":
            out.mkdir()
        case "full folder":
            out.mkdir()
            (out / "mine").touch()
        case "file":
            out.touch()
        case "dangling link":
            out.symlink_to(tmp_path / "nowhere")
    before = out.lstat()
    with pytest.raises(CheckpointError, match="exists already"):
        convert()
    assert out.lstat() == before and names(tmp_path) == ["out"]


def test_an_output_that_appears_meanwhile_is_left_alone(convert, tmp_path, monkeypatch):
    real = weights.write_weights

    def write_weights(*arguments):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").touch()
        return real(*arguments)

    monkeypatch.setattr(job, "write_weights", write_weights)
    with pytest.raises(CheckpointError, match="exists already"):
        convert()
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["mine"]
