"""Other words for places, sides, relations, backgrounds and sizes, which only training asks with."""

import random

from .phrasings import WideRandom

# by cell
PLACES = {
    "en": {
        0: ("in the top left-hand corner", "in the upper left corner", "at the top left", "in the left top corner"),
        1: ("at the top centre", "in the top centre", "in the upper middle", "in the middle of the top row"),
        2: (
            "in the top right-hand corner",
            "in the upper right corner",
            "at the top right",
            "in the right top corner",
        ),
        3: ("on the left in the middle", "in the left middle", "in the middle on the left", "in the centre left"),
        4: ("right in the middle", "in the very middle", "at the centre", "in the centre of the picture"),
        5: ("on the right in the middle", "in the right middle", "in the middle on the right", "in the centre right"),
        6: ("in the bottom left-hand corner", "in the lower left corner", "at the bottom left"),
        7: ("at the bottom centre", "in the bottom centre", "in the lower middle", "in the middle of the bottom row"),
        8: ("in the bottom right-hand corner", "in the lower right corner", "at the bottom right"),
    },
    "zh": {
        0: ("左上", "左上边"),
        1: ("上方正中", "上方中间", "正上面", "上面中间"),
        2: ("右上", "右上边"),
        3: ("左侧中间", "左边中间", "中间左侧", "左边正中"),
        4: ("正中央", "中心", "正中", "图的中间", "中间的位置"),
        5: ("右侧中间", "右边中间", "中间右侧", "右边正中"),
        6: ("左下", "左下边"),
        7: ("下方正中", "下方中间", "正下面", "下面中间"),
        8: ("右下", "右下边"),
    },
}
SIDES = {
    "en": {
        "left": ("on the left-hand side", "on the left of the picture", "on the left side of the picture"),
        "right": ("on the right-hand side", "on the right of the picture", "on the right side of the picture"),
        "above": (
            "at the top of the picture",
            "in the upper part",
            "in the top row",
            "in the upper part of the image",
        ),
        "below": ("at the bottom of the picture", "in the lower part", "in the bottom row"),
    },
    "zh": {
        "left": ("最左边", "左边的位置"),
        "right": ("最右边", "右边的位置"),
        "above": ("最上面", "顶部", "最上边", "顶上"),
        "below": ("最下面", "底部", "最下边"),
    },
}
RELATIONS = {
    "en": {
        "left": ("on the left side of", "on the left-hand side of", "further left than"),
        "right": ("on the right side of", "on the right-hand side of", "further right than"),
        "above": ("higher up than", "higher than", "on the upper side of"),
        "below": ("beneath", "underneath", "lower than", "lower down than"),
    },
    "zh": {
        "left": ("左方", "左手边"),
        "right": ("右方", "右手边"),
        "above": ("上头", "上侧"),
        "below": ("下头", "下侧", "底下"),
    },
}
# either of two opposite ones, and what English says behind the second
OPPOSITES = {
    "en": {
        "left": (
            ("left", "right", " of"),
            ("to the left", "to the right", " of"),
            ("on the left", "on the right", " of"),
        ),
        "above": (("above", "below", ""), ("over", "under", "")),
    },
    "zh": {
        "left": (("左边", "右边", ""), ("左侧", "右侧", ""), ("左面", "右面", "")),
        "above": (("上面", "下面", ""), ("上方", "下方", ""), ("上边", "下边", "")),
    },
}
GROUNDS = {
    "en": {
        "white": ("on plain white", "on white", "in front of a white background"),
        "sky": ("up in the sky", "in the blue sky", "in front of the sky"),
        "grass": ("on the grass", "on a meadow", "on a lawn", "on the green grass"),
        "sand": ("on the sand", "on the beach", "on a beach", "on the sandy ground"),
        "night": ("in the night sky", "out at night", "in the dark", "in the dark sky"),
        "water": ("on water", "in the water", "on the sea", "on the surface of the water"),
    },
    "zh": {
        "white": ("白色的背景上", "白背景上", "白色上面"),
        "sky": ("天上", "空中", "天空里"),
        "grass": ("草坪上", "草上", "绿色的草地上"),
        "sand": ("沙子上", "沙地上", "海滩上"),
        "night": ("夜空中", "夜空里", "晚上的天空中"),
        "water": ("水上", "水里", "水中"),
    },
}


def wider(usual: str, more: tuple[str, ...], rng: random.Random) -> str:
    """The usual word, or now and then one of the others where the rng is wide."""
    return rng.choice(more) if isinstance(rng, WideRandom) and more and rng.random() < 0.35 else usual
