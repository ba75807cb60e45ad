"""Guards `viscpm serve --ray` where there is no Ray: what its options take, and what is said."""

import importlib.util
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from viscpm_hf.cli import main
from viscpm_hf.cli.serve import LIBRARIES, RAY
from viscpm_hf.serving.replicas import Replicas, parse_gpus


@pytest.mark.parametrize(
    ("text", "wanted"), [("2", (2, 2)), ("1-4", (1, 4)), (" 3-3 ", (3, 3)), ("9999", (9999, 9999))]
)
def test_replicas_are_a_number_or_a_range(text, wanted):
    assert Replicas.parse(text) == wanted


@pytest.mark.parametrize("text", ["", "0", "0-2", "4-1", "-1", "1-", "1.5", "two", "１", "1-2-3", "99999"])
def test_other_replicas_are_refused(text):
    with pytest.raises(ValueError, match="expected a number of replicas such as 2"):
        Replicas.parse(text)


@pytest.mark.parametrize(("text", "wanted"), [("0", 0), ("0.5", 0.5), ("1", 1), ("2.0", 2), ("1e-1", 0.1)])
def test_gpus_are_a_share_of_one_or_whole_ones(text, wanted):
    assert parse_gpus(text) == wanted


@pytest.mark.parametrize("text", ["", "-1", "1.5", "nan", "inf", "half", "1e9"])
def test_other_gpus_are_refused(text):
    with pytest.raises(ValueError, match="expected GPUs such as"):
        parse_gpus(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--replicas", "2"], "without --ray"),
        (["--gpus-per-replica", "1"], "without --ray"),
        (["--ray", "--replicas", "4-1"], "expected a number of replicas"),
        (["--ray", "--gpus-per-replica", "1.5"], "expected GPUs such as"),
    ],
)
def test_a_command_line_that_means_nothing_is_refused(capsys, options, said):
    assert main(["serve", "--chat", "tiny", *options]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_without_ray_a_command_is_named(capsys, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("viscpm_hf.cli.engines.find_spec", lambda name: None if name == "ray" else find_spec(name))
    assert main(["serve", "--chat", "tiny", "--ray"]) == 1
    said = capsys.readouterr().err
    assert "libraries that are not here (ray)" in said and 'pip install "fastapi' in said and '"ray[serve]' in said


def test_the_options_cost_no_import_of_ray():
    """Help and plain `viscpm serve` work without it."""
    code = (
        "import sys, viscpm_hf.cli.serve\n"
        "print(any(name.startswith(('ray', 'viscpm_hf.serving.cluster')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_the_sentence_names_what_the_extra_installs():
    settings = ConfigParser()
    settings.read(Path(__file__).parents[2] / "setup.cfg", encoding="utf-8")
    extras = settings["options.extras_require"]
    assert extras["cluster"].split() == ["viscpm-hf[serve]", *RAY.values()]
    assert set(LIBRARIES.values()) <= set(extras["serve"].split())
