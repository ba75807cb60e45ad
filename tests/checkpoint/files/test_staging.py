"""Guards complete-or-nothing: no error, signal or kill leaves a half-written output, and a rerun starts clean."""

import contextlib
import errno
import os
import resource
import shutil
import signal
import time

import pytest

from viscpm_hf.checkpoint import CheckpointError, export_original, job, verify
from viscpm_hf.checkpoint.files import hashing, staging, weights
from viscpm_hf.checkpoint.files.staging import staged
from viscpm_hf.cli.program import run_script


@pytest.fixture
def stuck(monkeypatch, tmp_path):
    """Makes every conversion hang after its first piece; gives a function that tells when it does."""
    real = hashing.read_pieces

    def read_pieces(tensor, *buffers):
        yield from real(tensor, *buffers)
        (tmp_path / "stuck").touch()
        time.sleep(60)

    monkeypatch.setattr(hashing, "read_pieces", read_pieces)
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
    assert not (tmp_path / "out").exists() and (partial / "output" / marker).exists()
    with pytest.raises(CheckpointError, match="Another process is writing"):
        convert()
    assert (partial / "output" / marker).exists()
    assert running.send(signal.SIGKILL).code() == -signal.SIGKILL
    assert (partial / "output").exists() and not (tmp_path / "out").exists()
    (partial / "output" / "leftover").touch()
    monkeypatch.undo()
    out = convert()
    assert names(tmp_path) == ["out", "stuck"] and not (out / "leftover").exists()
    assert not any(result.differences for result in verify(request.getfixturevalue(fixture) / name, out).values())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_signals_leave_nothing(convert, child, stuck, wait_for, tmp_path, number, code):
    running = child(lambda: run_child(lambda: convert(output=tmp_path / "new" / "deep" / "out")))
    wait_for(stuck)
    assert (tmp_path / "new" / "deep" / ".out.partial" / "output").exists()
    assert running.send(number).code() == code
    assert names(tmp_path) == ["stuck"]


def run_child(function):
    # whoever started the suite in the background, with & or nohup, may ignore both
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
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
        with pytest.raises(CheckpointError, match=r"needs \d+\.?\d* [kMG]B but only 1 MB are free"):
            command()
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_place_that_cannot_be_written_to_is_named_as_it_was_given(convert, tmp_path, monkeypatch, number):
    def refuse(path, *args, **kwargs):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(CheckpointError, match=r"Could not write \S+ \(.+\); choose another output\.$") as error:
        convert()
    assert ".partial" not in str(error.value) and names(tmp_path) == []


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


def written(output):
    with staged(output) as target:
        target.write_text("new")
    return output


@pytest.mark.parametrize(
    "name", ["lock", "output", "viscpm_hf.lock", ".lock", ".out.partial", "图 片", "\udcff", "-rf"]
)
def test_any_name_of_an_output_is_safe(tmp_path, name):
    assert written(tmp_path / name).read_text() == "new" and names(tmp_path) == [name]


@pytest.mark.parametrize(
    "kind", ["link to a folder", "link to nothing", "folder with a file", "folder with a link", "file"]
)
def test_what_is_not_ours_is_neither_used_nor_deleted(tmp_path, kind):
    workspace, precious = tmp_path / ".out.partial", tmp_path / "precious"
    precious.mkdir()
    (precious / "output").write_text("mine")
    (precious / "viscpm_hf.lock").write_text("mine")
    match kind:
        case "link to a folder":
            workspace.symlink_to(precious)
        case "link to nothing":
            workspace.symlink_to(tmp_path / "nowhere")
        case "folder with a file":
            workspace.mkdir()
            (workspace / "output").write_text("mine")
        case "folder with a link":
            workspace.mkdir()
            (workspace / "viscpm_hf.lock").symlink_to(precious / "viscpm_hf.lock")
        case "file":
            workspace.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match="is in the way and was not made here"):
        written(tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before
    assert (precious / "output").read_text() == (precious / "viscpm_hf.lock").read_text() == "mine"


@pytest.mark.parametrize("moment", ["begins", "ends"])
def test_an_empty_folder_that_a_killed_run_left_is_removed(child, tmp_path, moment):
    """Killed before the folder was marked as ours, or after the mark was removed."""

    def dies():
        if moment == "begins":
            staging.FileLock.acquire = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        else:
            staging.Path.rmdir = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        written(tmp_path / "out")

    assert child(dies).code() == -signal.SIGKILL
    assert not names(tmp_path / ".out.partial")
    (tmp_path / "out").unlink(missing_ok=True)
    written(tmp_path / "out")
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("letter", ["x", "月", "\N{PILE OF POO}", "\udcff"])
def test_the_longest_names_of_an_output(tmp_path, letter):
    size = len(os.fsencode(letter))
    for count in (246 // size, 255 // size):
        assert written(tmp_path / (letter * count)).read_text() == "new"
        with pytest.raises(CheckpointError, match="is in the way"), in_the_way(tmp_path, letter * (count - 1)) as path:
            written(path)
    assert names(tmp_path) == sorted({letter * (246 // size), letter * (255 // size)})


@contextlib.contextmanager
def in_the_way(folder, name):
    """An output to whose staging folder somebody else has the name."""
    with staged(folder / name) as target:
        workspace = target.parent
        target.touch()
    (folder / name).unlink()
    workspace.write_text("mine")
    try:
        yield folder / name
    finally:
        assert workspace.read_text() == "mine"
        workspace.unlink()


def test_a_name_that_no_file_can_have_is_refused_before_any_work(tmp_path):
    for output in (tmp_path / ("x" * 256), tmp_path / "new" / ("x" * 256)):
        with pytest.raises(OSError, match="name too long"), staged(output):
            pytest.fail("the work began")
    assert names(tmp_path) == []


def test_what_somebody_puts_into_the_staging_folder_is_not_deleted(tmp_path):
    with staged(tmp_path / "out") as target:
        (target.parent / "mine").write_text("mine")
        target.write_text("new")
    assert (tmp_path / ".out.partial" / "mine").read_text() == "mine"


def test_links_in_what_a_killed_run_left_are_not_followed(child, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "mine").touch()

    def dies():
        with staged(tmp_path / "out") as target:
            target.mkdir()
            (target / "link").symlink_to(tmp_path / "precious")
            os.kill(os.getpid(), signal.SIGKILL)

    child(dies).code()
    assert (tmp_path / ".out.partial" / "output" / "link").exists()
    written(tmp_path / "out")
    assert names(tmp_path) == ["out", "precious"] and names(tmp_path / "precious") == ["mine"]


def test_one_of_many_writers_wins(child, tmp_path):
    """All begin at once, some are killed: the output is one writer's, whole, and nothing is left beside it."""

    def write(number):
        try:
            with staged(tmp_path / "lock") as target, open(target, "w") as file:
                for _ in range(200):
                    file.write(f"{number}\n")
                    file.flush()
        except CheckpointError as error:
            return 3 if "Another process" in str(error) or "exists already" in str(error) else 4
        return 0

    for _ in range(3):
        writers = [child(lambda number=number: write(number)) for number in range(6)]
        writers[0].send(signal.SIGKILL)
        codes = [writer.code() for writer in writers]
        won = [number for number, code in enumerate(codes) if code == 0]
        there = (tmp_path / "lock").exists()
        if there and not won:  # the one to be killed was through before
            won = [0]
        assert set(codes[1:]) <= {0, 3} and len(won) == there, codes
        if there:
            assert (tmp_path / "lock").read_text() == f"{won[0]}\n" * 200
            assert names(tmp_path) in (["lock"], [".lock.partial", "lock"] if codes[0] else ["lock"])
            (tmp_path / "lock").unlink()


@pytest.mark.parametrize("left", range(12))
def test_too_many_open_files_before_it_begins(child, tmp_path, left):
    def exhausted():
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        held = []
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        for number in held[:left]:
            os.close(number)
        try:
            written(tmp_path / "new" / "out")
        except OSError as error:
            return 0 if error.errno == errno.EMFILE else 2
        return 3

    assert child(exhausted).code() == (0 if left < 10 else 3)
    assert names(tmp_path) == ([] if left < 10 else ["new"])


def test_too_many_open_files_leave_nothing(child, convert, tmp_path):
    (tmp_path / "in").mkdir()

    def exhausted():
        convert(output=tmp_path / "in" / "first")  # whatever is opened once
        real = weights.write_weights

        def write_weights(*arguments):
            held = []
            with contextlib.suppress(OSError):
                while True:
                    held.append(os.open(os.devnull, os.O_RDONLY))
            real(*arguments)

        job.write_weights = write_weights
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        try:
            convert(output=tmp_path / "in" / "out")
        except OSError as error:
            return 0 if error.errno == errno.EMFILE else 2
        return 1

    assert child(exhausted).code() == 0
    assert names(tmp_path / "in") == ["first"]
