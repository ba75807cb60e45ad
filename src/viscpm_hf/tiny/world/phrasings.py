"""How questions are put: as tests ask them, and for training in many more ways."""

import random
import re

from . import more_phrasings_en, more_phrasings_zh, parts_en, phrasings_en, phrasings_zh
from .things import THINGS


def _listed(table: dict[str, str]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(each.strip() for each in texts.split("|")) for name, texts in table.items()}


PHRASINGS = {"zh": phrasings_zh.USUAL, "en": phrasings_en.USUAL}
# Also learned, but not asked in the tests of the world; their words may be unknown to the vocabulary.
MORE_PHRASINGS = {"zh": _listed(more_phrasings_zh.MORE), "en": _listed(more_phrasings_en.MORE)}
CLAUSES = _listed(parts_en.CLAUSES)  # "where {x} is"
STATEMENTS = _listed(parts_en.STATEMENTS)  # "{x} is {p}"
TASKS = _listed(parts_en.TASKS)  # "count the {s}"

_FOR_CLAUSES = (
    *("Tell me {}.", "Tell me {}, please.", "Please tell me {}.", "Can you tell me {}?", "Could you tell me {}?"),
    *("Could you please tell me {}?", "Can you please tell me {}?", "Would you tell me {}?", "Will you tell me {}?"),
    *("Do you know {}?", "I want to know {}.", "I would like to know {}.", "I'd like to know {}.", "Let me know {}."),
    *("I need to know {}.", "Can you say {}?", "Could you say {}?", "Please say {}.", "Say {}.", "Show me {}."),
    *("Can I ask {}?", "May I ask {}?", "Are you able to tell me {}?", "Find out {}."),
)
_FOR_QUESTIONS = (*_FOR_CLAUSES, "I wonder {}.", "I was wondering {}.", "Can you see {}?", "Any idea {}?", "Guess {}.")
_FOR_STATEMENTS = (
    *("{}, right?", "{}, right?", "{}, correct?", "{}, is that right?", "{}, is that so?", "{}, yes?", "{}?"),
    *(
        "So {}?",
        "So {}, right?",
        "Is it true that {}?",
        "Is it true that {}?",
        "Is it so that {}?",
        "True or not: {}?",
    ),
    *("Is it right that {}?", "Is it correct that {}?", "Would you say {}?", "Would you say that {}?", "{}, or not?"),
    *("Do you think {}?", "Do you think that {}?", "Can you say that {}?", "Can one say that {}?", "{}: yes or no?"),
    *("Do you agree that {}?", "I think {}. Is that right?", "I think {}, right?", "Am I right that {}?"),
    *("Could it be that {}?", "Can you confirm that {}?", "Is it the case that {}?", "{}, true?"),
    *(
        "Does it look like {}?",
        "Do you see that {}?",
        "Can it be that {}?",
        "Is it a fact that {}?",
        "Please check: {}?",
    ),
)
_FOR_TASKS = (
    *(
        "{}.",
        "{}.",
        "Please {}.",
        "{}, please.",
        "Can you {}?",
        "Could you {}?",
        "Would you {}?",
        "Could you please {}?",
    ),
    *("Can you please {}?", "Please {} for me.", "Can you {} for me?", "I want you to {}.", "I would like you to {}."),
    *("I'd like you to {}.", "Try to {}.", "Now {}.", "Will you {}?", "Would you please {}?", "Are you able to {}?"),
)
_ENGLISH_OPENINGS = (
    *("Please tell me: ", "Look at the picture. ", "A question: ", "So, ", "So ", "OK, ", "Hey, ", "Hello! ", "Now, "),
    *("Quick question: ", "Please look: ", "Excuse me, ", "Next question: ", "One more question: ", "Tell me, "),
    *("Looking at the picture, ", "In this picture, ", "In the picture: ", "Please, ", "Say, ", "Well, ", "And "),
    *("I have a question. ", "Please answer: ", "Hi, ", "Look closely: ", "Can you help me? ", "Just tell me: "),
)
_ENGLISH_ENDINGS = (", please?", ", do you know?", ", can you tell me?", ", would you say?", "? Please tell me.")
_OPENINGS = {
    "en": _ENGLISH_OPENINGS,
    "zh": (
        *(
            "请问",
            "请问",
            "请问一下，",
            "请告诉我，",
            "请看图，",
            "帮我看看，",
            "帮我看一下，",
            "你好，",
            "你好，请问",
        ),
        *(
            "看图回答：",
            "请回答：",
            "问一下，",
            "想问一下，",
            "我想问，",
            "我想知道，",
            "告诉我，",
            "你看，",
            "看一看，",
        ),
        *("看看图，", "看这张图，", "请看这张图片，", "麻烦看一下，", "那么，", "那", "下一个问题：", "说说看，"),
    ),
}
_FOR_CHINESE = (  # around a question without its mark
    *("告诉我{}。", "请告诉我{}。", "请你告诉我{}。", "能告诉我{}吗？", "你能告诉我{}吗？", "可以告诉我{}吗？"),
    *("能不能告诉我{}？", "麻烦告诉我{}。", "我想知道{}。", "我想问{}？", "你知道{}吗？"),
    *(
        "说说{}。",
        "请说说{}。",
        "说一下{}。",
        "请说一下{}。",
        "你说说{}？",
        "看看{}。",
        "帮我看看{}。",
        "帮我看一下{}。",
    ),
    *("请看一下{}。", "你看{}？", "你看看{}？", "看图说说{}。", "你看得出{}吗？", "能看出{}吗？", "能说说{}吗？"),
    *(
        "{}呢？",
        "{}呢？",
        "{}啊？",
        "{}呀？",
        "请回答{}。",
        "你觉得{}？",
        "快告诉我{}。",
        "想问一下{}？",
        "跟我说说{}。",
    ),
)
_FOR_CHINESE_STATEMENTS = (
    *(
        "{}，对吗？",
        "{}，对吗？",
        "{}，对不对？",
        "{}对吗？",
        "{}对不对？",
        "{}，是吗？",
        "{}，是不是？",
        "{}，是这样吗？",
    ),
    *(
        "{}，没错吧？",
        "{}吧？",
        "{}，对吧？",
        "你看{}吗？",
        "你觉得{}吗？",
        "{}么？",
        "{}，是真的吗？",
        "我觉得{}，对吗？",
    ),
    *("你能看出{}吗？", "你说{}吗？", "是不是{}？", "{}，你说对吗？"),
)
_SHORT = (
    "other",
    "and",
    "else",
    "and colour",
    "and size",
    "and where",
    "and kind",
)  # what only a turn before explains
_SAME = {
    "zh": {
        "图里": (
            *("图片里", "图中", "图片中", "图上", "图里面", "画里", "画面里", "照片里", "这张图里", "这张图片中"),
            *("这幅图里", "画面中", "这张图上"),
        ),
        "图片里": ("图里", "图中", "图片中", "图片上", "图片里面", "照片里", "这张图片里", "画面里"),
        "哪个": ("哪一个",),
        "什么": ("啥",),
        "能看到": ("能看见", "可以看到", "看得到"),
        "东西": ("物体", "物品"),
    },
    "en": {
        "the picture": ("the image", "this picture", "this image", "the photo", "the drawing", "this drawing"),
        "this picture": ("the picture", "this image", "the image", "this photo", "the pic"),
        "What is": ("What's",),
        "Where is": ("Where's",),
        "What colour": ("What color", "Which color"),
        "do you see": ("can you see", "do you find", "do we see"),
        "the background": ("the backdrop", "this background"),
        "gray": ("grey",),
    },
}
_NAMES = {
    "zh": re.compile("^(请问)?({})".format("|".join(sorted((t.chinese for t in THINGS), key=len, reverse=True)))),
    "en": re.compile(r"\bthe (?=(?:{})\b)".format("|".join(t.name for t in THINGS))),
}
_ALONE = {  # not a part of 这张图里, 图里面, 为什么, 天上的东西
    word: re.compile(rf"(?<!这张)(?<!这幅)(?<!为)(?<!天上的){word}(?!面)")
    for table in _SAME.values()
    for word in table
}
_COLOUR_SAID = re.compile("(?<=[红黄蓝绿紫白灰黑])色的(?=[吗？有]|东西)")  # 红的


class WideRandom(random.Random):
    """A source of choices for training, where questions are also put as in `MORE_PHRASINGS` and composed."""


def put(language: str, name: str, rng: random.Random) -> str:
    """One of the phrasings of that name; where the rng is wide, of the further ones and of those composed of parts."""
    usual, more = PHRASINGS[language].get(name, ()), MORE_PHRASINGS[language].get(name, ())
    if not isinstance(rng, WideRandom):
        return rng.choice(usual or more)
    way = rng.random()
    if language == "en" and way < 0.42:
        text = _composed(name, rng)
        if text:
            return text
    text = rng.choice(usual if usual and (way > 0.75 or not more) else more)
    if name in _SHORT:
        return text
    return _wrapped_chinese(text, name, rng) if language == "zh" else _opened(text, rng)


def _composed(name: str, rng: random.Random) -> str | None:
    """An indirect question, a statement to agree with, or a task; `None` where there are none of that name."""
    tables = [table for table in (CLAUSES, STATEMENTS, STATEMENTS, TASKS) if name in table]
    if not tables:
        return None
    table = rng.choice(tables)
    text = rng.choice(table[name])
    if table is STATEMENTS:
        if rng.random() < 0.15:
            return f"{text}, {_tag(text)}?"
        return rng.choice(_FOR_STATEMENTS).format(text)
    if table is TASKS:
        around = rng.choice(_FOR_TASKS)
        return (around.replace(" for me", "") if " me " in text or text.startswith("say") else around).format(text)
    return rng.choice(_FOR_CLAUSES if text.startswith("the ") else _FOR_QUESTIONS).format(text)


def _tag(statement: str) -> str:
    """ "isn't it" and its like."""
    if statement.startswith("there"):
        return "isn't there" if statement.startswith("there is") else "right"
    if statement.startswith(("you ", "I ")):
        return "right"
    for word, tag in ((" are ", "aren't they"), (" is ", "isn't it"), (" can ", "can't it")):
        if word in statement:
            return tag
    return "doesn't it"


def _opened(text: str, rng: random.Random) -> str:
    """Politely, hurriedly: with words around a question that ask for nothing."""
    way = rng.random()
    if way < 0.14 and text.endswith("?") and not text.startswith("And "):
        opening = rng.choice(_ENGLISH_OPENINGS)
        first = text if text.startswith(("I ", "I'", "{")) or opening[-2] in ".?!" else text[0].lower() + text[1:]
        return opening + first
    if way < 0.18 and text.startswith(("What", "Where", "Which", "How")):
        return text[:-1] + rng.choice(_ENGLISH_ENDINGS)
    return text


def _wrapped_chinese(text: str, name: str, rng: random.Random) -> str:
    """The question behind "tell me", as a statement to agree with, or behind an opening."""
    way, stem = rng.random(), text[:-1]
    if way > 0.45 or text.startswith(
        ("请", "告诉", "看看", "说", "帮", "麻烦", "我", "能告诉", "能给", "列出", "指出")
    ):
        return text
    if text.endswith("吗？"):
        if name.endswith("?") or name == "exists":
            if way < 0.3 and not text.startswith(("能", "你", "可以")):
                return rng.choice(_FOR_CHINESE_STATEMENTS).format(stem[:-1])
    elif way < 0.3 and text.endswith("？") and stem[-1] not in "呢么":
        return rng.choice(_FOR_CHINESE).format(stem)
    if text.endswith("。"):
        return rng.choice(
            ("请{}。", "请你{}。", "麻烦{}。", "麻烦你{}。", "帮我{}。", "能不能{}？", "你来{}。")
        ).format(stem)
    return rng.choice(_OPENINGS["zh"]) + text


def opened(text: str, language: str, rng: random.Random) -> str:
    """Any question behind an opening."""
    return rng.choice(_OPENINGS[language]) + text


def reworded(text: str, language: str, rng: random.Random) -> str:
    """The same question in words that mean the same."""
    if rng.random() < 0.8:
        found = [word for word in _SAME[language] if word in text and _ALONE[word].search(text)]
        if found:
            word = rng.choice(found)
            text = _ALONE[word].sub(rng.choice(_SAME[language][word]), text, count=1)
    if rng.random() < 0.1:  # "this cat", 这只猫
        if language == "en":
            text = _NAMES["en"].sub("this ", text, count=1)
        elif found := _NAMES["zh"].match(text):
            measure = next(thing.measure for thing in THINGS if thing.chinese == found[2])
            text = f"{found[1] or ''}这{measure}{text[found.start(2) :]}"
    if language == "zh" and rng.random() < 0.2:
        text = _COLOUR_SAID.sub("的", text)
    return text
