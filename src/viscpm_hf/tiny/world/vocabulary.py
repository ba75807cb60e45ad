"""The vocabulary of the tiny checkpoints: the original's file format and grammar, a few hundred pieces of its own.

`python -m viscpm_hf.tiny.world.vocabulary` writes vocab.txt.
"""

import re

from .. import VOCABULARY
from .questions import CHINESE, phrases

SPECIALS = "<pad> <unk> <mask> <sep> </n> </_> <s> </s> <root> <ans> <option>".split()
KEYS = "image context question caption objects input User AI".split()  # of data dicts and of earlier turns
CHINESE_WORDS = (
    "什么 颜色 形状 哪里 位置 图片 图里 图形 多少 几个 一个 两个 三个 没有 背景 描述 请问 一共 是的 那里".split()
)
CHINESE_MARKS = "，。？！：、；（）“”"


def build_vocabulary() -> list[str]:
    """The pieces in the order of their ids: specials, ASCII, keys, English words, `<eod>`, Chinese.

    An English word is one piece with and without the space before it, capitalised where a sentence starts with it;
    every other ASCII text falls back to letters, every other Chinese character becomes an unknown run.

    Returns:
        `list[str]`
    """
    texts = phrases()
    english = set()
    for word in {word for text in texts for word in re.findall(r"[A-Za-z]+", text)} - {"User", "AI"}:
        english |= {space + form for form in (word, word.lower()) for space in ("", " ")}
    chinese = set(re.findall(r"[\u4e00-\u9fff]", "".join(texts)))
    words = {word for word in (*CHINESE.values(), *CHINESE_WORDS) if len(word) > 1}
    ascii_characters = [chr(code) for code in range(33, 127)]
    known = {*ascii_characters, *KEYS}
    return [
        *SPECIALS,
        *ascii_characters,
        *KEYS,
        *sorted(english - known, key=lambda piece: (piece.strip().lower(), piece)),
        "<eod>",
        *CHINESE_MARKS,
        *sorted(chinese),
        *sorted(words),
    ]


if __name__ == "__main__":
    VOCABULARY.write_text("".join(f"{piece}\n" for piece in build_vocabulary()), encoding="utf-8", newline="\n")
