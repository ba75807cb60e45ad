"""The wheel and the source distribution hold what they should, and the wheel works outside the checkout."""

import os
import re
import shutil
import site
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOT_SHIPPED = shutil.ignore_patterns(
    *(
        ".git",
        ".venv*",
        "__pycache__",
        "*.egg-info",
        "build",
        "dist",
        ".*_cache",
        ".hypothesis",
        "runs",
        "demo",
        "PKG-INFO",
    )
)


def run(*command, cwd, **options):
    """What a command prints, which must succeed."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, encoding="utf-8", **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind, tree, output):
    """The wheel or sdist of a source tree. Without isolation, which would fetch setuptools."""
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(output)!r})"
    output.mkdir()
    run(sys.executable, "-c", code, cwd=tree)
    (built,) = output.iterdir()
    return built


def names_below(folder):
    """The files below a folder, relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the checkout, so that building leaves nothing there and finds nothing old."""
    return shutil.copytree(ROOT, tmp_path_factory.mktemp("package") / "tree", ignore=NOT_SHIPPED, symlinks=True)


@pytest.fixture(scope="module")
def shipped(tree):
    """The names of all files that belong to the project."""
    return names_below(tree)


@pytest.fixture(scope="module")
def wheel(tree, shipped):
    return build("wheel", tree, tree.parent / "wheel")


@pytest.fixture(scope="module")
def unpacked_sdist(tree, shipped):
    sdist = build("sdist", tree, tree.parent / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tree.parent / "unpacked", filter="data")
    (folder,) = (tree.parent / "unpacked").iterdir()
    return folder


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_string(archive.read(name).decode())


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A fresh environment's `bin` with the wheel in it; everything else is this environment's, nothing is fetched."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    # a path only: the .pth files there, of an editable install for one, are not read
    (packages / "libraries.pth").write_text("\n".join(site.getsitepackages()))
    python = folder / "venv" / "bin" / "python"
    # --ignore-installed, and no PYTHONPATH: a checkout installed there is not to count, nor to be removed
    options = "--quiet --no-index --no-deps --ignore-installed --no-warn-script-location".split()
    pip = (sys.executable, "-m", "pip", "--python", python, "install", *options, wheel)
    run(*pip, cwd=folder, env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"})
    return python.parent


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder outside the checkout, and an environment that does not lead back to it."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_the_wheel_holds_the_package_and_only_that(wheel, shipped):
    """Every module and data file of src/viscpm_hf, each card as a file; no tests, no scripts."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        card = archive.read("viscpm_hf/checkpoint/viscpm_chat.md")
    assert held == {name.removeprefix("src/") for name in shipped if name.startswith("src/")}
    assert {"viscpm_hf/py.typed", "viscpm_hf/tiny/chat/pytorch_model.bin"} <= held
    assert {
        f"viscpm_hf/tiny/{name}" for name in ("world/sprites.png", "world/sprites-OFL.txt", "measures/judge.pt")
    } <= held
    assert card == (ROOT / "model_cards" / "viscpm_chat.md").read_bytes()


def test_the_sdist_holds_the_checkout(unpacked_sdist, shipped):
    """Tests with their data, conversion/, docs, examples, benchmarks, Makefile: all that a checkout has."""
    held = {name for name in names_below(unpacked_sdist) if ".egg-info/" not in name}
    assert held == shipped | {"PKG-INFO"}


def test_a_wheel_from_the_sdist_is_the_same(unpacked_sdist, wheel, tmp_path):
    """What an index builds from the source distribution is what we build from the checkout."""
    own = shutil.copytree(unpacked_sdist, tmp_path / "tree", symlinks=True)  # building leaves files there
    again = build("wheel", own, tmp_path / "wheel")
    with zipfile.ZipFile(wheel) as ours, zipfile.ZipFile(again) as theirs:
        assert sorted(ours.namelist()) == sorted(theirs.namelist())
        for name in ours.namelist():
            assert name.endswith("/RECORD") or ours.read(name) == theirs.read(name), name


def test_links_of_the_index_page_work_there(metadata):
    """A package index has no files beside the description, so every link is a whole address."""
    description = metadata.get_payload()
    links = re.findall(r"\]\(([^)\s]+)", description) + re.findall(r"(?:src|href)=\"([^\"]+)", description)
    assert "# viscpm_hf" in description and links
    assert [link for link in links if not link.startswith("https://")] == []


def test_the_metadata_says_what_an_index_shows(metadata):
    """Version from the package, licence, author and addresses; torch is the first requirement."""
    import viscpm_hf

    assert metadata["Version"] == viscpm_hf.__version__
    assert metadata["License-Expression"] == "Apache-2.0 AND OFL-1.1" and metadata["Author"]
    assert {line.split(", ")[0] for line in metadata.get_all("Project-URL")} >= {"Original code", "Paper"}
    assert metadata.get_all("Requires-Dist")[0].startswith("torch")
    assert set(metadata.get_all("Provides-Extra")) >= {"docs", "peft", "quantization", "test"}


def test_building_the_wheel_imports_no_torch(tree):
    """pip builds in an environment that has setuptools and nothing else."""
    code = (
        "import sys; from setuptools import build_meta; build_meta.prepare_metadata_for_build_wheel(sys.argv[1]); "
        "assert 'torch' not in sys.modules and 'viscpm_hf' not in sys.modules"
    )
    run(sys.executable, "-c", code, tree.parent, cwd=tree)


def test_what_is_installed_suits_the_package(installed, elsewhere):
    """No requirement of ours is missing or of a version that we do not allow."""
    pip = [sys.executable, "-m", "pip", "--python", installed / "python", "check"]
    done = subprocess.run(pip, cwd=elsewhere, capture_output=True, text=True)
    assert "viscpm-hf" not in done.stdout + done.stderr


@pytest.mark.slow
def test_the_command_works_outside_the_checkout(installed, elsewhere):
    """`viscpm` of the wheel: version, help, a conversion of the shipped checkpoint, a question."""
    import viscpm_hf

    viscpm = installed / "viscpm"
    assert run(viscpm, "--version", cwd=elsewhere) == f"viscpm-hf {viscpm_hf.__version__}\n"
    assert "--checkpoint" in run(viscpm, "convert", "chat", "--help", cwd=elsewhere)
    (package,) = installed.parent.glob("lib/python*/site-packages/viscpm_hf")
    tiny = package / "tiny"
    run(
        *(
            viscpm,
            "convert",
            "chat",
            "--checkpoint",
            tiny / "chat" / "pytorch_model.bin",
            "--vocab",
            tiny / "vocab.txt",
        ),
        *("--llm-config", tiny / "chat" / "llm_config.json"),
        *("--vision-config", tiny / "chat" / "vision_config.json", "--output", "VisCPM-Chat"),
        cwd=elsewhere,
    )
    assert (elsewhere / "VisCPM-Chat" / "model.safetensors").exists()
    assert "VisCPM" in (elsewhere / "VisCPM-Chat" / "README.md").read_text(encoding="utf-8")
    picture, question = tiny / "images" / "1_cat_and_apple.png", "猫在哪里？"
    asked = run(viscpm, "chat", "--model", "VisCPM-Chat", "--image", picture, "--question", question, cwd=elsewhere)
    assert asked == "猫在左上角。\n"


@pytest.mark.slow
def test_the_example_of_the_index_page_works_outside_the_checkout(installed, elsewhere):
    """Its Python block answers and paints with what the wheel holds, from the wheel and not from the checkout."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "PACKAGE.md").read_text(encoding="utf-8"), re.DOTALL)
    wanted = re.search(r"print\(answer\)  # (.*)", block)[1]
    printed = run(
        *(installed / "python", "-c", block + "import viscpm_hf\nprint(viscpm_hf.__file__)"), cwd=elsewhere
    ).splitlines()
    assert printed[0] == wanted
    assert Path(printed[1]).is_relative_to(installed.parent)
    assert (elsewhere / "cat.png").stat().st_size > 200


def test_citation_and_changelog_are_of_this_version():
    """A release changes one number in the package, and these two pages with it."""
    import viscpm_hf

    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == viscpm_hf.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(.*?)\] - (unreleased|\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert newest[1] == viscpm_hf.__version__


def test_moved_modules_of_the_changelog_are_there():
    """What the table of moved names says is now is a module, or a room with modules."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `viscpm_hf\..*\| (.*) \|$", changelog, re.MULTILINE)
    assert len(rows) > 5
    for name in re.findall(r"`(viscpm_hf[\w.]*)", "".join(rows)):
        place = ROOT / "src" / name.rstrip(".").replace(".", "/")
        assert place.is_dir() or place.with_suffix(".py").exists(), name
