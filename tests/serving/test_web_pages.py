"""Guards the web pages along a person's way through them, in a headless Chromium.

A screenshot of each tab at its end is kept in the folder that VISCPM_SCREENSHOTS names, else in pytest's temporary
one. The tests wait for what a page shows, never for a time.
"""

import asyncio
import os
import re
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

gradio = pytest.importorskip("gradio", reason="the pages need the extra demo")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
uvicorn = pytest.importorskip("uvicorn")

from fastapi.responses import Response  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402
from paint import UNSAFE, prompt_checker_parts  # noqa: E402

from viscpm_hf import UnsafeContentError, VisCPMChat, VisCPMPaint  # noqa: E402
from viscpm_hf.serving.batcher import DrainingError, QueueFullError  # noqa: E402
from viscpm_hf.serving.engine import Engine, PromptTooLongError  # noqa: E402
from viscpm_hf.serving.pages import create_pages  # noqa: E402
from viscpm_hf.serving.pages.around import AroundPages  # noqa: E402
from viscpm_hf.serving.pages.chat import Turn, _turns  # noqa: E402
from viscpm_hf.serving.pages.common import ticking  # noqa: E402
from viscpm_hf.serving.pages.texts import LANGUAGES, OF_GRADIO, TEXTS, Words  # noqa: E402
from viscpm_hf.tiny import GUIDANCE_SCALE, PICTURES, tiny_chat_repo, tiny_paint_repo  # noqa: E402

CAT = PICTURES / "1_cat_and_apple.png"
FISH = PICTURES / "3_two_fish.png"
FORBIDDEN = (1, 2, 3)  # colour of a picture that is refused


def test_every_text_is_in_both_languages():
    for name, texts in TEXTS.items():
        english, chinese = (set(re.findall(r"\{(\w+)\}", text)) for text in texts)
        assert len(texts) == len(LANGUAGES) and all(texts) and english == chinese, name
    assert all(re.search("[\u4e00-\u9fff]", text) for text in OF_GRADIO.values())


@pytest.mark.parametrize("language", LANGUAGES)
def test_errors_are_sentences(language):
    words = Words(language)
    errors = [
        QueueFullError("64 requests wait", 3.2),
        DrainingError("stopping"),
        TimeoutError(),
        PromptTooLongError("long"),
        UnsafeContentError("unsafe"),
        ValueError("Got 3, expected 4."),
        RuntimeError("a secret"),
    ]
    texts = [words.of_error(error) for error in errors]
    assert len(set(texts)) == len(texts) and not any("secret" in text or "{" in text for text in texts)
    assert all(bool(re.search("[\u4e00-\u9fff]", text)) == (language == "zh") for text in texts)
    assert "4" in texts[0]


def test_a_conversation_that_the_pages_have_not_made_is_refused():
    """The browser keeps it, and anybody can write to it."""
    kept = [["a", "b", None], ["c", "", "d"]]
    assert _turns(kept) == [Turn(*turn) for turn in kept] and _turns(None) == []
    for wrong in (5, "abc", [1], [["a"]], [["a", 2, None]], [["a", "b", 3]], {"a": 1}, [[None, "b", None]]):
        with pytest.raises(ValueError, match="clear it"):
            _turns(wrong)


def test_ticks_between_items_and_closing():
    closed = []

    async def items():
        try:
            yield 1
            await asyncio.sleep(0.2)
            yield 2
            await asyncio.sleep(60)
        finally:
            closed.append(True)

    async def read():
        found, ticks = [], ticking(items(), asyncio.Event(), 0.05)
        async for item in ticks:
            found.append(item)
            if found[-2:] == [2, None]:
                break
        await ticks.aclose()
        return found

    found = asyncio.run(read())
    assert found[0] == 1 and found.count(None) >= 3 and closed == [True]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        if found is None and not Path(driver.chromium.executable_path).exists():
            pytest.skip("there is no Chromium")
        camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        started = driver.chromium.launch(executable_path=found, args=["--no-sandbox", *camera])
        yield started
        started.close()


class Checker:
    def check(self, pictures):
        if pictures[0].getpixel((0, 0)) == FORBIDDEN:
            raise UnsafeContentError("no")


class Brake:
    """Lets so many pieces of an answer, or steps of a picture, go by and holds the next until it is released."""

    def __init__(self):
        self.left, self.released = None, threading.Event()

    def hold(self, after):
        self.left = after
        self.released.clear()

    def release(self):
        self.left = None
        self.released.set()

    def __call__(self, cancelled=lambda: False):
        if self.left == 0:
            while not self.released.wait(0.02) and not cancelled():
                pass
        elif self.left:
            self.left -= 1


CHAT, PAINT = Brake(), Brake()


@pytest.fixture(autouse=True)
def released():
    yield
    CHAT.release()
    PAINT.release()


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """Both tiny models, with a real check of prompts, and one of pictures that knows a colour."""
    chat = VisCPMChat(tiny_chat_repo(), image_safety_checker=False)
    chat.image_safety_checker = Checker()
    answers = chat.answers

    def braked(items, on_piece=None, cancelled=None, **options):
        def after_a_while(*piece):
            CHAT(lambda: all(map(cancelled, range(len(items)))))
            on_piece(*piece)

        return answers(items, on_piece and after_a_while, cancelled, **options)

    chat.answers = braked
    painter = VisCPMPaint(tiny_paint_repo(), image_safety_checker=False, prompt_safety_checker=False, add_ranker=False)
    paint = painter.paint

    def painted_slowly(*prompts, callback_on_step_end, **options):
        def after_a_while(*step):
            PAINT()
            return callback_on_step_end(*step)

        return paint(*prompts, callback_on_step_end=after_a_while, **options)

    painter.paint = painted_slowly
    parts = prompt_checker_parts(tmp_path_factory.mktemp("checker"), "草地上有一只猫", UNSAFE)
    for name, part in parts.items():
        setattr(painter.pipeline, name, part)
    made = Engine(chat, painter, painting={"guidance": GUIDANCE_SCALE})
    yield made
    made.close()


@pytest.fixture(scope="module")
def address(engine):
    """Of a server with the pages."""
    questions = [
        (CAT, "Where is the cat?", "猫在哪里？"),
        (FISH, "How many fish?", "有几条鱼？"),
    ]
    app = create_pages(engine, questions=questions, prompts=[("a cat on the grass", "草地上有一只猫")])
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def visit(browser, address, tmp_path, request):
    """Opens a page in a tab of its own; whatever it asks of others than the server, and its errors, fail the test."""
    contexts, wrong = [], []

    def visit(path, locale="zh-CN", **options):
        options = {"viewport": {"width": 1280, "height": 860}, "permissions": ["camera"], **options}
        context = browser.new_context(locale=locale, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(100_000)
        own = (address, "data:", "blob:")
        page.on("request", lambda one: one.url.startswith(own) or wrong.append(one.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"{address}{path}")
        page.wait_for_selector("#question .submit-button, #prompt textarea")
        # for upload()
        page.evaluate(
            """() => {
                const clear = chat.clear
                chat.clears = 0
                chat.clear = () => { chat.clears += 1; return clear.call(chat) }
            }"""
        )
        return page

    yield visit
    folder = Path(os.environ.get("VISCPM_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    for number, context in enumerate(contexts):
        for page in context.pages:
            page.screenshot(path=folder / f"{request.node.name}_{number}.png", full_page=True)
        context.close()
    assert not wrong


def ask(page, question):
    page.wait_for_selector("#question .submit-button")  # no answer is under way
    page.fill("#question textarea", question)
    page.press("#question textarea", "Enter")


def said(page, count):
    """The texts of the conversation, once there are so many and the last one is complete."""
    page.wait_for_function("count => document.querySelectorAll('#talk .message-content').length == count", arg=count)
    page.wait_for_selector("#question .submit-button")
    return [text.strip() for text in page.locator("#talk .message-content").all_inner_texts()]


def holds(page, text):
    """Until the field for questions holds a text."""
    page.wait_for_function("text => document.querySelector('#question textarea').value == text", arg=text)


def waits_for(condition):
    end = time.monotonic() + 100
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


def upload(page, path):
    """Until the page has begun a conversation about it."""
    clears = page.evaluate("chat.clears")
    page.set_input_files("#picture input[type=file]", path)
    page.wait_for_function("clears => chat.clears > clears && !chat.busy", arg=clears)


def test_a_conversation_in_chinese(visit, engine):
    """The browser's language leads there; a picture, two turns, another answer, undo, clear."""
    page = visit("/")
    assert "/zh/chat/" in page.url
    upload(page, CAT)
    ask(page, "猫在哪里？")
    assert said(page, 2) == ["猫在哪里？", "猫在左上角。"]
    ask(page, "它是什么颜色的？")
    turns = ["猫在哪里？", "猫在左上角。", "它是什么颜色的？", "它是黄色的。"]
    assert said(page, 4) == turns
    answered = engine.batchers["chat"].counters.requests["answered"]
    page.click("#regenerate")
    waits_for(lambda: engine.batchers["chat"].counters.requests["answered"] > answered)
    assert said(page, 4) == turns
    page.click("#undo")
    page.wait_for_function("document.querySelectorAll('#talk .message-content').length == 2")
    holds(page, "它是什么颜色的？")
    page.click("#clear")
    page.wait_for_selector("#talk .example")
    upload(page, FISH)
    ask(page, "图里有几条鱼？")
    assert said(page, 2) == ["图里有几条鱼？", "图里有两条鱼。"]


def test_examples_and_every_way_to_choose_an_answer(visit):
    page = visit("/en/chat/")
    page.click("#talk .example >> nth=0")
    assert said(page, 2) == ["Where is the cat?", "The cat is in the top left."]
    page.click("#settings button >> nth=0")
    for way in ("Beam search (3 beams), shown when complete", "Sampling"):
        page.click(f"#method label:has-text('{way}')")
        page.click("#clear")
        page.wait_for_selector("#talk .example")
        ask(page, "What colour is the apple?")
        assert said(page, 2) == ["What colour is the apple?", "The apple is red."]
    page.fill("#seed textarea", "minus one")
    ask(page, "What colour is the apple?")
    assert "2⁶⁴" in page.inner_text("#notice .notice")


def test_stopping_keeps_what_has_come(visit, engine):
    page = visit("/zh/chat/")
    CHAT.hold(3)
    ask(page, "描述一下这张图片。")
    page.wait_for_selector("#talk .bot :text-matches('^[^思]{2}')")
    page.click("#question .stop-button")
    (_, answer) = said(page, 2)
    waits_for(lambda: not engine.batchers["chat"].busy)  # the model, too
    CHAT.release()
    assert 0 < len(answer) < 20
    ask(page, "猫在哪里？")
    assert len(said(page, 4)) == 4


def test_two_tabs_do_not_mix_and_a_closed_one_stops(visit, engine):
    first, second = visit("/zh/chat/"), visit("/en/chat/", "en-US")
    upload(second, FISH)
    CHAT.hold(1)
    ask(first, "猫在哪里？")
    ask(second, "How many fish are there?")
    for page in (first, second):
        page.wait_for_selector("#question .stop-button")
    CHAT.release()
    assert said(first, 2) == ["猫在哪里？", "猫在左上角。"]
    assert said(second, 2) == ["How many fish are there?", "There are two fish."]
    before = engine.batchers["chat"].counters.requests["cancelled"]
    CHAT.hold(1)
    ask(second, "Describe the picture.")
    second.wait_for_selector("#question .stop-button")
    waits_for(lambda: engine.batchers["chat"].busy)
    second.close()
    waits_for(lambda: engine.batchers["chat"].counters.requests["cancelled"] > before)


def test_what_is_written_while_an_answer_comes_stays(visit):
    """And is sent once it is there; Enter before does nothing, Shift+Enter begins a line."""
    page = visit("/en/chat/", "en-US")
    CHAT.hold(1)
    ask(page, "What colour is the cat?")
    page.wait_for_selector("#question .stop-button")
    page.keyboard.type("Where is")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("it?")
    page.keyboard.press("Enter")
    CHAT.release()
    assert said(page, 2) == ["What colour is the cat?", "The cat is yellow."]
    holds(page, "Where is\nit?")
    page.keyboard.press("Enter")
    assert said(page, 4)[2] == "Where is\nit?"
    holds(page, "")


def test_another_picture_ends_the_answer_about_the_last(visit, engine):
    page = visit("/zh/chat/")
    before = engine.batchers["chat"].counters.requests["cancelled"]
    CHAT.hold(1)
    ask(page, "描述一下这张图片。")
    page.wait_for_selector("#question .stop-button")
    upload(page, FISH)
    page.wait_for_selector("#talk .message-content", state="detached")
    waits_for(lambda: engine.batchers["chat"].counters.requests["cancelled"] > before)
    CHAT.release()
    ask(page, "图里有几条鱼？")
    assert said(page, 2) == ["图里有几条鱼？", "图里有两条鱼。"]


def test_a_large_and_a_moving_picture(visit, tmp_path):
    """30 megapixels; of a GIF the first frame."""
    with Image.open(FISH) as fish, Image.open(CAT) as cat:
        fish.convert("RGB").resize((6000, 5000)).save(tmp_path / "large.jpg")
        fish.save(tmp_path / "moving.gif", save_all=True, append_images=[cat])
    page = visit("/zh/chat/")
    for name in ("large.jpg", "moving.gif"):
        upload(page, tmp_path / name)
        ask(page, "图里有几条鱼？")
        assert said(page, 2) == ["图里有几条鱼？", "图里有两条鱼。"]


def test_a_slow_network(visit):
    """Enter while the picture is on its way leaves the question where it is; one sent is seen at once."""
    page = visit("/zh/chat/")
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    slow = {"offline": False, "latency": 300, "downloadThroughput": 50_000, "uploadThroughput": 1000}
    network.send("Network.emulateNetworkConditions", slow)
    clears = page.evaluate("chat.clears")
    page.set_input_files("#picture input[type=file]", FISH)
    page.wait_for_selector("#picture .uploading")
    ask(page, "图里有几条鱼？")
    page.wait_for_selector("#notice:has-text('还在上传')")
    holds(page, "图里有几条鱼？")
    network.send("Network.emulateNetworkConditions", {**slow, "uploadThroughput": 50_000})
    page.wait_for_function("clears => chat.clears > clears", arg=clears)
    page.press("#question textarea", "Enter")
    assert said(page, 2) == ["图里有几条鱼？", "图里有两条鱼。"]


def test_reloading_ends_the_answer_and_going_back_works(visit, engine):
    page = visit("/zh/chat/")
    before = engine.batchers["chat"].counters.requests["cancelled"]
    CHAT.hold(1)
    ask(page, "描述一下这张图片。")
    page.wait_for_selector("#question .stop-button")
    waits_for(lambda: engine.batchers["chat"].busy)
    page.reload()
    waits_for(lambda: engine.batchers["chat"].counters.requests["cancelled"] > before)
    CHAT.release()
    page.click("nav a >> text=文生图")
    page.wait_for_selector("#prompt textarea")
    page.go_back()
    page.wait_for_selector("#talk .example")
    ask(page, "猫在哪里？")
    assert said(page, 2) == ["猫在哪里？", "猫在左上角。"]


@pytest.mark.parametrize("path", ["chat", "paint"])
def test_on_a_phone_nothing_is_cut_off(visit, path):
    """Also in the dark; settings come last."""
    phone = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True}
    page = visit(f"/en/{path}/", "zh-CN", **phone)
    page.tap("#talk .example >> nth=0" if path == "chat" else "#examples button >> nth=0")
    page.wait_for_selector("#talk .message-content >> nth=1" if path == "chat" else "#details .details")
    page.wait_for_selector("#question .submit-button" if path == "chat" else "#paint:enabled")
    page.tap("#settings button >> nth=0")
    page.wait_for_selector("#settings input[type=range]")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    wide = """() => [...document.querySelectorAll("main *")].filter((each) => each.checkVisibility()
        && each.getBoundingClientRect().width && each.getBoundingClientRect().right > innerWidth + 1
        && !each.closest("svg, .sr-only, .visually-hidden")).map((each) => each.outerHTML.slice(0, 100))"""
    assert page.evaluate(wide) == []
    assert page.evaluate("document.body.classList.contains('dark') || document.querySelector('.dark') != null")
    below = "#question" if path == "chat" else "#pictures"
    assert page.locator("#settings").bounding_box()["y"] > page.locator(below).bounding_box()["y"]


def test_a_failing_engine_is_a_sentence(visit, engine, monkeypatch):
    """On both pages, and the pages go on."""
    errors = {
        torch.OutOfMemoryError("CUDA out of memory"): "内存",
        TimeoutError(): "时限",
        RuntimeError("a secret"): "服务器出错了",
        QueueFullError("64 requests wait", 3.2): "排队的人太多",
    }
    chat, paint = visit("/zh/chat/"), visit("/zh/paint/")
    for error, sentence in errors.items():

        async def fails(*_, error=error):
            raise error
            yield

        with monkeypatch.context() as failing:
            failing.setattr(engine, "stream_answer", fails)
            failing.setattr(engine, "stream_picture", fails)
            ask(chat, "猫在哪里？")
            paint.fill("#prompt textarea", "草地上有一只猫")
            paint.press("#prompt textarea", "Enter")
            for page in (chat, paint):
                page.wait_for_selector(f"#notice:has-text('{sentence}')")
            paint.wait_for_selector("#paint:enabled")
        said(chat, 0)
        holds(chat, "猫在哪里？")
    chat.press("#question textarea", "Enter")
    assert said(chat, 2) == ["猫在哪里？", "猫在左上角。"]


@pytest.mark.slow
def test_what_cannot_be_answered_is_said_in_the_pages_language(visit, tmp_path):
    """A refused, a huge and a broken picture, and a question too long; each question stays in its field."""
    Image.new("RGB", (64, 64), FORBIDDEN).save(tmp_path / "unsafe.png")
    Image.new("1", (20000, 10000)).save(tmp_path / "huge.png")
    (tmp_path / "broken.png").write_bytes(CAT.read_bytes()[:300])
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (64, 64)).save(tmp_path / "scan.tiff")
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    page = visit("/zh/chat/")
    unread = dict.fromkeys(["broken.png", "text.png", "scan.tiff", "phone.heic"], "无法读取")
    sentences = {"unsafe.png": "图片未通过安全检查", "huge.png": "不超过 40 百万像素", **unread}
    for name, sentence in sentences.items():
        upload(page, tmp_path / name)
        ask(page, "图里有什么？")
        page.wait_for_selector(f"#notice:has-text('{sentence}')")
        holds(page, "图里有什么？")
    upload(page, CAT)
    ask(page, "红色" * 3000)
    page.wait_for_selector("#notice:has-text('超过了模型能读的长度')")
    page.wait_for_selector("#question .submit-button")
    page.fill("#question textarea", "")
    page.click("#question .submit-button")
    page.wait_for_selector("#notice:has-text('请先输入问题')")


def test_a_picture_from_the_camera_or_pasted(visit):
    page = visit("/zh/chat/")
    page.click("#picture [aria-label='移除图片']")
    page.click("#picture [aria-label='用摄像头拍照']")
    page.click("#picture button:has-text('点击打开摄像头')")
    page.wait_for_function("document.querySelector('#picture video').readyState >= 2")  # something is to be seen
    page.click("#picture [aria-label='拍照']")
    page.wait_for_selector("#picture img[src*=file]")
    ask(page, "图里有什么？")
    assert len(said(page, 2)) == 2
    page.evaluate(
        """async (address) => {
            const data = new DataTransfer(), picture = await (await fetch(address)).blob();
            data.items.add(new File([picture], "pasted.png", {type: "image/png"}));
            document.body.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
        }""",
        page.get_attribute("#picture img[src*=file]", "src"),
    )
    page.wait_for_selector("#picture img[src*=pasted]")
    page.wait_for_selector("#talk .example")


def test_text_is_shown_as_it_is(visit):
    page, text = visit("/zh/chat/"), "<img src=/x onerror=alert(1)> **a** $$b$$ a &lt; b"
    ask(page, text)
    page.wait_for_selector("#talk .message-content")
    assert page.locator("#talk .message-content").first.inner_text().strip() == text
    assert page.locator("#talk .message-content img").count() == 0


def test_without_a_picture_it_says_so(visit):
    page = visit("/en/chat/", "en-US")
    assert "tiny model" in page.inner_text("header")
    page.click("#picture button[aria-label='Remove Image']")
    ask(page, "What is in the picture?")
    said(page, 2)
    assert page.inner_text("#notice") == "There is no picture: only the question is answered."


@pytest.mark.slow
def test_painting(visit):
    """Progress with previews, the seed used again, another, and a prompt that is blocked."""
    page = visit("/zh/paint/")
    page.fill("#prompt textarea", "草地上有一只猫")
    page.click("#paint")  # with settings that were never looked at, 50 steps
    page.wait_for_selector("#details:has-text('草地上有一只猫')")
    page.fill("#prompt textarea", "夜空中有一枚火箭")
    page.click("#settings button >> nth=0")
    page.fill("#number input[type=number]", "2")
    page.fill("#seed textarea", "7")
    PAINT.hold(7)  # so that the previews are there to be seen
    page.click("#paint")
    page.wait_for_selector("#stage .previews img >> nth=1")
    page.wait_for_selector("#stage :text('第 7 / 50 步')")
    PAINT.release()
    page.wait_for_selector("#details:has-text('种子 7')")
    page.wait_for_selector("#stage .stage", state="detached")
    page.wait_for_selector("#pictures img >> nth=2")
    page.click("#pictures img >> nth=1")
    page.wait_for_selector("#details:has-text('种子 8')")
    page.click("#reuse")
    page.wait_for_function("document.querySelector('#seed textarea').value == '8'")
    page.fill("#seed textarea", "9")
    page.click("#scheduler label:has-text('DPM++')")
    page.wait_for_function("document.querySelector('#steps input').value == '20'")
    page.click("#paint")
    page.wait_for_selector("#details:has-text('种子 9 · DPM++ 20 步')")
    page.fill("#prompt textarea", UNSAFE)
    page.click("#paint")
    page.wait_for_selector("#notice:has-text('提示词未通过安全检查')")
    page.fill("#prompt textarea", "  ")
    page.click("#paint")
    page.wait_for_selector("#notice:has-text('请先输入提示词')")


def test_the_same_seed_paints_the_same_picture(visit):
    """To the last bit, in another tab, too; Enter paints."""
    pictures = []
    for _ in range(2):
        page = visit("/en/paint/", "en-US")
        page.click("#settings button >> nth=0")
        page.fill("#seed textarea", "7")
        page.fill("#steps input[type=number]", "5")
        page.fill("#prompt textarea", "a cat on the grass")
        page.press("#prompt textarea", "Enter")
        page.wait_for_selector("#details:has-text('seed 7 · 5 steps')")
        pictures.append(page.request.get(page.get_attribute("#pictures img", "src")).body())
    assert pictures[0] == pictures[1] and len(pictures[0]) > 100


def test_painting_is_stopped(visit, engine):
    page = visit("/en/paint/", "en-US")
    page.fill("#prompt textarea", "a cat on the grass")
    PAINT.hold(3)
    before = engine.batchers["paint"].counters.requests["cancelled"]
    page.click("#paint")
    page.wait_for_selector("#stage .bar:not(.unknown)")
    page.click("#stop")
    page.wait_for_selector("#stage .stage", state="detached")
    page.wait_for_selector("#stop", state="hidden")
    page.wait_for_selector("#paint:enabled")
    page.wait_for_selector("#notice:has-text('Stopped')")
    PAINT.release()
    waits_for(lambda: engine.batchers["paint"].counters.requests["cancelled"] > before)


def test_who_lacks_the_password_sees_nothing(engine):
    """One for all pages, by any name; what is no page is let through, and has a key of its own."""

    async def api(scope, receive, send):
        await Response("the API")(scope, receive, send)

    client = TestClient(create_pages(engine, api, password="密码"), headers={"Accept-Language": "fr, zh;q=0.5"})
    assert client.get("/health").text == "the API"
    assert client.get("/", follow_redirects=False).headers["location"] == "zh/chat/"
    for path in ("/zh/chat/", "/en/paint/config", "/en/paint/gradio_api/upload"):
        assert client.get(path).status_code == client.post(path).status_code == 401
        assert client.get(path, auth=("me", "wrong")).status_code == 401
    assert "VisCPM" in client.get("/zh/chat/", auth=("me", "密码")).text


def test_open_tabs_do_not_keep_a_server_from_stopping(engine):
    """Else its end would be waited for; the request is taken for hung up once the engine drains."""

    async def page(scope, receive, send):
        found.append((await receive())["type"])

    class Draining:
        ready, timeout = False, None

    async def never():
        await asyncio.sleep(60)

    found, scope = [], {"type": "http", "method": "GET", "path": "/zh/chat/gradio_api/heartbeat/x", "headers": []}

    def run():
        asyncio.run(AroundPages(page, Draining, 1000, None)(scope, never, None))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    assert found == ["http.disconnect"]


def test_every_word_is_in_the_pages_language(visit):
    """Also what gradio says, in a browser of another language."""
    left = {"VisCPM", "English", "token", "DDPM", "DPM", "Top"}
    for path in ("/zh/chat/", "/zh/paint/"):
        page = visit(path, "en-US")
        if "chat" in path:
            page.click("#picture [aria-label='移除图片']")
        page.click("#settings button >> nth=0")
        page.wait_for_selector("#settings input[type=range]")
        found = page.evaluate("""() => [...document.querySelectorAll("body *")].flatMap((element) => [
            ...["aria-label", "title", "placeholder", "alt"].map((name) => element.getAttribute(name) || ""),
            ...[...element.childNodes].filter((node) => node.nodeType == 3 && !/SCRIPT|STYLE/.test(element.tagName))
                .map((node) => node.textContent)])""")
        words = {word for text in found for word in re.findall("[A-Za-z]{3,}", text)}
        assert words - left <= {"Chat", "Paint"}, path
    page.click("nav a[lang=en]")
    page.wait_for_selector("h1:has-text('Paint a picture')")
    assert not re.search("[\u4e00-\u9fff]", page.inner_text("body").replace("中文", "").replace("草地上有一只猫", ""))
