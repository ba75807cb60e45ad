"""How questions are put, in Chinese and English."""

import random
import re

PHRASINGS = {
    "zh": {
        "what": (
            "图里有什么？",
            "图片里有什么？",
            "图中有什么？",
            "图里都有什么？",
            "图上画了什么？",
            "这张图里有什么？",
            "这张图片里有什么？",
            "这是什么？",
            "你看到了什么？",
            "你看见了什么？",
            "画的是什么？",
            "请问图片里都有些什么？",
            "图里有哪些东西？",
            "你能看到什么？",
        ),
        "description": (
            "描述一下这张图片。",
            "请描述这张图片。",
            "描述这张图。",
            "请详细描述一下图片。",
            "说说这张图片的内容。",
            "介绍一下这张图片。",
        ),
        "count": ("图里有几{m}{n}？", "图片里有几{m}{n}？", "有几{m}{n}？", "一共有多少{m}{n}？", "图里有多少{n}？"),
        "exists": ("图里有{n}吗？", "图片里有{n}吗？", "有{n}吗？", "图里有没有{n}？", "你看到{n}了吗？"),
        "where": ("{x}在哪里？", "{x}在哪儿？", "{x}在什么位置？", "请问{x}在图片的哪里？", "{x}在图里的什么地方？"),
        "place": ("{p}有什么？", "{p}是什么？", "图片的{p}有什么？", "{p}画了什么？", "你在{p}看到了什么？"),
        "relation": (
            "{x}的{r}是什么？",
            "{x}的{r}有什么？",
            "{x}{r}有什么？",
            "在{x}的{r}有什么？",
            "什么在{x}的{r}？",
        ),
        "relation?": ("{x}在{y}的{r}吗？", "{x}是在{y}的{r}吗？", "{x}在不在{y}的{r}？"),
        "relation of": ("{x}在{y}的哪边？", "{x}在{y}的什么方向？", "{x}在{y}的哪一边？"),
        "bigger": ("{x}和{y}哪个更大？", "哪个更大，{x}还是{y}？", "{x}和{y}，哪个比较大？", "{x}和{y}谁大？"),
        "smaller": ("{x}和{y}哪个更小？", "哪个更小，{x}还是{y}？", "{x}和{y}，哪个比较小？", "{x}和{y}谁小？"),
        "bigger of two": ("哪个更大？", "哪个比较大？", "哪一个大？"),
        "smaller of two": ("哪个更小？", "哪个比较小？", "哪一个小？"),
        "size": ("{x}是大的还是小的？", "{x}是大还是小？", "{x}有多大？", "请问{x}是大的还是小的？"),
        "background": ("背景是什么？", "图片的背景是什么？", "背景里是什么？", "背景画的是什么？"),
        "background colour": (
            "背景是什么颜色？",
            "背景是什么颜色的？",
            "图片的背景是什么颜色？",
            "请问背景的颜色是什么？",
        ),
        "kind": ("{x}是什么？", "{x}是什么东西？", "{x}属于哪一类？", "{x}是哪一类东西？", "{x}是哪种东西？"),
        "kind of two": ("{x}是{k}还是{l}？", "请问{x}是{k}还是{l}？"),
        "kind?": ("{x}是{k}吗？", "{x}是不是{k}？"),
        "kind at": ("{p}的东西是哪一类？", "{p}是哪一类东西？", "{p}的东西属于哪一类？"),
        "which": ("图里有哪些{k}？", "图片里有哪些{k}？", "有什么{k}？", "图里有什么{k}？", "你看到了哪些{k}？"),
        "fly?": ("{x}会飞吗？", "{x}能飞吗？", "{x}会不会飞？", "{x}能不能飞？"),
        "eat?": ("{x}可以吃吗？", "{x}能吃吗？", "{x}能不能吃？"),
        "water?": ("{x}生活在水里吗？", "{x}住在水里吗？", "{x}是不是生活在水里？"),
        "wheels?": ("{x}有轮子吗？", "{x}有没有轮子？"),
        "fly": ("哪些会飞？", "什么会飞？", "图里什么会飞？", "哪个会飞？", "它们中哪些会飞？", "哪些能飞？"),
        "eat": ("哪些可以吃？", "什么可以吃？", "图里什么可以吃？", "哪个可以吃？", "它们中哪些能吃？", "哪些能吃？"),
        "water": ("哪些生活在水里？", "什么生活在水里？", "图里什么生活在水里？", "它们中哪些生活在水里？"),
        "wheels": ("哪些有轮子？", "什么有轮子？", "图里什么有轮子？", "哪个有轮子？", "它们中哪些有轮子？"),
        "colour": ("{x}是什么颜色？", "{x}是什么颜色的？", "请问{x}的颜色是什么？", "{x}是哪种颜色？"),
        "shape": ("{x}是什么形状？", "{x}是什么形状的？", "请问{x}的形状是什么？", "{x}是什么图形？"),
        "other": ("另一个呢？", "另外一个呢？", "那另一个呢？"),
        "and": ("{x}呢？", "那{x}呢？"),
    },
    "en": {
        "what": (
            "What is in the picture?",
            "What do you see?",
            "What can you see in the picture?",
            "What is in this picture?",
            "What is in this image?",
            "What is this?",
            "What does the picture show?",
            "What is shown in the picture?",
            "What can you see?",
            "What do you see in this picture?",
            "Which things are in the picture?",
            "What's in the picture?",
        ),
        "description": (
            "Describe the picture.",
            "Please describe this picture.",
            "Describe this image.",
            "Can you describe the picture?",
            "Describe the picture in detail.",
            "Tell me about this picture.",
        ),
        "count": (
            "How many {s} are there?",
            "How many {s} are in the picture?",
            "How many {s} can you see?",
            "How many {s} do you see?",
            "What is the number of {s}?",
        ),
        "exists": (
            "Is there {n}?",
            "Is there {n} in the picture?",
            "Can you see {n}?",
            "Do you see {n}?",
            "Does the picture show {n}?",
            "Are there any {s}?",
        ),
        "where": (
            "Where is {x}?",
            "Where can I find {x}?",
            "In which part of the picture is {x}?",
            "Where do you see {x}?",
            "Where in the picture is {x}?",
        ),
        "place": (
            "What is {p}?",
            "What can you see {p}?",
            "Which thing is {p}?",
            "What do you see {p}?",
            "What's {p}?",
        ),
        "relation": (
            "What is {r} {x}?",
            "What is there {r} {x}?",
            "What do you see {r} {x}?",
            "Which things are {r} {x}?",
            "What can you see {r} {x}?",
        ),
        "relation?": ("Is {x} {r} {y}?", "Is {x} placed {r} {y}?"),
        "relation of": (
            "Where is {x} as seen from {y}?",
            "On which side of {y} is {x}?",
            "Where is {x} relative to {y}?",
        ),
        "bigger": (
            "Which is bigger, {x} or {y}?",
            "Which one is larger, {x} or {y}?",
            "What is bigger, {x} or {y}?",
        ),
        "smaller": (
            "Which is smaller, {x} or {y}?",
            "Which one is smaller, {x} or {y}?",
            "What is smaller, {x} or {y}?",
        ),
        "bigger of two": ("Which is bigger?", "Which one is bigger?", "Which of them is larger?"),
        "smaller of two": (
            "Which is smaller?",
            "Which one is smaller?",
            "Which of them is smaller?",
        ),
        "size": (
            "Is {x} large or small?",
            "Is {x} small or large?",
            "What size is {x}?",
            "How big is {x}?",
            "Is {x} big or small?",
        ),
        "background": (
            "What is the background?",
            "What is in the background?",
            "What does the background show?",
            "What do you see in the background?",
        ),
        "background colour": (
            "What colour is the background?",
            "What color is the background?",
            "Which colour does the background have?",
            "What is the color of the background?",
        ),
        "kind": (
            "What kind of thing is {x}?",
            "What is {x}?",
            "What sort of thing is {x}?",
        ),
        "kind of two": ("Is {x} {k} or {l}?",),
        "kind?": ("Is {x} {k}?",),
        "kind at": ("What kind of thing is {p}?", "What sort of thing is {p}?"),
        "which": (
            "Which {s} are there?",
            "What {s} do you see?",
            "Which {s} are in the picture?",
            "What {s} are in the picture?",
            "Which {s} can you see?",
        ),
        "fly?": ("Can {x} fly?", "Is {x} able to fly?", "Does {x} fly?"),
        "eat?": ("Can {x} be eaten?", "Can you eat {x}?", "Can I eat {x}?"),
        "water?": ("Does {x} live in water?", "Does {x} live in the water?"),
        "wheels?": ("Does {x} have wheels?", "Has {x} got wheels?"),
        "fly": (
            "Which of these can fly?",
            "Which of them can fly?",
            "What can fly?",
            "Which can fly?",
            "Which one can fly?",
        ),
        "eat": (
            "Which of these can be eaten?",
            "Which of them can be eaten?",
            "What can be eaten?",
            "Which of these can you eat?",
            "What can you eat?",
        ),
        "water": (
            "Which of these live in water?",
            "Which of them lives in water?",
            "What lives in water?",
            "Which of these lives in water?",
        ),
        "wheels": (
            "Which of these have wheels?",
            "Which of them has wheels?",
            "What has wheels?",
            "Which of these has wheels?",
        ),
        "colour": (
            "What colour is {x}?",
            "What color is {x}?",
            "Which colour does {x} have?",
            "What is the color of {x}?",
        ),
        "shape": ("What shape is {x}?", "Which shape does {x} have?", "What kind of shape is {x}?"),
        "other": ("And the other one?", "What about the other one?", "And the other?"),
        "and": ("And {x}?", "What about {x}?"),
    },
}

# Also learned, but not asked in the tests of the world; their words may be unknown to the vocabulary.
MORE_PHRASINGS = {
    "zh": {
        "what": (
            "图里面是什么？",
            "图里面有什么东西？",
            "这张图片展示了什么？",
            "图片上有什么？",
            "告诉我图里有什么。",
            "看看图里有什么。",
            "说说图里有什么东西。",
            "请列出图里的东西。",
            "图片里有哪些物体？",
            "图里有些什么？",
            "这幅画里有什么？",
            "画面上都有什么？",
            "你能看见什么？",
            "你看得出图里有什么吗？",
        ),
        "description": (
            "描述图片。",
            "描述一下图片内容。",
            "详细说说这张图。",
            "请说一说这张图片。",
            "给我描述一下这张图。",
        ),
        "count": ("图里{n}有几{m}？", "{n}有几{m}？", "数一数有几{m}{n}。", "你看到几{m}{n}？"),
        "exists": ("图里是不是有{n}？", "能看到{n}吗？", "有没有{n}？", "这里有{n}吗？", "图里能找到{n}吗？"),
        "where": (
            "{x}在哪？",
            "{x}的位置在哪里？",
            "{x}在哪个位置？",
            "{x}在图的哪一边？",
            "{x}在哪个地方？",
            "找一找{x}在哪里。",
        ),
        "place": ("{p}的东西是什么？", "{p}画的是什么？", "{p}有什么东西？"),
        "relation": ("{x}的{r}有什么东西？", "{x}的{r}画了什么？", "看看{x}的{r}有什么。"),
        "relation?": ("{x}是不是在{y}的{r}？",),
        "relation of": ("{x}在{y}的哪个方向？", "{x}在{y}的哪一面？"),
        "bigger": (
            "{x}和{y}哪个大？",
            "{x}跟{y}哪个大？",
            "{x}与{y}哪个更大？",
            "{x}和{y}比，哪个大？",
            "哪个大，{x}还是{y}？",
        ),
        "smaller": ("{x}和{y}哪个小？", "{x}跟{y}哪个小？", "{x}与{y}哪个更小？", "{x}和{y}比，哪个小？"),
        "bigger of two": ("谁更大？", "哪个大？"),
        "smaller of two": ("谁更小？", "哪个小？"),
        "bigger?": ("{x}比{y}大吗？", "{x}是不是比{y}大？"),
        "smaller?": ("{x}比{y}小吗？", "{x}是不是比{y}小？"),
        "size": ("{x}大不大？", "{x}是大的吗，还是小的？", "{x}的大小是什么？"),
        "background": ("背景是什么样的？", "后面的背景是什么？"),
        "background colour": ("背景颜色是什么？", "背景是哪种颜色？"),
        "kind": ("{x}是一种什么东西？",),
        "which": ("都有哪些{k}？", "图里的{k}有哪些？", "图里有几种{k}，是什么？"),
        "fly": ("谁会飞？", "图里哪些会飞？", "有什么会飞的东西？"),
        "eat": ("什么能吃？", "哪个能吃？", "图里哪些可以吃？", "有什么能吃的东西？"),
        "water": ("谁生活在水里？", "哪个生活在水里？"),
        "wheels": ("谁有轮子？", "图里哪些有轮子？"),
        "colour": ("{x}的颜色是什么？", "{x}什么颜色？"),
        "shape": ("{x}的形状是什么？", "{x}是哪种形状？"),
    },
    "en": {
        "what": (
            "What objects are in the picture?",
            "Tell me what is in the picture.",
            "Tell me what you see.",
            "What is on the picture?",
            "What is here?",
            "What do we see here?",
            "What is in it?",
            "List the things in the picture.",
            "Can you tell me what is in the picture?",
            "What does this picture show?",
            "What things can you see?",
            "Which objects do you see?",
            "What is pictured here?",
        ),
        "description": (
            "Describe this.",
            "Give me a description of the picture.",
            "Please describe the picture in detail.",
            "Describe what you see.",
            "Can you describe this picture in detail?",
        ),
        "count": (
            "Count the {s}.",
            "How many {s} does the picture show?",
            "Tell me how many {s} there are.",
        ),
        "exists": (
            "Is {n} in the picture?",
            "Is there {n} here?",
            "Can you find {n}?",
            "Are there {s} in the picture?",
            "Do you see any {s}?",
        ),
        "where": (
            "Where's {x}?",
            "Tell me where {x} is.",
            "What is the position of {x}?",
            "Can you tell me where {x} is?",
        ),
        "place": ("What thing is {p}?", "Tell me what is {p}."),
        "relation": ("What's {r} {x}?", "What thing is {r} {x}?", "What objects are {r} {x}?"),
        "relation?": ("Is {x} located {r} {y}?", "Does {x} lie {r} {y}?"),
        "relation of": ("Where is {x} from {y}?", "In which direction from {y} is {x}?"),
        "bigger": (
            "Which is larger, {x} or {y}?",
            "Which one is bigger, {x} or {y}?",
            "Is {x} or {y} bigger?",
        ),
        "smaller": ("Which is the smaller one, {x} or {y}?", "Is {x} or {y} smaller?"),
        "bigger of two": (
            "Which is larger?",
            "Which one is larger?",
            "Which of the two is bigger?",
        ),
        "smaller of two": ("Which is the smaller one?", "Which of the two is smaller?"),
        "bigger?": ("Is {x} bigger than {y}?", "Is {x} larger than {y}?"),
        "smaller?": ("Is {x} smaller than {y}?",),
        "size": ("How large is {x}?", "Is {x} big?"),
        "background": ("Describe the background.", "What is behind everything?"),
        "background colour": (
            "What's the color of the background?",
            "Tell me the colour of the background.",
        ),
        "kind": ("What type of thing is {x}?", "What's {x}?"),
        "which": ("Name the {s}.", "What {s} can you see?", "Tell me which {s} there are."),
        "fly": ("What here can fly?", "Which things can fly?", "Who can fly?"),
        "eat": ("Which one can be eaten?", "Which things can I eat?", "What here can be eaten?"),
        "water": ("Who lives in water?", "Which things live in water?"),
        "wheels": ("Which things have wheels?", "Which one has wheels?"),
        "colour": ("What's the colour of {x}?", "Tell me the color of {x}."),
        "shape": ("What is the shape of {x}?", "What form does {x} have?"),
    },
}
_SAME = {
    "zh": {
        "图里": (
            "图片里",
            "图中",
            "图片中",
            "图上",
            "图里面",
            "画里",
            "画面里",
            "照片里",
            "这张图里",
            "这张图片中",
            "这幅图里",
        ),
        "图片里": ("图里", "图中", "图片中", "图片上", "图片里面", "照片里", "这张图片里"),
    },
    "en": {
        "the picture": ("the image", "this picture", "this image", "the photo", "the drawing"),
        "this picture": ("the picture", "this image", "the image", "this photo"),
        "What is": ("What's",),
    },
}
_POLITE = {
    "zh": ("请问", "请告诉我，", "请看图，", "帮我看看，"),
    "en": ("Please tell me: ", "Look at the picture. ", "A question: "),
}

_ALONE = "(?<!这张)(?<!这幅){}(?!面)"  # not a part of 这张图里, 图里面
_ASKING = (
    *("请", "告诉", "看看", "说", "数", "描述", "介绍", "给我", "详细", "找", "你能"),
    *("Tell", "Please", "Can you", "Describe", "Look", "List", "Count", "Give", "Name", "In which"),
)


class WideRandom(random.Random):
    """A source of choices for training, where questions are also put as in `MORE_PHRASINGS`."""


def put(language: str, name: str, rng: random.Random) -> str:
    """One of the phrasings of that name; of the further ones where the rng is wide, or where there are no others."""
    usual, more = PHRASINGS[language].get(name, ()), MORE_PHRASINGS[language].get(name, ())
    if not usual or more and isinstance(rng, WideRandom) and rng.random() < 0.35:
        return rng.choice(more)
    return rng.choice(usual)


def reworded(text: str, language: str, rng: random.Random) -> str:
    """The same question in words that mean the same; a question that asks for nothing may begin politely."""
    if rng.random() < 0.7:
        found = [word for word in _SAME[language] if re.search(_ALONE.format(word), text)]
        if found:
            word = rng.choice(found)
            text = re.sub(_ALONE.format(word), rng.choice(_SAME[language][word]), text, count=1)
    if rng.random() < 0.3 and not text.startswith(_ASKING):
        text = rng.choice(_POLITE[language]) + text
    return text
