"""Guards `viscpm push --space`: the folder of a Space is whole, and its page opens where only its libraries are."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from viscpm_hf.checkpoint.publishing import Upload

TESTS = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_space_shows_the_model_it_is_of(hub, viscpm, chat, tmp_path):
    pytest.importorskip("gradio")
    code, out, err = viscpm("push", chat, "me/shown", "--space", "--dry-run")
    assert code == 0 and "The repository would be created, private" in out and "The Space would be created" in out
    code, out, err = viscpm("push", chat, "me/shown", "--space")
    assert (code, out) == (0, f"Uploaded: {hub.url}/spaces/me/shown\n"), err
    assert hub.private >= {"me/shown", "spaces/me/shown"}
    assert viscpm("push", chat, "me/shown", "--space")[0] == 0
    folder = hub.uploads / "spaces/me/shown"
    assert not list(folder.rglob("*.bin")) and not list(folder.rglob("__pycache__"))
    fields = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert (fields["sdk"], fields["app_file"], fields["models"]) == ("gradio", "app.py", ["me/shown"])
    required = [Requirement(line) for line in (folder / "requirements.txt").read_text().splitlines()]
    settings = (TESTS.parent / "setup.cfg").read_text(encoding="utf-8")
    needed = [re.search(rf"^{name} =\n((?: .*\n)+)", settings, re.M)[1] for name in ("install_requires", "serve")]
    assert {each.name for each in required} == set(re.findall(r"^ +([\w-]+)>=", "".join(needed), re.M))
    assert all(re.fullmatch(r"==[0-9.a-z]+", str(each.specifier)) for each in required)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**hub.environment(tmp_path / "home"), "GRADIO_SERVER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    environment |= {"GRADIO_SERVER_NAME": "127.0.0.1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", "import runpy; runpy.run_path('app.py', run_name='__main__')"]
    with open(tmp_path / "log", "w+") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stderr=log)
        try:
            opener, end = urllib.request.build_opener(urllib.request.ProxyHandler({})), time.monotonic() + 120
            while True:
                try:
                    page = opener.open(f"http://127.0.0.1:{port}/zh/chat/", timeout=20).read().decode()
                    break
                except OSError:
                    assert process.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()
                    time.sleep(0.3)
        finally:
            process.terminate()
        assert process.wait(60) == 0
    assert "VisCPM" in page and "model.safetensors" in hub.downloaded("me/shown")
    said = (tmp_path / "log").read_text()
    assert "me/shown" in said and hub.token not in said + page
    assert str(os.path.dirname(__import__("viscpm_hf").__file__)) not in said


def test_only_what_has_a_page_gets_a_space(chat_adapter, chat):
    with pytest.raises(ValueError, match="--space"):
        Upload(chat_adapter, "me/adapter", space=True).contents()
    assert "--space" in Upload(chat, "me/chat", space=True).command()


def test_a_public_space_is_not_filled_unasked(hub, viscpm, chat):
    (hub.uploads / "spaces/me/seen").mkdir(parents=True)
    hub.add("spaces/me/seen", hub.uploads / "spaces/me/seen")
    code, _, err = viscpm("push", chat, "me/seen", "--space")
    assert code == 1 and "Space me/seen" in err and "--public" in err
    assert "me/seen" not in hub.repositories and not list((hub.uploads / "spaces/me/seen").iterdir())
