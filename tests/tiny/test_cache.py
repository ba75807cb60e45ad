"""Guards where converted tiny models are kept: the user's cache, else a folder of this user alone."""

import os
import stat

import pytest

from viscpm_hf.tiny import cache_folder


def test_the_cache_folder_is_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache" / "viscpm_hf" and cache_folder().is_dir()


@pytest.mark.parametrize("cache", ["/dev/null", "/proc/none", "\0"])
def test_where_it_cannot_be_written_to_there_is_a_temporary_one(tmp_path, monkeypatch, cache):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("os.environ", {**os.environ, "XDG_CACHE_HOME": cache})
    folder = cache_folder()
    assert folder.parent == tmp_path and stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert cache_folder() == folder


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_may_be_of_somebody_else_is_not_used(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    place = cache_folder()
    place.rmdir()
    if kind == "file":
        place.touch()
    else:
        (tmp_path / "elsewhere").mkdir()
        place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="set XDG_CACHE_HOME to one that can be written to"):
        cache_folder()
