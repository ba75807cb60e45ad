"""Guards that a repository converted with one set of libraries works with another, by the code that lies in it.

`make test-newest` and `make test-oldest` name in CONVERTER the Python of the tested set.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parent
PICTURE = str(TESTS / "golden/image_0.png")
CONVERTER = os.environ.get("CONVERTER")
CONVERT = """
import sys
from viscpm_hf.checkpoint import convert_cpmbee
from viscpm_hf.tiny import convert_tiny_chat, convert_tiny_paint

checkpoint, vocabulary, config, output = sys.argv[1:]
convert_tiny_chat(f"{output}/chat")
convert_tiny_paint(f"{output}/paint")
convert_cpmbee(checkpoint, vocabulary, f"{output}/language", llm_config=config, progress=False)
"""

pytestmark = pytest.mark.skipif(not CONVERTER, reason="needs a second set of libraries: make test-newest, test-oldest")


def run(python, *arguments, home):
    environment = {**os.environ, "HF_HOME": str(home)}
    done = subprocess.run([python, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_what_the_tested_set_converted_works_alike(golden, chat_checkpoint, tmp_path):
    weights = golden("chat_weights.safetensors").items()
    language = {name.removeprefix("llm."): value for name, value in weights if name.startswith("llm.")}
    torch.save(language, tmp_path / "cpmbee.bin")
    files = [tmp_path / "cpmbee.bin", TESTS / "golden/vocab.txt", chat_checkpoint / "llm_config.json"]
    run(CONVERTER, "-c", CONVERT, *files, tmp_path, home=tmp_path / "converter")

    jobs = [
        (kind, {"repo": str(tmp_path / kind), "trust_remote_code": True}) for kind in ("chat", "language", "paint")
    ]
    jobs[0][1]["picture"] = PICTURE
    arguments = TESTS / "fresh_process.py", json.dumps({"package": "absent", "jobs": jobs})
    theirs = json.loads(run(CONVERTER, *arguments, home=tmp_path / "converter"))
    ours = json.loads(run(sys.executable, *arguments, home=tmp_path / "home"))
    for (kind, _), found, expected in zip(jobs, ours, theirs, strict=True):
        numbers, expected_numbers = found.pop("numbers"), expected.pop("numbers")
        assert {name: cls.rpartition(".")[2] for name, cls in found.pop("classes").items()} == {
            name: cls.rpartition(".")[2] for name, cls in expected.pop("classes").items()
        }
        assert found == expected, kind  # ids, answers, and that the code was the repository's
        assert "viscpm_hf" not in found["code"]
        for name, values in expected_numbers.items():
            assert numbers[name] == pytest.approx(values, abs=1e-3), (kind, name)
