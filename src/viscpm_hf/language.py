"""What is printed: English or Chinese, as the locale says, and nothing that a terminal would act on."""

import os


def is_chinese() -> bool:
    """Whether messages should be in Chinese, by LANGUAGE, LC_ALL, LC_MESSAGES and LANG as gettext reads them."""
    locale = next((os.environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(name)), "C")
    if locale.partition(".")[0] in ("C", "POSIX"):  # as scripts ask for, whatever language is preferred
        return False
    return (os.environ.get("LANGUAGE") or locale).lower().startswith("zh")


def say(english: str, chinese: str) -> str:
    """The one of both that the locale asks for."""
    return chinese if is_chinese() else english


def shortened(text: str, most: int = 3000) -> str:
    """The beginning and the end of a text of more characters than that: a name in a message may be megabytes."""
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-(most // 2) :]}"


def printable(text: str) -> str:
    """Text of others, fit for a terminal and a log: line breaks, escapes and the like become `\\n`, `\\x1b`, …"""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
