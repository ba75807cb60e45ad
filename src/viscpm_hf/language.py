"""English or Chinese, as the locale says."""

import os


def is_chinese() -> bool:
    """Whether messages should be in Chinese: as LANGUAGE, LC_ALL, LC_MESSAGES or LANG begins."""
    names = ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
    return next((os.environ[name] for name in names if os.environ.get(name)), "").lower().startswith("zh")


def say(english: str, chinese: str) -> str:
    """The one of both that the locale asks for."""
    return chinese if is_chinese() else english
