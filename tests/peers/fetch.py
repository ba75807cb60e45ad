"""Fetches the testers that transformers' source distribution of the installed version carries, through pip.

Prints the folder, which tests/peers/conftest.py then reads from the environment variable TRANSFORMERS_TESTS.
"""

import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

CACHE = Path(__file__).parents[2] / "build/peers"


def main():
    release = f"transformers-{version('transformers')}"
    tests = CACHE / release / "tests"
    if not tests.is_dir():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
        command += ["--dest", str(CACHE), release.replace("-", "==")]
        subprocess.run(command, check=True, stdout=sys.stderr)
        with tarfile.open(CACHE / f"{release}.tar.gz") as archive:
            members = [member for member in archive if member.name.startswith(f"{release}/tests/")]
            archive.extractall(CACHE, members, filter="data")
    # the one fixture that the tokenizers' tester reads; any text will do
    sample = tests / "fixtures/sample_text.txt"
    if not sample.exists():
        sample.parent.mkdir(exist_ok=True)
        sample.write_text("A text to read.\n\n一段可读的文字。\n", encoding="utf-8")
    print(tests)


if __name__ == "__main__":
    main()
