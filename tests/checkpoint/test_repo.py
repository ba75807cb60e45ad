"""Guards card and conversion.json against the names of files, in which anything can be."""

import json
import os
import re
import shutil

import pytest

from viscpm_hf.checkpoint.repo import read_json


@pytest.mark.parametrize("name", [b"`x` <b>|$source $(touch a)\n# b.bin", b"\xff\xfe.bin", "模型\x1b[2J.bin".encode()])
def test_names_of_files_stay_names_in_card_and_report(convert, chat_checkpoint, tmp_path, name):
    checkpoint = tmp_path / os.fsdecode(name)
    shutil.copy(chat_checkpoint / "pytorch_model.plain.bin", checkpoint)
    out = convert(checkpoint)
    report = json.loads((out / "conversion.json").read_text(encoding="utf-8"))
    assert report["source"]["file"] == os.fsdecode(name).encode("utf-8", "replace").decode()
    line = re.search("converted from `(.*?)` with", (out / "README.md").read_text(encoding="utf-8"))
    assert line and line[1].isprintable()
    assert read_json(out, "conversion.json") == report
