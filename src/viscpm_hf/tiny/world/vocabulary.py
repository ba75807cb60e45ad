"""The vocabulary of the tiny checkpoints: the original's file format and grammar, some thousand pieces of its own.

`python -m viscpm_hf.tiny.training.renumber` writes vocab.txt, and the checkpoints for its numbers.
"""

import re

from .questions import phrases

SPECIALS = "<pad> <unk> <mask> <sep> </n> </_> <s> </s> <root> <ans> <option>".split()
KEYS = "image context question caption objects input User AI".split()  # of data dicts and of earlier turns
CHINESE_WORDS = (
    "什么 颜色 形状 哪里 位置 图片 图里 多少 几个 一个 两个 三个 没有 背景 描述 请问 一共 是的 东西 可以 生活 轮子 "
    "它们 一样 更大 更小 左边 右边 上面 下面 左上方 右上方 左下方 右下方 哪些 哪个 看到 对不起 我只认识一些简单的图画"
).split()
CHINESE_MARKS = "，。？！：、；（）“”"


def build_vocabulary() -> list[str]:
    """The pieces in the order of their ids: specials, ASCII, keys, English words, `<eod>`, Chinese.

    An English word of the world is one piece with and without the space before it, capitalised where a sentence starts
    with it; every other ASCII text falls back to letters, every other Chinese character becomes an unknown run. So
    the model sees whether a question speaks of something else.

    Returns:
        `list[str]`
    """
    texts, names = phrases()
    english = set()
    for word in {word for text in texts for word in re.findall(r"[A-Za-z]+", text)} - {"User", "AI"}:
        starts = any(text.startswith(word) for text in texts) or word[0].isupper()
        forms = {word.lower(), word.capitalize()} if starts else {word}
        english |= {space + form for form in forms for space in ("", " ")}
    chinese = set(re.findall(r"[\u4e00-\u9fff]", "".join([*texts, *names])))
    words = {word for word in (*names, *CHINESE_WORDS) if len(word) > 1}
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
