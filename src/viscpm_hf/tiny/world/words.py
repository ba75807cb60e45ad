"""How the world is spoken of in Chinese and English: nouns, places, lists, sentences."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from .scenes import BACKGROUNDS, CELLS, Placed, Scene
from .things import BY_NAME, CHINESE_COLOURS, CHINESE_SHAPES, COLOURS, KINDS, SHAPES, Thing, article

LANGUAGES = ("zh", "en")
HONEST = {"zh": "对不起，我只认识一些简单的图画。", "en": "Sorry, I only know simple drawings."}
PLACES = {
    "en": tuple(f"in the {cell}" for cell in CELLS),
    "zh": ("左上角", "正上方", "右上角", "左侧", "正中间", "右侧", "左下角", "正下方", "右下角"),
}
# other words for the places, understood in questions
PLACES_ASKED = {
    "en": {
        0: ("in the top left corner", "in the upper left"),
        1: ("at the top in the middle",),
        2: ("in the top right corner", "in the upper right"),
        4: ("in the middle", "in the center", "in the middle of the picture"),
        6: ("in the bottom left corner", "in the lower left"),
        7: ("at the bottom in the middle",),
        8: ("in the bottom right corner", "in the lower right"),
    },
    "zh": {0: ("左上方",), 2: ("右上方",), 4: ("中间", "中央"), 6: ("左下方",), 8: ("右下方",)},
}
SIZE_WORDS = {"zh": {"large": "大", "small": "小"}, "en": {"large": "large", "small": "small"}}
BACKGROUND_NAMES = {
    "en": dict(zip(BACKGROUNDS, ("white", "the sky", "grass", "sand", "the night sky", "water"), strict=True)),
    "zh": dict(zip(BACKGROUNDS, ("白色", "天空", "草地", "沙滩", "夜空", "水面"), strict=True)),
}
BACKGROUND_COLOURS = {
    "en": dict(zip(BACKGROUNDS, ("white", "light blue", "green", "yellow", "dark blue", "blue"), strict=True)),
    "zh": dict(zip(BACKGROUNDS, ("白色", "浅蓝色", "绿色", "黄色", "深蓝色", "蓝色"), strict=True)),
}
ON_BACKGROUND = {
    "en": dict(
        zip(
            BACKGROUNDS,
            ("on a white background", "in the sky", "on grass", "on sand", "at night", "on the water"),
            strict=True,
        )
    ),
    "zh": dict(zip(BACKGROUNDS, ("白色背景上", "天空中", "草地上", "沙滩上", "夜里", "水面上"), strict=True)),
}
RELATION_WORDS = {
    "en": {"left": "left of", "right": "right of", "above": "above", "below": "below"},
    "zh": {"left": "左边", "right": "右边", "above": "上面", "below": "下面"},
}
_DIAGONALS = {("left", "above"): "左上方", ("right", "above"): "右上方"} | {
    ("left", "below"): "左下方",
    ("right", "below"): "右下方",
}
NUMBERS = {"zh": ("没有", "一", "两", "三"), "en": ("no", "one", "two", "three")}
KIND_NOUNS = {  # what an animal is: "an animal", "动物"
    "en": {kind: word if kind == "food" else f"{article(word)} {word}" for kind, (word, *_) in KINDS.items()},
    "zh": {kind: words[2] for kind, words in KINDS.items()},
}
# of which things one can ask for the number: nobody knows whether an apple is a food
COUNTED_KINDS = ("animal", "fruit", "vegetable", "vehicle", "plant", "building", "shape")


@dataclass(frozen=True)
class Noun:
    """A word for some of the things.

    Args:
        singular, plural, chinese, measure (`str`): the word.
        names (`frozenset[str]`): of the things it fits.
    """

    singular: str
    plural: str
    chinese: str
    measure: str
    names: frozenset[str]

    def found(self, scene: Scene) -> list[Placed]:
        """The things of a scene that it fits, in reading order."""
        return [placed for placed in scene.things if placed.name in self.names]

    def the(self, language: str) -> str:
        """ "the cat", 猫."""
        return f"the {self.singular}" if language == "en" else self.chinese

    def counted(self, number: int, language: str) -> str:
        """ "no cats", "one cat", "two cats"; 没有猫, 一只猫, 两只猫."""
        if language == "en":
            return f"{NUMBERS['en'][number]} {self.singular if number == 1 else self.plural}"
        return NUMBERS["zh"][number] + (self.measure if number else "") + self.chinese

    def a(self, language: str, number: int = 1) -> str:
        """ "a cat", "two cats"; 一只猫, 两只猫."""
        if language == "en" and number == 1:
            return f"{article(self.singular)} {self.singular}"
        return self.counted(number, language)


@cache
def noun(name: str) -> Noun:
    """The word for one thing, by its name."""
    thing = BY_NAME[name]
    return Noun(thing.name, thing.plural, thing.chinese, thing.measure, frozenset((name,)))


def _names(fits) -> frozenset[str]:
    return frozenset(thing.name for thing in BY_NAME.values() if fits(thing))


SHAPE_NOUNS = {
    shape: Noun(
        shape,
        shape + ("es" if shape == "cross" else "s"),
        CHINESE_SHAPES[shape],
        "个",
        _names(lambda thing, shape=shape: thing.shape == shape),
    )
    for shape in SHAPES
}
COLOUR_NOUNS = {
    colour: Noun(
        f"{colour} shape",
        f"{colour} shapes",
        f"{CHINESE_COLOURS[colour]}的图形",
        "个",
        _names(lambda thing, colour=colour: thing.shape and thing.colour == colour),
    )
    for colour in COLOURS
}
NOUNS_OF_KINDS = {kind: Noun(*KINDS[kind], _names(lambda thing, kind=kind: thing.kind == kind)) for kind in KINDS}
COUNTED_NOUNS = {kind: NOUNS_OF_KINDS[kind] for kind in COUNTED_KINDS}
ANYTHING = Noun("thing", "things", "东西", "个", frozenset(BY_NAME))
FLOWER = Noun("flower", "flowers", "花", "朵", frozenset(("sunflower", "rose", "tulip")))
# words for what is never there
ABSENT = tuple(
    Noun(singular, plural or f"{singular}s", chinese, measure, frozenset())
    for singular, plural, chinese, measure in (
        (*line.split(", ")[0].partition("/")[::2], *line.split(", ")[1:])
        for line in (
            "duck, 鸭子, 只",
            "sheep/sheep, 羊, 只",
            "mouse/mice, 老鼠, 只",
            "snake, 蛇, 条",
            "giraffe, 长颈鹿, 只",
            "wolf/wolves, 狼, 只",
            "spider, 蜘蛛, 只",
            "dinosaur, 恐龙, 只",
            "person/people, 人, 个",
            "man/men, 男人, 个",
            "woman/women, 女人, 个",
            "child/children, 孩子, 个",
            "boy, 男孩, 个",
            "girl, 女孩, 个",
            "tomato/tomatoes, 西红柿, 个",
            "potato/potatoes, 土豆, 个",
            "grape, 葡萄, 颗",
            "sandwich/sandwiches, 三明治, 个",
            "truck, 卡车, 辆",
            "motorcycle, 摩托车, 辆",
            "taxi, 出租车, 辆",
            "bridge, 桥, 座",
            "school, 学校, 所",
            "mountain, 山, 座",
            "table, 桌子, 张",
            "bed, 床, 张",
            "lamp, 灯, 盏",
            "phone, 手机, 部",
            "computer, 电脑, 台",
            "knife/knives, 刀, 把",
            "pencil, 铅笔, 支",
            "watch/watches, 手表, 块",
            "window, 窗户, 扇",
            "door, 门, 扇",
            "zebra, 斑马, 匹",
            "hippo, 河马, 头",
            "dolphin, 海豚, 条",
            "shark, 鲨鱼, 条",
            "camel, 骆驼, 头",
            "kangaroo, 袋鼠, 只",
            "goose/geese, 鹅, 只",
            "squirrel, 松鼠, 只",
            "ant, 蚂蚁, 只",
            "onion, 洋葱, 个",
            "bottle, 瓶子, 个",
            "bag, 包, 个",
            "television, 电视, 台",
            "spoon, 勺子, 把",
            "candle, 蜡烛, 支",
            "piano, 钢琴, 架",
        )
    )
)


def place(cell: int, language: str) -> str:
    """ "in the top left", 左上角."""
    return PLACES[language][cell]


def joined(parts: Sequence[str], language: str) -> str:
    """ "a, b and c", a、b和c."""
    last = " and " if language == "en" else "和"
    between = ", " if language == "en" else "、"
    return between.join(parts[:-1]) + last + parts[-1] if len(parts) > 1 else parts[0]


def grouped(things: Sequence[Placed]) -> dict[str, int]:
    """How many of each name, in order of the first."""
    numbers: dict[str, int] = {}
    for placed in things:
        numbers[placed.name] = numbers.get(placed.name, 0) + 1
    return numbers


def listed(things: Sequence[Placed], language: str) -> str:
    """ "a cat and two dogs", 一只猫和两只狗."""
    return joined([noun(name).a(language, number) for name, number in grouped(things).items()], language)


def there_is(things: Sequence[Placed], language: str, where: str = "") -> str:
    """A sentence that lists things.

    Args:
        things (`Sequence[Placed]`): at least one.
        language (`str`): `"zh"` or `"en"`.
        where (`str`, defaults to `""`): in English after them, in Chinese before; by default the picture.
    """
    what = listed(things, language)
    if language == "zh":
        return f"{where or '图里'}有{what}。"
    verb = "are" if grouped(things)[things[0].name] > 1 else "is"
    return f"There {verb} {what}{' ' if where else ''}{where}."


def sized(placed: Placed, language: str) -> str:
    """ "a large cat", 一只大猫."""
    thing, word = placed.thing, SIZE_WORDS[language][placed.size]
    if language == "en":
        return f"a {word} {thing.name}"
    return f"一{thing.measure}{word}{'的' if thing.shape else ''}{thing.chinese}"


def description(scene: Scene, language: str) -> str:
    """All things in reading order with size and place, and the background, in one sentence."""
    ground = ON_BACKGROUND[language][scene.background]
    if language == "zh":
        parts = [f"{place(placed.cell, 'zh')}有{sized(placed, 'zh')}" for placed in scene.things]
        return f"{ground}，{'，'.join(parts)}。"
    parts = [f"{sized(placed, 'en')} {place(placed.cell, 'en')}" for placed in scene.things]
    return f"{ground[0].upper()}{ground[1:]} there is {joined(parts, 'en')}."


def related(found: Sequence[str], language: str) -> str:
    """ "left of and above", 左上方, from what `relations` returns."""
    if language == "en":
        return " and ".join(RELATION_WORDS["en"][each] for each in found)
    return _DIAGONALS.get(tuple(found)) or RELATION_WORDS["zh"][found[0]]


def kind_of(thing: Thing, language: str) -> str:
    """ "an animal", 动物."""
    return KIND_NOUNS[language][thing.kind]


def colour_word(colour: str, language: str) -> str:
    """ "red", 红色."""
    return CHINESE_COLOURS[colour] if language == "zh" else colour


def capital(sentence: str) -> str:
    """With a capital first letter."""
    return sentence[0].upper() + sentence[1:]
