"""What the tiny models know: eighty pictograms and the coloured shapes, with their names, kinds and facts.

The order of `DRAWN` is the order of the sprites; `THINGS` come first, as on sprites.png.
"""

from dataclasses import dataclass

COLOURS = {  # RGB of the coloured shapes
    "red": (214, 36, 36),
    "orange": (250, 136, 20),
    "yellow": (246, 222, 40),
    "green": (36, 156, 66),
    "blue": (36, 82, 214),
    "purple": (132, 44, 172),
    "pink": (246, 136, 196),
    "brown": (124, 74, 36),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
KINDS = {  # English, its plural, Chinese, its measure word
    "animal": ("animal", "animals", "动物", "只"),
    "fruit": ("fruit", "fruits", "水果", "个"),
    "vegetable": ("vegetable", "vegetables", "蔬菜", "个"),
    "food": ("food", "foods", "食物", "个"),
    "vehicle": ("vehicle", "vehicles", "交通工具", "个"),
    "plant": ("plant", "plants", "植物", "棵"),
    "building": ("building", "buildings", "建筑", "座"),
    "sky": ("thing in the sky", "things in the sky", "天上的东西", "个"),
    "everyday": ("everyday thing", "everyday things", "日常用品", "个"),
    "shape": ("shape", "shapes", "图形", "个"),
}
FACTS = ("fly", "eat", "water", "wheels")  # can fly, can be eaten, lives in water, has wheels
CHINESE_COLOURS = {
    **dict(zip(COLOURS, ("红色", "橙色", "黄色", "绿色", "蓝色", "紫色", "粉色", "棕色"), strict=True)),
    "white": "白色",
    "gray": "灰色",
    "black": "黑色",
    "black and white": "黑白色",
    "colourful": "彩色",
}
_CHINESE_SHAPES = dict(zip(SHAPES, ("圆形", "正方形", "三角形", "五角星", "心形", "十字形"), strict=True))


@dataclass(frozen=True)
class Thing:
    """Something that can be drawn.

    Args:
        name, plural (`str`): English.
        chinese, measure (`str`): Chinese, and the measure word: 一只猫.
        kind (`str`): a key of `KINDS`.
        colour (`str`): a key of `CHINESE_COLOURS`.
        facts (`tuple[str, ...]`): of `FACTS`.
        may_flip (`bool`, defaults to `True`): whether it may be drawn mirrored.
        emoji (`str`, *optional*): its character; `None` for a coloured shape.
        shape (`str`, *optional*): of a coloured shape, one of `SHAPES` (or `"ring"`, which only the lesson draws).
    """

    name: str
    plural: str
    chinese: str
    measure: str
    kind: str
    colour: str
    facts: tuple[str, ...] = ()
    may_flip: bool = True
    emoji: str | None = None
    shape: str | None = None

    @property
    def article(self) -> str:
        """`"a"` or `"an"`."""
        return article(self.name)


def article(word: str) -> str:
    """`"a"` or `"an"`, for an English word of this world."""
    return "an" if word[0] in "aeiou" else "a"


# emoji, English[/plural], Chinese, measure word, colour[, fact …]
_TABLE = {
    "animal": """
        🐱 cat, 猫, 只, yellow
        🐶 dog, 狗, 只, white
        🐰 rabbit, 兔子, 只, white
        🦊 fox/foxes, 狐狸, 只, orange
        🐻 bear, 熊, 只, brown
        🐼 panda, 熊猫, 只, black and white
        🦁 lion, 狮子, 头, brown
        🐯 tiger, 老虎, 只, orange
        🐮 cow, 牛, 头, white
        🐷 pig, 猪, 头, pink
        🐸 frog, 青蛙, 只, green
        🐵 monkey, 猴子, 只, brown
        🐔 chicken, 鸡, 只, white
        🐧 penguin, 企鹅, 只, black and white
        🦉 owl, 猫头鹰, 只, brown, fly
        🦋 butterfly/butterflies, 蝴蝶, 只, orange, fly
        🐝 bee, 蜜蜂, 只, yellow, fly
        🐟 fish/fish, 鱼, 条, blue, water
        🐙 octopus/octopuses, 章鱼, 只, red, water
        🐳 whale, 鲸鱼, 头, blue, water
        🦀 crab, 螃蟹, 只, orange, water
        🐢 turtle, 乌龟, 只, green, water
        🐘 elephant, 大象, 头, gray
        🐴 horse, 马, 匹, brown
        🐌 snail, 蜗牛, 只, brown
        🦜 parrot, 鹦鹉, 只, green, fly""",
    "fruit": """
        🍎 apple, 苹果, 个, red, eat
        🍌 banana, 香蕉, 根, yellow, eat
        🍓 strawberry/strawberries, 草莓, 颗, red, eat
        🍉 watermelon, 西瓜, 块, red, eat
        🍋 lemon, 柠檬, 个, yellow, eat
        🍍 pineapple, 菠萝, 个, yellow, eat
        🍐 pear, 梨, 个, green, eat
        🍑 peach/peaches, 桃子, 个, orange, eat""",
    "vegetable": """
        🥕 carrot, 胡萝卜, 根, orange, eat
        🍄 mushroom, 蘑菇, 个, red, eat
        🍆 eggplant, 茄子, 个, purple, eat""",
    "food": """
        🍕 pizza, 披萨, 块, yellow, eat
        🍔 hamburger, 汉堡, 个, brown, eat
        🍰 cake, 蛋糕, 块, white, eat
        🥚 egg, 鸡蛋, 个, brown, eat
        🍩 doughnut, 甜甜圈, 个, brown, eat
        🍦 ice cream, 冰淇淋, 个, white, eat""",
    "vehicle": """
        🚗 car, 汽车, 辆, red, wheels
        🚌 bus/buses, 公交车, 辆, gray, wheels
        🚲 bicycle, 自行车, 辆, blue, wheels
        🚂 train, 火车, 列, red, wheels
        ✈ airplane, 飞机, 架, blue, fly
        🚁 helicopter, 直升机, 架, yellow, fly
        🚀 rocket, 火箭, 枚, gray, fly
        ⛵ sailboat, 帆船, 艘, orange
        🚜 tractor, 拖拉机, 辆, green, wheels
        🚒 fire engine, 消防车, 辆, red, wheels""",
    "plant": """
        🌳 tree, 树, 棵, green
        🌵 cactus/cactuses, 仙人掌, 棵, green
        🌻 sunflower, 向日葵, 朵, yellow
        🌹 rose, 玫瑰, 朵, red
        🌷 tulip, 郁金香, 朵, pink""",
    "building": """
        🏠 house, 房子, 座, white
        🏰 castle, 城堡, 座, gray
        ⛺ tent, 帐篷, 顶, orange
        ⛪ church/churches, 教堂, 座, white""",
    "sky": """
        ☀ sun, 太阳, 个, yellow
        🌙 moon, 月亮, 个, yellow
        ☁ cloud, 云, 朵, white
        🌈 rainbow, 彩虹, 道, colourful
        ❄ snowflake, 雪花, 片, blue""",
    "everyday": """
        ⚽ football, 足球, 个, black and white
        📖 book, 书, 本, white
        ☂ umbrella, 雨伞, 把, blue
        🔑 key, 钥匙, 把, yellow
        ⏰ clock, 闹钟, 个, red
        🎁 gift, 礼物, 个, orange
        🎈 balloon, 气球, 个, red, fly
        👟 shoe, 鞋子, 只, blue
        🪑 chair, 椅子, 把, brown
        🎸 guitar, 吉他, 把, red
        ☕ cup, 杯子, 个, white
        🎩 hat, 帽子, 顶, black
        📷 camera, 相机, 台, black""",
}
_NEVER_FLIPPED = ("clock", "book")


def _pictograms() -> tuple[Thing, ...]:
    things = []
    for kind, table in _TABLE.items():
        for line in table.strip().splitlines():
            emoji, names = line.strip().split(" ", 1)
            english, chinese, measure, colour, *facts = names.split(", ")
            name, _, plural = english.partition("/")
            things.append(
                Thing(
                    name,
                    plural or f"{name}s",
                    chinese,
                    measure,
                    kind,
                    colour,
                    tuple(facts),
                    name not in _NEVER_FLIPPED,
                    emoji,
                )
            )
    return tuple(things)


def _coloured(shape: str, chinese: str) -> tuple[Thing, ...]:
    plural = shape + ("es" if shape.endswith("s") else "s")
    return tuple(
        Thing(
            f"{colour} {shape}",
            f"{colour} {plural}",
            f"{CHINESE_COLOURS[colour]}的{chinese}",
            "个",
            "shape",
            colour,
            may_flip=False,
            shape=shape,
        )
        for colour in COLOURS
    )


CHINESE_SHAPES = {**_CHINESE_SHAPES, "ring": "O形"}
THINGS = _pictograms()  # 80
COLOURED_SHAPES = tuple(thing for shape in SHAPES for thing in _coloured(shape, CHINESE_SHAPES[shape]))  # 48
KNOWN = THINGS + COLOURED_SHAPES  # all that the shipped models are trained on
DRAWN = KNOWN + _coloured("ring", CHINESE_SHAPES["ring"])  # rings are drawn for the lesson of the tutorial only
BY_NAME = {thing.name: thing for thing in DRAWN}
NUMBER = {thing.name: number for number, thing in enumerate(DRAWN)}  # of its sprite
