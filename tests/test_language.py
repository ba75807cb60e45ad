"""Guards in which language we speak, and that what a terminal would act on is never printed."""

import pytest

from viscpm_hf.language import printable, say


@pytest.mark.parametrize(
    ("environment", "chinese"),
    [
        ({}, False),
        ({"LANG": "zh_CN.UTF-8"}, True),
        ({"LANG": "zh_TW"}, True),
        ({"LANG": "en_US.UTF-8"}, False),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "en_US.UTF-8"}, False),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_CN.UTF-8"}, True),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "zh_CN:en"}, True),
        ({"LANG": "zh_CN.UTF-8", "LANGUAGE": "en:zh"}, False),
        ({"LANG": "zh_CN.UTF-8", "LANGUAGE": ""}, True),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, False),
        ({"LC_ALL": "C.UTF-8", "LANGUAGE": "zh_CN"}, False),
    ],
)
def test_the_locale_says_the_language(monkeypatch, environment, chinese):
    for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert say("English", "中文") == ("中文" if chinese else "English")


def test_what_is_printable_stays_as_it_is():
    assert printable("一只猫 a-b") == "一只猫 a-b"
    assert printable("a\x1b[2J\n\u202e\udcff图") == r"a\x1b[2J\n\u202e\udcff图"
