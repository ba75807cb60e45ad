"""Questions that the tiny models cannot answer: greetings, knowledge, tasks, and more about a thing than they know.

Every fourth template and every fourth filler is kept for the test.
"""

import random
import string

from .phrasings import WideRandom, opened
from .things import THINGS

OUTSIDE_KINDS = ("greeting", "knowledge", "task", "more about a thing")
_GREETINGS = {
    "zh": """你好|您好|你好吗？|你是谁？|你叫什么名字？|早上好|晚上好|再见|谢谢|谢谢你！|你几岁了？
        |你会做什么？|你是机器人吗？|你喜欢什么？|你在哪里？|你来自哪里？|很高兴认识你|嗨|你今天怎么样？
        |你会说英语吗？|你是人吗？|你聪明吗？|你能帮我吗？|我叫{w}|你喜欢{w}吗？|你爱我吗？|晚安|对不起|没关系
        |好的|我很高兴|我不开心|你累了吗？|喂|在吗？|你知道我是谁吗？|你是谁做的？|好久不见|下午好|你会唱歌吗？
        |你饿了吗？|再说一次|为什么？|真的吗？|是吗？|我听不懂|什么意思？|哈哈|你有朋友吗？|你几点睡觉？""",
    "en": """Hello|Hello!|Hi|Hi there|How are you?|Who are you?|What is your name?|Good morning
        |Good evening|Goodbye|Thank you|Thanks|How old are you?|What can you do?|Are you a robot?|Are you human?
        |What do you like?|Where are you from?|Where do you live?|Nice to meet you|How is it going?
        |Do you speak Chinese?|Are you clever?|Can you help me?|My name is {w}|Do you like {w}?|Do you love me?
        |Good night|Sorry|Okay|I am happy|I am sad|Are you tired?|Hey|Who made you?|See you later
        |Long time no see|Good afternoon|Can you sing?|Are you hungry?|Say it again|Why?|Really?
        |I do not understand|What do you mean?|Yes|No|Do you have friends?|When do you sleep?
        |What are you thinking?|Tell me about yourself""",
}
_KNOWLEDGE = {
    "zh": """{c}的首都是哪里？|{c}的首都是什么？|{c}有多少人口？|{c}在哪里？|{c}的总统是谁？|{p}是谁？
        |{p}是哪一年出生的？|谁发明了{w}？|什么是{w}？|{w}是什么？|{w}是什么意思？|{n}加{m}等于几？
        |{n}乘以{m}是多少？|{n}+{m}=?|今天天气怎么样？|明天会下雨吗？|现在几点了？|今天是星期几？|今天几号？
        |一年有多少天？|世界上最高的山是什么？|世界上最长的河是哪条？|太阳离我们有多远？|光速是多少？
        |水的化学式是什么？|为什么天是蓝色的？|地球为什么是圆的？|{c}说什么语言？|怎么学习{w}？|{w}多少钱？
        |谁是{p}的妻子？|{c}和{d}哪个更大？|人为什么会做梦？|电是怎么来的？|谁赢了世界杯？|{w}和{v}有什么区别？
        |一公里有多少米？|谁写了{w}？|{c}有什么好玩的？|圆周率是多少？|什么时候过年？|{w}在哪里？|有{w}吗？
        |图里有{w}吗？|{w}是什么颜色？""",
    "en": """What is the capital of {c}?|What's the capital of {c}?|How many people live in {c}?
        |Where is {c}?|Who is the president of {c}?|Who is {p}?|When was {p} born?|Who invented {w}?
        |What is {w}?|What does {w} mean?|What is {n} plus {m}?|What is {n} times {m}?|{n} + {m} = ?
        |How is the weather today?|Will it rain tomorrow?|What time is it?|What day is it today?
        |What is the date?|How many days are in a year?|What is the highest mountain in the world?
        |What is the longest river?|How far away is the sun from us?|What is the speed of light?
        |What is the formula of water?|Why is the sky blue?|Why is the earth round?
        |Which language do they speak in {c}?|How do I learn {w}?|How much does {w} cost?
        |Who is the wife of {p}?|Which is bigger, {c} or {d}?|Why do people dream?
        |Where does electricity come from?|Who won the world cup?|What is the difference between {w} and {v}?
        |How many metres are in a kilometre?|Who wrote {w}?|What can I visit in {c}?|What is pi?
        |When is Christmas?|Where is the {w}?|Is there a {w}?|Can you see {w} in the picture?
        |What colour is {w}?""",
}
_TASKS = {
    "zh": """写一首诗|写一首关于{w}的诗|讲个笑话|讲一个故事|给我讲一个关于{w}的故事|把这句话翻译成英语
        |帮我写一封信|写一段代码|用Python写一个程序|唱一首歌|推荐一本书|推荐一部电影|给我一个菜谱|怎么做{w}？
        |教我{w}|画一个{w}|帮我画一张{w}|总结一下这篇文章|打开窗户|关灯|给{p}打电话|放一首歌|我应该穿什么？
        |帮我订一张去{c}的机票|数到{n}|说一个数字|背一首唐诗|给我讲讲{c}|我们玩游戏吧|解释一下{w}
        |图里写了什么字？|读一下图片里的字|这张照片是在哪里拍的？|这张照片是谁拍的？|图里的人是谁？
        |图里的人在做什么？|这是什么时候拍的？|这张图片好看吗？|你觉得这张图怎么样？|给这张图起一个名字
        |他们在说什么？|请用一个词形容心情|帮我修图|列出五个{w}|{p}长什么样？|把图片变成黑白的""",
    "en": """Write a poem|Write a poem about {w}|Tell me a joke|Tell me a story
        |Tell me a story about {w}|Translate this into Chinese|Write a letter for me|Write some code
        |Write a program in Python|Sing a song|Recommend a book|Recommend a film|Give me a recipe
        |How do I make {w}?|Teach me {w}|Draw {w}|Paint me a {w}|Summarize this article|Open the window
        |Turn off the light|Call {p}|Play some music|What should I wear?|Book a flight to {c}|Count to {n}
        |Say a number|Tell me something about {c}|Let us play a game|Explain {w} to me
        |What is written in the picture?|Read the text in the picture|Where was this photo taken?
        |Who took this photo?|Who is the person in the picture?|What is the person doing?|When was this taken?
        |Is this picture beautiful?|What do you think of this picture?|Give this picture a title
        |What are they talking about?|Which feeling does it show?|Fix my picture|List five {w}
        |What does {p} look like?|Make the picture black and white|Solve this problem
        |What should I cook with {w}?""",
}
_MORE = {
    "zh": """为什么{t}在这里？|{t}叫什么名字？|{t}几岁了？|{t}在想什么？|{t}开心吗？|{t}为什么生气？
        |{t}吃什么？|{t}喜欢什么？|{t}多少钱？|{t}有多重？|{t}是谁的？|{t}在做什么？|{t}要去哪里？|{t}从哪里来？
        |怎么画{t}？|{t}是真的吗？|{t}能活多久？|{t}跑得快吗？|{t}用英语怎么说？|谁买了{t}？|{t}危险吗？
        |{t}漂亮吗？|我可以买{t}吗？|{t}会说话吗？|{t}会唱歌吗？|{t}是用什么做的？|{t}有几条腿？|{t}有多高？
        |怎么养{t}？|{t}饿了吗？|{t}好吃吗？|给{t}起个名字|写一个{t}的故事|{t}和{w}有什么关系？|{t}睡着了吗？
        |你喜欢{t}吗？|{t}有什么用？|{t}怎么了？|我想要{t}""",
    "en": """Why is the {t} here?|What is the name of the {t}?|How old is the {t}?
        |What is the {t} thinking?|Is the {t} happy?|Why is the {t} angry?|What does the {t} eat?
        |What does the {t} like?|How much does the {t} cost?|How heavy is the {t}?|Whose {t} is this?
        |What is the {t} doing?|Where is the {t} going?|Where does the {t} come from?|How do I draw a {t}?
        |Is the {t} real?|How long does a {t} live?|How fast is the {t}?|How do you say {t} in Chinese?
        |Who bought the {t}?|Is the {t} dangerous?|Is the {t} beautiful?|May I buy the {t}?|Can the {t} talk?
        |Can the {t} sing?|What is the {t} made of?|How many legs does the {t} have?|How tall is the {t}?
        |How do I keep a {t}?|Is the {t} hungry?|Does the {t} taste good?|Give the {t} a name
        |Write a story about the {t}|What has the {t} to do with {w}?|Is the {t} asleep?|Do you like the {t}?
        |What is the {t} good for?|What happened to the {t}?|I want the {t}""",
}
# worded like questions about this world; for training alone
_LOOKALIKES = {
    "zh": """{c}有几个城市？|{c}有哪些动物？|{c}的背景是什么？|{c}在{d}的哪边？|{c}在{d}的左边吗？|{c}和{d}哪个更小？
        |{c}比{d}大吗？|{c}最大的城市是哪个？|{p}在哪里？|{p}是什么颜色？|{p}在图里吗？|{p}和{w}哪个更重要？|{p}会飞吗？
        |{p}有几个孩子？|{p}是动物还是人？|火星上的天空是什么颜色？|火星上有生命吗？|海里有几种鱼？|世界上有几个国家？
        |世界上最大的动物是什么？|世界上最小的国家是哪个？|哪些国家在{c}旁边？|{w}属于哪一类？|{w}可以吃吗？|{w}会飞吗？
        |{w}有轮子吗？|{w}大吗？|{w}是红色的吗？|{w}和{v}哪个更大？|{w}旁边有什么？|{w}的左边是什么？|{w}在{v}的哪边？
        |图里有几个{w}？|哪些是{w}？|图里有没有{w}？|{w}在左上角吗？|能告诉我{w}是什么吗？|请问{c}在哪里？|你知道{p}吗？
        |一年有几个月？|一天有多少小时？|一个人有几只手？|{t}有几只眼睛？|{t}一般有多大？|{t}最喜欢什么颜色？
        |{t}的英语是什么？|{t}住在哪个国家？|{t}有几种？|世界上有多少{t}？|{t}里面有什么？|{t}下面藏着什么？
        |哪个{t}最贵？|谁的{t}最大？|{t}和{w}哪个更贵？|{t}和人哪个更聪明？|我家有几个{t}？|我的{t}在哪里？
        |你的背景是什么？|你有多大？|你是什么颜色？|你在图里吗？|昨天图里有什么？|下一张图里有什么？|图外面有什么？
        |这张图是用什么画的？|这张图有多大？|这张图多少钱？|为什么背景是这样的？|背景音乐是什么？|图里现在几点了？
        |图里的天气怎么样？|图里是哪个城市？|图里是什么季节？|图里有多少钱？|图里写了几个字？|颜色是怎么来的？
        |什么颜色最好看？|你最喜欢哪个？|哪个更好吃？|哪个更快？|哪个更贵？|哪个更重？|它叫什么？|它多重？|它几岁？
        |它是谁的？|它在做什么？|另一个叫什么？""",
    "en": """How many cities are there in {c}?|Which animals live in {c}?|Is there a {w} in {c}?
        |Is {c} left of {d}?|Is {c} bigger than {d}?|Which is smaller, {c} or {d}?|What is next to {c}?
        |What is the biggest city of {c}?|What colour is the flag of {c}?|Is {p} in the picture?|Where is {p}?
        |How many children does {p} have?|Can {p} fly?|What kind of thing is {w}?|What colour is the sky on Mars?
        |Is there life on Mars?|How many fish live in the sea?|How many countries are there?|Is {w} red?
        |What is the biggest animal in the world?|Which is the smallest country?|Which countries are next to {c}?
        |Can {w} be eaten?|Can {w} fly?|Does the {w} have wheels?|Is the {w} big?|Is the {w} in the top left?
        |Which is bigger, the {w} or the {v}?|What is next to the {w}?|What is left of the {w}?
        |How many {w} are there?|Could you tell me what {w} is?|Can you tell me where {c} is?|Do you know {p}?
        |I wonder what {w} means.|Is it true that {p} is dead?|Would you say {w} is useful?|Do you think {p} is nice?
        |How many months are in a year?|How many hours are in a day?|How many hands does a person have?
        |How many eyes does the {t} have?|How big is a {t} usually?|What is the favourite colour of the {t}?
        |In which country does the {t} live?|How many {t} are there in the world?|What is in the {t}?
        |What is hidden under the {t}?|Which {t} is the most expensive?|Who has the biggest {t}?
        |Is the {t} cheaper than the {w}?|Is the {t} cleverer than people?|How many {t} do I have at home?
        |Where is my {t}?|What is your background?|How big are you?|What colour are you?|Are you in the picture?
        |What was in the picture yesterday?|What is in the next picture?|What is outside of the picture?
        |What was this drawn with?|How large is the file?|How much does this picture cost?
        |Why is the background like that?|What is the background music?|What time is it in the picture?
        |What is the weather in the picture?|Which city is in the picture?|Which season is it in the picture?
        |How many words are in the picture?|Where do colours come from?|Which colour is the most beautiful?
        |Which one do you like best?|Which one tastes better?|Which one is faster?|Which one is more expensive?
        |Which is heavier?|What is its name?|How heavy is it?|How old is it?|Whose is it?|What is it doing?
        |What is the other one called?|Is the {t} a boy or a girl?|Is the {t} old or new?|Is the {t} left alone?""",
}
_COUNTRIES = {
    "zh": """
        法国 中国 美国 日本 德国 英国 俄罗斯 印度 巴西 意大利 加拿大 澳大利亚 韩国 埃及 墨西哥 西班牙 泰国 越南
        瑞士 希腊 北京 上海 巴黎 伦敦 纽约 东京
    """,
    "en": """
        France China America Japan Germany England Russia India Brazil Italy Canada Australia Korea Egypt Mexico
        Spain Thailand Vietnam Switzerland Greece Beijing Shanghai Paris London Tokyo Berlin
    """,
}
_PEOPLE = {
    "zh": """
        爱因斯坦 牛顿 李白 杜甫 孔子 鲁迅 莎士比亚 达芬奇 拿破仑 贝多芬 莫扎特 姚明 小明 小红 妈妈 爸爸 老师
        王老师 医生 秦始皇 居里夫人 图灵
    """,
    "en": """
        Einstein Newton Shakespeare Napoleon Beethoven Mozart Confucius Leonardo Picasso Tom Mary John Alice Bob
        Darwin Gandhi Tesla Turing Caesar Plato Obama Lincoln
    """,
}
_WORDS = {
    "zh": """
        人工智能 数学 物理 化学 历史 哲学 音乐 篮球 游泳 跳舞 电影 小说 诗歌 咖啡 茶 米饭 面条 饺子 豆腐 牛奶
        面包 巧克力 电话 互联网 银行 医院 学生 警察 司机 爱情 友谊 幸福 时间 空气 石头 河流 森林 海洋 沙漠 火山
        宇宙 独角兽 龙 凤凰 外星人 机器人 狮身人面像 长城 地图 眼镜 剪刀 毛巾 牙刷 肥皂 冰箱 洗衣机 汽油 黄金
        钻石 股票 量子力学 相对论 红楼梦 西游记 春节 月饼 手套 裤子 袜子 老鹰 鸵鸟 考拉
    """,
    "en": """
        mathematics physics chemistry history philosophy music basketball swimming dancing movies novels poetry
        coffee tea rice noodles dumplings tofu milk bread chocolate internet bank hospital student police driver
        love friendship happiness time air stone river forest ocean desert volcano universe unicorn dragon
        phoenix alien sphinx map glasses scissors towel toothbrush soap refrigerator gasoline gold diamond
        stocks quantum relativity gravity photosynthesis democracy inflation Python JavaScript algorithm engine
        eagle ostrich koala gloves trousers socks violin drum helmet ladder mirror microscope telescope keyboard
    """,
}
_TEMPLATES = dict(zip(OUTSIDE_KINDS, (_GREETINGS, _KNOWLEDGE, _TASKS, _MORE), strict=True))


def _split(items: list[str], held_out: bool) -> list[str]:
    return [item for number, item in enumerate(items) if (number % 4 == 3) == held_out]


_SPLIT = {
    (kind, language, held_out): _split([each.strip() for each in texts[language].split("|")], held_out)
    for kind, texts in _TEMPLATES.items()
    for language in texts
    for held_out in (False, True)
}
_ALIKE = {language: [each.strip() for each in texts.split("|")] for language, texts in _LOOKALIKES.items()}
_FILLERS = {
    (name, language, held_out): _split(words[language].split(), held_out)
    for name, words in (("c", _COUNTRIES), ("p", _PEOPLE), ("w", _WORDS))
    for language in words
    for held_out in (False, True)
}


def _filled(language: str, rng: random.Random, template: str, held_out: bool) -> str:
    words = {name: rng.choice(_FILLERS[name, language, held_out]) for name in "cpw"}
    thing = rng.choice(THINGS)
    return template.format(
        **words,
        d=rng.choice(_FILLERS["c", language, held_out]),
        v=rng.choice(_FILLERS["w", language, held_out]),
        t=thing.chinese if language == "zh" else thing.name,
        n=rng.randint(2, 99),
        m=rng.randint(2, 99),
    )


def training_outside(language: str, rng: random.Random) -> str:
    """A question of training; sometimes words at random, or letters."""
    way = rng.random()
    if way < 0.08:  # a word in a row of others
        words = rng.sample(_FILLERS["w", language, False], rng.randint(1, 4))
        return ("" if language == "zh" else " ").join(words)
    if way < 0.1:
        return rng.choice(("...", "……", "？", "?", "！！！", "!!", "。。。", "-", "1", "123", "：）", ":)"))
    if way < 0.13:
        alphabet = string.ascii_lowercase if language == "en" else "天地人大小上下来去见日月水火木金土左右中国"
        words = ["".join(rng.choices(alphabet, k=rng.randint(2, 8))) for _ in range(rng.randint(1, 4))]
        return ("" if language == "zh" else " ").join(words)
    if way < 0.2 and language == "en":  # words that letters spell, in sentences of this world
        word = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 8)))
        return rng.choice(("Where is the {}?", "What is {}?", "Is there a {}?", "How many {}s are there?")).format(
            word
        )
    if way < 0.45 and isinstance(rng, WideRandom):
        template = rng.choice(_ALIKE[language])
    else:
        template = rng.choice(_SPLIT[rng.choice(OUTSIDE_KINDS), language, False])
    text = _filled(language, rng, template, False)
    return opened(text, language, rng) if isinstance(rng, WideRandom) and rng.random() < 0.2 else text


def held_out_outside(language: str, rng: random.Random, kind: str | None = None) -> str:
    """A question that training has not seen, of one of `OUTSIDE_KINDS`."""
    kind = kind or rng.choice(OUTSIDE_KINDS)
    return _filled(language, rng, rng.choice(_SPLIT[kind, language, True]), True)
